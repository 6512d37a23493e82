//! Permissions of a file, without set-id and sticky bits.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;

/// The permissions of a file: at most `0777`. In JSON, a string of four octal digits, the first of which is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// The permissions of a new file.
    pub const NEW_FILE: Self = Self(0o644);

    /// Returns the permissions in the mode of a file. Other bits are dropped.
    pub fn from_mode(mode: u32) -> Self {
        Self(mode & 0o777)
    }

    /// Returns the permissions as the low bits of a mode.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3 && rest.bytes().all(|digit| digit.is_ascii_digit()));
        let bits = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
        bits.map(Self).ok_or_else(|| de::Error::custom(format!("{text:?} is not a mode between 0000 and 0777")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_is_four_octal_digits_without_high_bits() {
        assert_eq!(serde_json::from_str::<Permissions>("\"0750\"").unwrap(), Permissions(0o750));
        assert_eq!(serde_json::to_string(&Permissions::from_mode(0o104_600)).unwrap(), "\"0600\"");
        for json in ["\"4755\"", "\"755\"", "\"00755\"", "\"0+75\"", "\"0798\"", "420", "\"\""] {
            assert!(serde_json::from_str::<Permissions>(json).is_err(), "{json}");
        }
    }
}
