//! The argument vector of a capability: literal arguments, and parameters that are substituted by type.
//!
//! A parameter becomes one whole argument, or an explicit list of them. No text is pasted into other text, and no shell is
//! involved. A value that begins with `-` is refused unless the manifest accepts it, so that no value becomes an option.

use crate::schema::Schema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An element of the argument vector of a capability.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Argument {
    /// A literal argument, in which no character has a special meaning.
    Literal(String),
    /// The value of a parameter.
    Substituted(Substitution),
}

/// A parameter that becomes arguments. An absent parameter becomes none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Substitution {
    /// The name of the parameter.
    parameter: String,
    /// Literal arguments before the value, such as an option. For a boolean, the only arguments if the value is true.
    #[serde(default)]
    before: Vec<String>,
    /// The parameter is an array, and each element becomes one argument.
    #[serde(default)]
    list: bool,
    /// The arguments for each value of the parameter, instead of the value.
    #[serde(default)]
    choices: Option<BTreeMap<String, Vec<String>>>,
    /// A value may begin with `-`.
    #[serde(default)]
    allow_dash: bool,
}

/// The reason why a value cannot become an argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {reason}")]
pub struct ArgumentError {
    /// The JSON pointer of the value.
    pub pointer: String,
    /// The cause.
    pub reason: &'static str,
}

impl TryFrom<toml::Value> for Argument {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) if text.contains('\0') => Err("an argument cannot contain a NUL character".to_owned()),
            toml::Value::String(text) => Ok(Self::Literal(text)),
            toml::Value::Table(table) => table.try_into().map(Self::Substituted).map_err(|error| error.message().to_owned()),
            _ => Err("an argument is a string, or a table with the key `parameter`".to_owned()),
        }
    }
}

impl Argument {
    /// Compares a substitution with the schema of the parameters.
    ///
    /// # Errors
    /// A message, if the parameter is missing in the schema or has a type that cannot be substituted in this way.
    pub(super) fn check(&self, parameters: &Schema) -> Result<(), String> {
        let Self::Substituted(substitution) = self else { return Ok(()) };
        let Substitution { parameter, before, list, choices, .. } = substitution;
        let wrong = |problem: &str| Err(format!("the argument for the parameter {parameter:?}: {problem}"));
        let Some(property) = parameters.property(parameter) else {
            return wrong("the schema has no such property");
        };
        let mut literals = choices.iter().flat_map(BTreeMap::values).chain([before]).flatten();
        if literals.any(|text| text.contains('\0')) {
            return wrong("an argument cannot contain a NUL character");
        }
        let kind = |schema: &Value| schema.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_scalar = |kind: &str| ["string", "integer"].contains(&kind);
        match (kind(property).as_str(), list, choices) {
            ("array", true, None) if property.get("items").is_some_and(|items| is_scalar(&kind(items))) => Ok(()),
            ("boolean", false, None) if !before.is_empty() => Ok(()),
            ("string", false, Some(choices)) => {
                let values = property.get("enum").and_then(Value::as_array).into_iter().flatten().map(Value::as_str);
                let values: Option<Vec<_>> = values.collect();
                let known = values.is_some_and(|values| {
                    !values.is_empty() && values.len() == choices.len() && values.iter().all(|value| choices.contains_key(*value))
                });
                if known { Ok(()) } else { wrong("`choices` must have one entry for each value of its `enum`") }
            }
            (kind, false, None) if is_scalar(kind) => Ok(()),
            _ => wrong(
                "its type must be a string, an integer, an array of them with `list = true`, a boolean with `before`, or an enum of \
                 strings with `choices`",
            ),
        }
    }

    /// Adds the arguments for these parameters to `argv`. The parameters must be valid.
    ///
    /// # Errors
    /// [`ArgumentError`] for a value that begins with `-`, or contains a NUL character.
    pub(super) fn fill(&self, parameters: &Map<String, Value>, argv: &mut Vec<String>) -> Result<(), ArgumentError> {
        let Substitution { parameter, before, choices, allow_dash, .. } = match self {
            Self::Literal(text) => {
                argv.push(text.clone());
                return Ok(());
            }
            Self::Substituted(substitution) => substitution,
        };
        let value = match parameters.get(parameter) {
            None | Some(Value::Bool(false)) => return Ok(()),
            Some(value) => value,
        };
        argv.extend_from_slice(before);
        let pointer = pointer_of(parameter);
        let at = |pointer: String| move |reason| ArgumentError { pointer, reason };
        match (value, choices) {
            (Value::Bool(_), _) => {}
            (Value::Array(values), _) => {
                for (index, value) in values.iter().enumerate() {
                    argv.push(text(value, *allow_dash).map_err(at(format!("{pointer}/{index}")))?);
                }
            }
            (value, Some(choices)) => match value.as_str().and_then(|value| choices.get(value)) {
                Some(chosen) => argv.extend_from_slice(chosen),
                None => return Err(at(pointer)("the value is none of the choices")),
            },
            (value, None) => argv.push(text(value, *allow_dash).map_err(at(pointer))?),
        }
        Ok(())
    }
}

/// Returns the JSON pointer of a member of the parameters.
pub(super) fn pointer_of(parameter: &str) -> String {
    format!("/{}", parameter.replace('~', "~0").replace('/', "~1"))
}

/// Returns the argument for a string or an integer.
fn text(value: &Value, allow_dash: bool) -> Result<String, &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        // JSON Schema counts 1.0 as an integer.
        Value::Number(number) if number.is_f64() => return Err("write the integer without a fraction or exponent"),
        Value::Number(number) => number.to_string(),
        _ => return Err("the value is neither a string nor an integer"),
    };
    match text {
        text if text.contains('\0') => Err("the value contains a NUL character"),
        text if text.starts_with('-') && !allow_dash => Err("the value begins with `-`, and would become an option"),
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Deserialize)]
    struct Vector {
        argv: Vec<Argument>,
    }

    fn schema() -> Schema {
        let texts = json!({ "type": "array", "items": { "type": "string" } });
        Schema::new(json!({ "type": "object", "additionalProperties": false, "properties": {
            "file": { "type": "string" }, "files": texts, "count": { "type": "integer" }, "all": { "type": "boolean" },
            "mode": { "type": "string", "enum": ["a", "b"] }, "object": { "type": "object", "additionalProperties": false } } }))
        .unwrap()
    }

    fn argv(vector: &str, parameters: Value) -> Result<Vec<String>, String> {
        let Vector { argv } = toml::from_str(&format!("argv = {vector}")).map_err(|error| error.to_string())?;
        argv.iter().try_for_each(|argument| argument.check(&schema()))?;
        let mut filled = Vec::new();
        let parameters = parameters.as_object().unwrap();
        argv.iter().try_for_each(|argument| argument.fill(parameters, &mut filled)).map_err(|error| error.to_string())?;
        Ok(filled)
    }

    #[test]
    fn value_becomes_one_whole_argument_whatever_it_contains() {
        let text = "a b; $(touch x) `id` \"'\n{file} ${file}";
        let filled = argv(r#"["cat", "{file}", { parameter = "file" }]"#, json!({ "file": text })).unwrap();
        assert_eq!(filled, ["cat", "{file}", text]);
        let lists = r#"["cat", { parameter = "files", list = true, before = ["--"] }]"#;
        assert_eq!(argv(lists, json!({ "files": ["a b", ""] })).unwrap(), ["cat", "--", "a b", ""]);
        assert_eq!(argv(lists, json!({})).unwrap(), ["cat"]);
    }

    #[test]
    fn value_that_begins_with_a_dash_is_no_option_unless_the_manifest_accepts_it() {
        for (vector, parameters, pointer) in [
            (r#"["cat", { parameter = "file" }]"#, json!({ "file": "--help" }), "/file"),
            (r#"["cat", { parameter = "file", before = ["-f"] }]"#, json!({ "file": "-" }), "/file"),
            (r#"["cat", { parameter = "files", list = true }]"#, json!({ "files": ["a", "-x"] }), "/files/1"),
            (r#"["head", { parameter = "count" }]"#, json!({ "count": -1 }), "/count"),
        ] {
            let refused = argv(vector, parameters.clone()).unwrap_err();
            assert!(refused.starts_with(&format!("{pointer}: the value begins with `-`")), "{refused}");
            let accepted = vector.replace("{ ", "{ allow-dash = true, ");
            assert!(argv(&accepted, parameters).is_ok(), "{accepted}");
        }
        assert!(argv(r#"[{ parameter = "file" }]"#, json!({ "file": "a\u{0}b" })).unwrap_err().contains("NUL"));
        assert!(argv(r#"[{ parameter = "count" }]"#, json!({ "count": 1.0 })).unwrap_err().contains("fraction"));
    }

    #[test]
    fn flags_and_choices_are_those_of_the_manifest() {
        let flag = r#"["ls", { parameter = "all", before = ["-a"] }]"#;
        assert_eq!(argv(flag, json!({ "all": true })).unwrap(), ["ls", "-a"]);
        assert_eq!(argv(flag, json!({ "all": false })).unwrap(), ["ls"]);
        let choice = r#"[{ parameter = "mode", choices = { a = ["python3", "-"], b = [] } }, "x"]"#;
        assert_eq!(argv(choice, json!({ "mode": "a" })).unwrap(), ["python3", "-", "x"]);
        assert_eq!(argv(choice, json!({ "mode": "b" })).unwrap(), ["x"]);
    }

    #[test]
    fn substitution_that_does_not_fit_the_schema_is_refused() {
        for vector in [
            r#"[{ parameter = "missing" }]"#,
            r#"[{ parameter = "files" }]"#,
            r#"[{ parameter = "file", list = true }]"#,
            r#"[{ parameter = "all" }]"#,
            r#"[{ parameter = "object" }]"#,
            r#"[{ parameter = "mode", choices = { a = [] } }]"#,
            r#"[{ parameter = "file", choices = { a = [] } }]"#,
            r#"[{ parameter = "file", shell = true }]"#,
            r#"[{ }]"#,
            r#"[1]"#,
            "[\"a\\u0000\"]",
        ] {
            assert!(argv(vector, json!({})).is_err(), "{vector}");
        }
    }
}
