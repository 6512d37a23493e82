//! Names of sandboxes and snapshots. The name of a sandbox is also the name of its directory, so no other path syntax is
//! accepted.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, path::Path, str::FromStr};

/// Maximum length of a name, in bytes.
const MAX_BYTES: usize = 64;

/// The name of a sandbox or of a snapshot: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, the first a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name {0:?} — use 1 to 64 characters of a-z, 0-9, '.', '_' and '-', the first a letter or a digit")]
pub struct NotAName(pub String);

impl Name {
    /// Returns the name of the snapshot that records the state in which a sandbox was created.
    pub fn created() -> Self {
        Self("created".to_owned())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = text.len() <= MAX_BYTES
            && text.bytes().next().is_some_and(letter_or_digit)
            && text.bytes().all(|byte| letter_or_digit(byte) || b"._-".contains(&byte));
        if good { Ok(Self(text)) } else { Err(NotAName(text)) }
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_are_refused() {
        for good in ["a", "0", "web-1.old_2", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "_a", "a/b", "/", "A", "a b", "a\0", "a\n", "ä", "a@b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Name>(), Err(NotAName(bad.to_owned())));
            assert!(serde_json::from_value::<Name>(bad.into()).is_err(), "{bad:?}");
        }
    }
}
