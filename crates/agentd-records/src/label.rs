//! Labels: short texts in records.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The maximum length of a label in bytes.
pub(crate) const MAX_LABEL: usize = 512;

/// A short text without control characters: a name, an identifier, a reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Label(String);

/// The text is not a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a label has 1 to 512 bytes and no control characters")]
pub struct InvalidLabel;

impl TryFrom<String> for Label {
    type Error = InvalidLabel;

    fn try_from(text: String) -> Result<Self, InvalidLabel> {
        let good = !text.is_empty() && text.len() <= MAX_LABEL && !text.contains(char::is_control);
        if good { Ok(Self(text)) } else { Err(InvalidLabel) }
    }
}

impl TryFrom<&str> for Label {
    type Error = InvalidLabel;

    fn try_from(text: &str) -> Result<Self, InvalidLabel> {
        text.to_owned().try_into()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
