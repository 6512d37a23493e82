//! Names of layers. The name is a random number, because the content of a layer has no digest while it changes.

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use std::{fmt, io, path::Path, str::FromStr};

/// The name of a layer: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(u64);

/// The text is not the name of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid layer id {0:?} — use 16 digits of 0-9 and a-f")]
pub struct NotALayerId(pub String);

impl LayerId {
    /// Chooses a random 64-bit name. A collision with another layer is negligible.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 8];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(u64::from_ne_bytes(bytes)))
    }

    /// Parses the last component of `path` as the name of a layer.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        path.file_name()?.to_str()?.parse().ok()
    }
}

impl FromStr for LayerId {
    type Err = NotALayerId;

    fn from_str(text: &str) -> Result<Self, NotALayerId> {
        let parsed = u64::from_str_radix(text, 16).ok().map(Self);
        // Only the canonical form is accepted: no sign, no capital letters, all 16 digits.
        parsed.filter(|id| id.to_string() == text).ok_or_else(|| NotALayerId(text.to_owned()))
    }
}

impl TryFrom<String> for LayerId {
    type Error = NotALayerId;

    fn try_from(text: String) -> Result<Self, NotALayerId> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_id_has_one_valid_spelling() {
        assert_eq!("00000000000000ff".parse(), Ok(LayerId(255)));
        for bad in ["", "ff", "+0000000000000ff", "00000000000000FF", "00000000000000000ff", "../../../../../x"] {
            assert!(bad.parse::<LayerId>().is_err(), "{bad:?}");
        }
    }
}
