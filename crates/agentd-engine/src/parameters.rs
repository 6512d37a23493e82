//! The parameters of a request, from bytes.

use agentd_records::json::{self, JsonError};
use serde_json::{Map, Value};

/// The longest parameters in bytes.
pub const MAX_PARAMETERS: usize = 16 << 20;

/// The reason why parameters are refused before they are compared with a schema.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// The text is too long. It was not parsed.
    #[error("parameters: longer than 16 MiB — pass large content in a file of the workspace")]
    TooLong,
    /// The text is not JSON, is nested too deeply (128 levels), or has a key twice in an object.
    #[error("parameters: {0}")]
    Json(#[from] JsonError),
    /// The text is not an object.
    #[error("parameters: not an object — write for example {{\"command\": \"ls\"}}")]
    NotObject,
}

/// Parses the parameters of a request. No object of them has a key twice.
///
/// # Errors
/// [`ParametersError`].
pub fn parse_parameters(bytes: &[u8]) -> Result<Map<String, Value>, ParametersError> {
    if bytes.len() > MAX_PARAMETERS {
        return Err(ParametersError::TooLong);
    }
    match json::parse::<Value>(bytes)? {
        Value::Object(parameters) => Ok(parameters),
        _ => Err(ParametersError::NotObject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_deep_and_ambiguous_parameters_are_refused() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_parameters(nested(100).as_bytes()).is_ok());
        assert!(matches!(parse_parameters(nested(100_000).as_bytes()), Err(ParametersError::Json(_))));
        for text in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"\u0062":2}}"#, "{", "", "{\"a\":\"\u{1}\"}", r#"{"a":1e999}"#] {
            assert!(matches!(parse_parameters(text.as_bytes()), Err(ParametersError::Json(_))), "{text}");
        }
        assert!(matches!(parse_parameters(b"[]"), Err(ParametersError::NotObject)));
        assert!(matches!(parse_parameters(&vec![b' '; MAX_PARAMETERS + 1]), Err(ParametersError::TooLong)));
    }
}
