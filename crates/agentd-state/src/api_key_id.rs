//! Identifiers of API keys.

use data_encoding::HEXLOWER;
use std::{fmt, str::FromStr};

/// The identifier of an API key: 64 random bits, which are no secret. Its text form has 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKeyId([u8; 8]);

/// The text is not the identifier of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identifier of an API key has 16 lower-case hexadecimal digits")]
pub struct InvalidApiKeyId;

impl ApiKeyId {
    /// Returns the identifier of these random bytes.
    pub fn of(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for ApiKeyId {
    type Err = InvalidApiKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidApiKeyId> {
        HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(InvalidApiKeyId)
    }
}
