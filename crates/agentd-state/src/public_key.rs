//! Public keys by which the tokens of API keys are verified.

use data_encoding::HEXLOWER;
use std::fmt;

/// A public key of Ed25519. Its text form has 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// The bytes or the text have another length or form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key has 32 bytes, or 64 lower-case hexadecimal digits")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// [`InvalidPublicKey`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPublicKey> {
        HEXLOWER.decode(text.as_bytes()).map_err(|_| InvalidPublicKey).and_then(|bytes| Self::try_from(bytes.as_slice()))
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = InvalidPublicKey;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidPublicKey> {
        bytes.try_into().map(Self).map_err(|_| InvalidPublicKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}
