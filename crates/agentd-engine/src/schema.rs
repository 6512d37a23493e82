//! JSON Schemas (2020-12) of parameters and results.
//!
//! A reference leads to a definition at the top of the schema, and a definition contains no reference. Validation therefore
//! fetches nothing and always ends. Patterns are regular expressions without backtracking. Messages about a value do
//! not contain the value.

use jsonschema::{
    Draft, PatternOptions, ValidationError, Validator,
    error::ValidationErrorKind::{AnyOf, Constant, Enum, OneOfMultipleValid, OneOfNotValid, Type},
};
use serde_json::Value;
use std::fmt;

/// The maximum number of violations that are reported.
const MAX_VIOLATIONS: usize = 32;

/// The maximum length of a message in characters.
const MAX_MESSAGE: usize = 300;

/// A schema that was checked and compiled.
pub struct Schema {
    text: Value,
    validator: Validator,
}

/// The reason why a schema is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is not a JSON Schema.
    #[error("{0}")]
    Invalid(String),
    /// The schema does not describe an object.
    #[error("the schema does not describe an object — state type = \"object\"")]
    NotObject,
    /// An object accepts unknown fields.
    #[error("the object at {0:?} accepts unknown fields — state additionalProperties = false, or a schema for them")]
    Open(String),
    /// The schema has a reference to another place than a definition, or another keyword that begins with `$`.
    #[error("the member {0:?} is not supported — refer only to `#/$defs/NAME`, and not within a definition")]
    Reference(String),
}

/// All violations of a schema by a value. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations {
    /// The violations, at most 32.
    pub list: Vec<Violation>,
    /// True if there are more.
    pub more: bool,
}

/// One violation of a schema.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// The JSON pointer (RFC 6901) of the value.
    pub pointer: String,
    /// The rule that the value violates.
    pub message: String,
}

impl Schema {
    /// Checks and compiles a schema of an object.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub fn new(text: Value) -> Result<Self, SchemaError> {
        if text.get("type").and_then(Value::as_str) != Some("object") {
            return Err(SchemaError::NotObject);
        }
        refuse_references(&text)?;
        refuse_open_objects(&text, "")?;
        for (name, definition) in text.get("$defs").and_then(Value::as_object).into_iter().flatten() {
            refuse_open_objects(definition, &format!("/$defs/{name}"))?;
        }
        let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(false);
        let options = options.with_pattern_options(PatternOptions::regex());
        let validator = options.build(&text).map_err(|error| SchemaError::Invalid(cut(&error.to_string())))?;
        Ok(Self { text, validator })
    }

    /// Returns the text of the schema.
    pub fn text(&self) -> &Value {
        &self.text
    }

    /// Returns the schema of a property, if the schema names it.
    pub(crate) fn property(&self, name: &str) -> Option<&Value> {
        self.text.get("properties")?.get(name)
    }

    /// Validates a value.
    ///
    /// # Errors
    /// All violations at once.
    pub fn validate(&self, value: &Value) -> Result<(), Violations> {
        let mut errors = self.validator.iter_errors(value);
        let violation = |error: ValidationError<'_>| Violation {
            pointer: error.instance_path().to_string(),
            message: cut(&self.rule(&error)),
        };
        let list: Vec<_> = errors.by_ref().take(MAX_VIOLATIONS).map(violation).collect();
        if list.is_empty() { Ok(()) } else { Err(Violations { list, more: errors.next().is_some() }) }
    }
}

impl Schema {
    /// Returns the rule that a value violates, without the value.
    fn rule(&self, error: &ValidationError<'_>) -> String {
        match error.kind() {
            AnyOf { context } | OneOfNotValid { context } => self.unmet_forms(error, context),
            OneOfMultipleValid { .. } => match self.required_by_forms(&error.schema_path().to_string()) {
                Some(names) => format!("only one of {} may be stated", names.join(", ")),
                None => "fits several forms, of which only one may be used".to_owned(),
            },
            _ => error.masked().to_string(),
        }
    }

    /// Returns what is wrong with a value that has none of the forms of its schema. Only the forms that the value comes closest
    /// to are mentioned: those with an error below the value, rather than one of the value itself, or of its type or kind.
    fn unmet_forms(&self, error: &ValidationError<'_>, forms: &[Vec<ValidationError<'static>>]) -> String {
        let at = error.instance_path().to_string();
        let is_of_value = |error: &ValidationError<'_>| error.instance_path().as_str() == at;
        let distance = |form: &&Vec<ValidationError<'static>>| {
            let is_other = |error: &ValidationError<'_>| match error.kind() {
                Constant { .. } | Enum { .. } => true,
                Type { .. } => is_of_value(error),
                _ => false,
            };
            (form.iter().any(is_other), form.iter().any(is_of_value))
        };
        let closest = forms.iter().map(|form| distance(&form)).min();
        let meant = forms.iter().filter(|form| Some(distance(form)) == closest);
        let rule = |inner: &ValidationError<'static>| {
            let pointer = inner.instance_path().to_string();
            match pointer.strip_prefix(&at) {
                Some("") | None => self.rule(inner),
                Some(below) => format!("{below}: {}", self.rule(inner)),
            }
        };
        let form = |errors: &Vec<ValidationError<'static>>| errors.iter().map(rule).collect::<Vec<_>>().join(", ");
        meant.map(form).collect::<Vec<_>>().join(", or ")
    }

    /// Returns the properties that the forms at a place of the schema require, if each form requires some.
    fn required_by_forms(&self, pointer: &str) -> Option<Vec<String>> {
        let forms = self.text.pointer(pointer)?.as_array()?;
        let names = forms.iter().map(|form| form.get("required")?.as_array().map(|names| names.iter().map(Value::to_string)));
        Some(names.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.text)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Violation { pointer, message }) in self.list.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{}: {message}", if pointer.is_empty() { "the whole" } else { pointer.as_str() })?;
        }
        f.write_str(if self.more { "; …" } else { "" })
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Refuses every `$ref`, except one that is outside of `$defs` and names a definition in `$defs`. References cannot be recursive.
fn refuse_references(schema: &Value) -> Result<(), SchemaError> {
    fn refuse(value: &Value, allowed: bool) -> Result<(), SchemaError> {
        let members = value.as_object().into_iter().flatten();
        let mut elements = value.as_array().into_iter().flatten();
        for (name, value) in members {
            let is_definition = |value: &Value| {
                let name = value.as_str().and_then(|reference| reference.strip_prefix("#/$defs/"));
                name.is_some_and(|name| !name.is_empty() && !name.contains(['/', '~', '%']))
            };
            let known = ["$schema", "$comment"].contains(&name.as_str()) || (allowed && name == "$ref" && is_definition(value));
            if name.starts_with('$') && !known {
                return Err(SchemaError::Reference(name.clone()));
            }
            refuse(value, allowed)?;
        }
        elements.try_for_each(|value| refuse(value, allowed))
    }
    let Some(members) = schema.as_object() else { return Ok(()) };
    if let Some(definitions) = members.get("$defs") {
        refuse(definitions, false)?;
    }
    let others = members.iter().filter(|(name, _)| *name != "$defs").map(|(name, value)| (name.clone(), value.clone()));
    refuse(&Value::Object(others.collect()), true)
}

/// Refuses a schema of an object that says nothing about unknown fields, or accepts any. Looks into properties and items.
fn refuse_open_objects(schema: &Value, pointer: &str) -> Result<(), SchemaError> {
    let is_object = schema.get("properties").is_some() || schema.get("type").is_some_and(|kind| kind == "object");
    let others = schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
    if is_object && !others.is_some_and(|others| *others == Value::Bool(false) || others.is_object()) {
        return Err(SchemaError::Open(pointer.to_owned()));
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        refuse_open_objects(property, &format!("{pointer}/properties/{name}"))?;
    }
    let mut inner = ["items", "additionalProperties"].into_iter().filter_map(|name| Some((name, schema.get(name)?)));
    inner.try_for_each(|(name, inner)| refuse_open_objects(inner, &format!("{pointer}/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(properties: Value) -> Value {
        json!({ "type": "object", "additionalProperties": false, "properties": properties })
    }

    #[test]
    fn all_violations_are_reported_with_pointers_and_without_values() {
        let text = json!({ "type": "object", "additionalProperties": false, "required": ["c"], "properties": {
            "a": { "type": "integer" }, "b": { "type": "array", "items": { "type": "string", "pattern": "^x+$" } } } });
        let schema = Schema::new(text).unwrap();
        let violations = schema.validate(&json!({ "a": 1, "b": ["xx"], "c": 1 })).unwrap_err();
        let names_c = |violation: &Violation| violation.message.contains("'c'") || violation.message.contains("\"c\"");
        assert!(violations.list.iter().all(names_c), "{violations:?}");
        let violations = schema.validate(&json!({ "a": "canary", "b": ["x", "canary"], "d": "canary" })).unwrap_err();
        let pointers: Vec<_> = violations.list.iter().map(|violation| violation.pointer.as_str()).collect();
        assert!(["/a", "/b/1", ""].iter().all(|pointer| pointers.contains(pointer)), "{violations:?}");
        let text = violations.to_string();
        assert!(text.contains("'d'") && text.contains("\"c\"") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn value_without_any_form_is_told_what_each_form_needs() {
        let mut text = schema(json!({
            "a": { "type": "string" },
            "b": { "type": "string" },
            "edit": { "oneOf": [
                { "type": "object", "additionalProperties": false, "required": ["kind", "old"],
                  "properties": { "kind": { "const": "text" }, "old": { "type": "string" } } },
                { "type": "object", "additionalProperties": false, "required": ["kind", "line"],
                  "properties": { "kind": { "const": "line" }, "line": { "type": "integer", "minimum": 1 } } },
            ] },
        }));
        text["oneOf"] = json!([{ "required": ["a"] }, { "required": ["b"] }]);
        let schema = Schema::new(text).unwrap();
        for (value, expected) in [
            (json!({}), r#"the whole: "a" is a required property, or "b" is a required property"#),
            (json!({ "a": "canary", "b": "canary" }), r#"the whole: only one of "a", "b" may be stated"#),
            (json!({ "a": "", "edit": { "kind": "line", "line": 0 } }), "/edit: /line: value is less than the minimum of 1"),
            (json!({ "a": "", "edit": { "kind": "text" } }), r#"/edit: "old" is a required property"#),
            (json!({ "a": "", "edit": { "kind": "text", "old": 1 } }), r#"/edit: /old: value is not of type "string""#),
        ] {
            assert_eq!(schema.validate(&value).unwrap_err().to_string(), expected);
        }
        let neither = schema.validate(&json!({ "a": "", "edit": "canary" })).unwrap_err().to_string();
        assert!(neither.starts_with("/edit: ") && neither.contains("object") && !neither.contains("canary"), "{neither}");
    }

    #[test]
    fn number_and_length_of_messages_are_bounded() {
        let schema = Schema::new(schema(json!({ "a": { "type": "array", "items": { "type": "null" } } }))).unwrap();
        let violations = schema.validate(&json!({ "a": vec![0; 1000] })).unwrap_err();
        assert_eq!((violations.list.len(), violations.more), (MAX_VIOLATIONS, true));
        let name = "n".repeat(100_000);
        assert!(schema.validate(&json!({ name: 1 })).unwrap_err().to_string().len() < 2000);
    }

    #[test]
    fn schema_that_accepts_unknown_fields_or_refers_elsewhere_is_refused() {
        let open = json!({ "a": { "type": "object" } });
        assert!(matches!(Schema::new(schema(open)), Err(SchemaError::Open(at)) if at == "/properties/a"));
        let open = json!({ "a": { "type": "array", "items": { "properties": {}, "additionalProperties": true } } });
        assert!(matches!(Schema::new(schema(open)), Err(SchemaError::Open(_))));
        assert!(matches!(Schema::new(json!({ "type": "object" })), Err(SchemaError::Open(_))));
        for text in [json!(true), json!({}), json!({ "type": "string" })] {
            assert!(matches!(Schema::new(text), Err(SchemaError::NotObject)));
        }
        for (member, value) in
            [("$ref", "#"), ("$ref", "https://a.example/"), ("$dynamicRef", "#/$defs/a"), ("$id", "a"), ("$defs", "a")]
        {
            let text = schema(json!({ "a": { member: value } }));
            assert!(matches!(Schema::new(text), Err(SchemaError::Reference(_))), "{member}");
        }
        let mut text = schema(json!({ "a": { "$ref": "#/$defs/a" } }));
        text["$defs"] = json!({ "a": { "type": "string" } });
        assert!(Schema::new(text.clone()).unwrap().validate(&json!({ "a": 1 })).is_err());
        text["$defs"] = json!({ "a": { "$ref": "#/$defs/a" } });
        assert!(matches!(Schema::new(text), Err(SchemaError::Reference(_))));
        assert!(matches!(Schema::new(schema(json!({ "a": { "type": "nothing" } }))), Err(SchemaError::Invalid(_))));
        assert!(matches!(Schema::new(schema(json!({ "a": { "pattern": "(?=a)" } }))), Err(SchemaError::Invalid(_))));
    }
}
