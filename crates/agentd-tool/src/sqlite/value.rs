//! Values of SQLite in JSON.

use crate::byte_string::ByteString;
use data_encoding::BASE64;
use rusqlite::types::{Value as Bound, ValueRef};
use serde::Deserialize;
use serde_json::{Value, json};

/// Translates the value of a parameter.
pub(super) fn from_json(value: &Value) -> Result<Bound, String> {
    match value {
        Value::Null => Ok(Bound::Null),
        Value::String(text) => Ok(Bound::Text(text.clone())),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(Bound::Integer(integer)),
            (None, Some(real)) if !number.is_u64() => Ok(Bound::Real(real)),
            _ => Err(format!("{number} is not a 64-bit integer — send it as text")),
        },
        Value::Object(_) => match ByteString::deserialize(value) {
            Ok(bytes) => Ok(Bound::Blob(bytes.0)),
            Err(_) => Err("an object must have the form {\"base64\": \"…\"} — correct it".to_owned()),
        },
        Value::Bool(_) | Value::Array(_) => {
            Err("the value must be null, a number, a string or a blob — send 0 or 1 for a boolean".to_owned())
        }
    }
}

/// Translates a value of a row.
pub(super) fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => integer.into(),
        ValueRef::Real(real) if real.is_finite() => json!(real),
        // SQLite has no NaN.
        ValueRef::Real(real) => json!({"real": if real > 0.0 { "inf" } else { "-inf" }}),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => text.into(),
            Err(_) => json!({"text_base64": BASE64.encode(text)}),
        },
        ValueRef::Blob(blob) => json!({"base64": BASE64.encode(blob)}),
    }
}

/// Returns the number of bytes for which a value counts.
pub(super) fn size(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 8,
    }
}
