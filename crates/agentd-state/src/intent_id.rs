//! Identifiers of intents, and idempotency keys.

use agentd_disk::{DiskError, FileContext as _};
use agentd_records::{ContentDigest, InvalidLabel, Label};
use data_encoding::HEXLOWER;
use rustix::rand::{GetRandomFlags, getrandom};
use std::{fmt, str::FromStr};

/// The longest idempotency key in bytes.
const MAX_KEY: usize = 255;

/// The identifier of an intent: 128 random bits. Its text form has 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId([u8; 16]);

/// The text is not the identifier of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an intent's identifier has 32 lower-case hexadecimal digits")]
pub struct InvalidIntentId;

impl IntentId {
    /// Returns a new identifier.
    ///
    /// # Errors
    /// [`DiskError`] if the kernel returns no random numbers.
    pub(crate) fn random() -> Result<Self, DiskError> {
        let mut bytes = [0; 16];
        getrandom(&mut bytes, GetRandomFlags::empty()).during("getrandom", "")?;
        Ok(Self(bytes))
    }

    /// Returns the identifier as a label of the audit log.
    ///
    /// # Errors
    /// None: the text is short.
    pub fn label(&self) -> Result<Label, InvalidLabel> {
        self.to_string().try_into()
    }
}

impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for IntentId {
    type Err = InvalidIntentId;

    fn from_str(text: &str) -> Result<Self, InvalidIntentId> {
        HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(InvalidIntentId)
    }
}

/// An idempotency key, which its caller chooses. Requests of one principal with the same key are the same intent. The store keeps
/// only the key's digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey(ContentDigest);

/// The text is not an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 255 visible ASCII characters")]
pub struct InvalidKey;

impl IdempotencyKey {
    /// Returns the digest of the key.
    pub fn digest(&self) -> ContentDigest {
        self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let good = (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if good { Ok(Self(ContentDigest::of(text.as_bytes()))) } else { Err(InvalidKey) }
    }
}
