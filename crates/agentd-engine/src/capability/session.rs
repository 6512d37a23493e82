//! The parameters of a capability that executes code in a session.

use crate::schema::Schema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{fmt, time::Duration};

/// The handle that requests a new session with a handle of its own.
pub const NEW_SESSION: &str = "new";

/// The parameters of a session. Without a handle, the capability runs its command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionTemplate {
    /// The parameter with the handle.
    handle: String,
    /// The parameter with the language.
    language: String,
    /// The parameter with the source of the cell.
    source: String,
}

/// A cell to execute in a session. [`fmt::Debug`] prints no source, because it may contain secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SessionCall {
    /// The handle: letters and digits that the caller has chosen, or [`NEW_SESSION`].
    pub handle: String,
    /// The language.
    pub language: String,
    /// The source of the cell.
    pub source: String,
    /// The time limit that the parameters request.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for SessionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionCall({} in {}, {} bytes)", self.handle, self.language, self.source.len())
    }
}

impl SessionTemplate {
    /// Compares the template with the schema of the parameters.
    ///
    /// # Errors
    /// A message about the first part that does not fit.
    pub(super) fn check(&self, parameters: &Schema) -> Result<(), String> {
        for name in [&self.handle, &self.language, &self.source] {
            if parameters.property(name).and_then(|property| property.get("type")).and_then(Value::as_str) != Some("string") {
                return Err(format!("session: the schema must have a property {name:?} of type string"));
            }
        }
        Ok(())
    }

    /// Returns the cell for valid parameters; `None` if they name no session.
    pub(super) fn fill(&self, parameters: &Map<String, Value>) -> Option<SessionCall> {
        let text = |name: &str| parameters.get(name).and_then(Value::as_str).map(str::to_owned);
        let handle = text(&self.handle)?;
        let (language, source) = (text(&self.language).unwrap_or_default(), text(&self.source).unwrap_or_default());
        Some(SessionCall { handle, language, source, timeout: None })
    }
}
