//! What a user can do about an error.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The separator between the cause and the remedy in a message: `what failed: object: cause — what to do`.
const SEPARATOR: &str = " — ";

/// What a user can do about an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Remedy {
    /// The next step.
    Text(String),
    /// agentd knows no remedy. This variant marks failures that no option, setting or package of a user is known to cause,
    /// such as an unexpected errno of the kernel. The message then ends with the cause.
    None,
}

impl Remedy {
    /// Returns the remedy at the end of a complete message, after ` — `.
    pub fn in_message(message: &str) -> Self {
        message.split_once(SEPARATOR).map_or(Self::None, |(_, remedy)| remedy.to_owned().into())
    }

    /// Returns the text, which is empty for [`Remedy::None`].
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::None => "",
        }
    }

    /// Returns the text, unless there is no remedy.
    pub fn as_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Text(text) => Some(text),
            Self::None => None,
        }
    }
}

/// The end of a message: the separator and the text, or nothing.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{SEPARATOR}{text}"),
            Self::None => Ok(()),
        }
    }
}

/// An empty text means that there is no remedy.
impl From<String> for Remedy {
    fn from(text: String) -> Self {
        if text.is_empty() { Self::None } else { Self::Text(text) }
    }
}

impl From<Remedy> for String {
    fn from(remedy: Remedy) -> Self {
        match remedy {
            Remedy::Text(text) => text,
            Remedy::None => Self::new(),
        }
    }
}
