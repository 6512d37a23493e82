//! The types of the parameters of a capability, from their JSON Schema to the types of Cedar.

use cedar_policy::RestrictedExpression;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The depth of a JSON Schema below which parameters are hidden from policies.
const MAX_DEPTH: u32 = 16;

/// The type of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParameterType {
    /// A string.
    Text,
    /// An integer between −2⁶³ and 2⁶³ − 1.
    Integer,
    /// A boolean.
    Flag,
    /// An array. Policies see a set, without order and repetitions.
    List(Box<ParameterType>),
    /// An object with known members.
    Record(ParameterRecord),
    /// A value that policies do not see: a value of a type that Cedar lacks, or a secret (`writeOnly`).
    Hidden,
}

/// The members of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ParameterRecord {
    /// The type of each member, and whether it is always present.
    members: BTreeMap<String, (ParameterType, bool)>,
    /// True if the object may have other members, which policies do not see.
    open: bool,
}

/// The reason why a value does not have its type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter {pointer}: {problem}")]
pub(crate) struct WrongParameter {
    pointer: String,
    problem: &'static str,
}

impl ParameterRecord {
    /// Reads the JSON Schema of an object.
    pub(crate) fn from_json_schema(schema: &Value) -> Self {
        Self::at(schema, 0)
    }

    fn at(schema: &Value, depth: u32) -> Self {
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let members = schema["properties"].as_object().into_iter().flatten().map(|(name, schema)| {
            let (is, nullable) = ParameterType::at(schema, depth + 1);
            (name.clone(), (is, required.contains(&name.as_str()) && !nullable))
        });
        let open = !matches!(schema.get("additionalProperties"), None | Some(Value::Bool(false)));
        Self { members: members.collect(), open }
    }

    /// Returns the Cedar schema of the record.
    pub(crate) fn cedar_type(&self) -> Value {
        let attributes = self.members.iter().filter_map(|(name, (is, required))| {
            let mut is = is.cedar_type()?;
            is["required"] = Value::Bool(*required);
            Some((name.clone(), is))
        });
        json!({ "type": "Record", "attributes": attributes.collect::<Map<_, _>>() })
    }

    /// Returns the values as Cedar sees them.
    ///
    /// # Errors
    /// [`WrongParameter`] for a value that is missing, has a wrong type, or is not declared.
    pub(crate) fn value(&self, values: &Map<String, Value>) -> Result<RestrictedExpression, WrongParameter> {
        self.value_at(values, "")
    }

    fn value_at(&self, values: &Map<String, Value>, pointer: &str) -> Result<RestrictedExpression, WrongParameter> {
        let below = |name: &str| format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
        let wrong = |name: &str, problem| Err(WrongParameter { pointer: below(name), problem });
        if let Some(unknown) = values.keys().find(|name| !self.open && !self.members.contains_key(*name)) {
            return wrong(unknown, "not declared by the capability");
        }
        let mut pairs = Vec::new();
        for (name, (is, required)) in &self.members {
            match values.get(name) {
                None | Some(Value::Null) if *required && *is != ParameterType::Hidden => return wrong(name, "missing"),
                None | Some(Value::Null) => {}
                Some(value) => pairs.extend(is.value(value, &below(name))?.map(|value| (name.clone(), value))),
            }
        }
        // Names are unique in a map, which is the only condition of this call.
        RestrictedExpression::new_record(pairs)
            .map_err(|_| WrongParameter { pointer: pointer.to_owned(), problem: "a name is repeated" })
    }
}

impl ParameterType {
    /// Returns the type, and true if null is allowed.
    fn at(schema: &Value, depth: u32) -> (Self, bool) {
        if depth > MAX_DEPTH || schema["writeOnly"] == true {
            return (Self::Hidden, true);
        }
        let (name, nullable) = match &schema["type"] {
            Value::String(name) => (Some(name.as_str()), false),
            Value::Array(names) => {
                let nullable = names.iter().any(|name| name == "null");
                let mut others = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
                (others.next().filter(|_| others.next().is_none()), nullable)
            }
            _ => (None, true),
        };
        let is = match name {
            Some("string") => Self::Text,
            Some("integer") => Self::Integer,
            Some("boolean") => Self::Flag,
            Some("array") => match Self::at(&schema["items"], depth + 1) {
                (Self::Hidden, _) | (_, true) => Self::Hidden,
                (items, false) => Self::List(Box::new(items)),
            },
            Some("object") if schema["properties"].is_object() => Self::Record(ParameterRecord::at(schema, depth)),
            _ => Self::Hidden,
        };
        (is, nullable)
    }

    fn cedar_type(&self) -> Option<Value> {
        Some(match self {
            Self::Text => json!({ "type": "String" }),
            Self::Integer => json!({ "type": "Long" }),
            Self::Flag => json!({ "type": "Boolean" }),
            Self::List(items) => json!({ "type": "Set", "element": items.cedar_type()? }),
            Self::Record(record) => record.cedar_type(),
            Self::Hidden => return None,
        })
    }

    fn value(&self, value: &Value, pointer: &str) -> Result<Option<RestrictedExpression>, WrongParameter> {
        let wrong = |problem| WrongParameter { pointer: pointer.to_owned(), problem };
        Ok(Some(match (self, value) {
            (Self::Hidden, _) => return Ok(None),
            (Self::Text, Value::String(text)) => RestrictedExpression::new_string(text.clone()),
            (Self::Integer, Value::Number(number)) => {
                let number = number.as_i64().ok_or_else(|| wrong("not an integer of 64 bits"))?;
                RestrictedExpression::new_long(number)
            }
            (Self::Flag, Value::Bool(flag)) => RestrictedExpression::new_bool(*flag),
            (Self::List(items), Value::Array(values)) => {
                let each = values.iter().enumerate().map(|(index, value)| {
                    let pointer = format!("{pointer}/{index}");
                    items.value(value, &pointer)?.ok_or(WrongParameter { pointer, problem: "not visible to policies" })
                });
                RestrictedExpression::new_set(each.collect::<Result<Vec<_>, _>>()?)
            }
            (Self::Record(record), Value::Object(values)) => record.value_at(values, pointer)?,
            _ => return Err(wrong("not of the type that the capability declares")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ParameterRecord {
        ParameterRecord::from_json_schema(&json!({
            "required": ["command"],
            "properties": {
                "command": { "type": "string" },
                "count": { "type": ["integer", "null"] },
                "argv": { "type": "array", "items": { "type": "string" } },
                "ratio": { "type": "number" },
                "token": { "type": "string", "writeOnly": true },
                "inner": { "type": "object", "properties": { "flag": { "type": "boolean" } }, "additionalProperties": true },
            },
        }))
    }

    #[test]
    fn json_schema_becomes_the_types_of_cedar() {
        let attributes = json!({
            "command": { "type": "String", "required": true },
            "count": { "type": "Long", "required": false },
            "argv": { "type": "Set", "element": { "type": "String" }, "required": false },
            "inner": { "type": "Record", "attributes": { "flag": { "type": "Boolean", "required": false } }, "required": false },
        });
        assert_eq!(record().cedar_type(), json!({ "type": "Record", "attributes": attributes }));
    }

    #[test]
    fn value_of_another_type_or_without_declaration_is_refused() {
        let value = |value: Value| record().value(value.as_object().unwrap()).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(value(json!({ "command": "x", "count": null, "ratio": 0.5, "token": 1, "inner": { "other": 1 } })), Ok(()));
        for (wrong, problem) in [
            (json!({}), "parameter /command: missing"),
            (json!({ "command": null }), "parameter /command: missing"),
            (json!({ "command": 1 }), "parameter /command: not of the type that the capability declares"),
            (json!({ "command": "x", "count": 1.5 }), "parameter /count: not an integer of 64 bits"),
            (json!({ "command": "x", "count": u64::MAX }), "parameter /count: not an integer of 64 bits"),
            (json!({ "command": "x", "argv": ["a", 1] }), "parameter /argv/1: not of the type that the capability declares"),
            (json!({ "command": "x", "a/b": 1 }), "parameter /a~1b: not declared by the capability"),
        ] {
            assert_eq!(value(wrong), Err(problem.to_owned()));
        }
    }
}
