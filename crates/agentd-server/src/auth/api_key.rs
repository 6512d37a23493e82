//! The text of an API key: `agentd_ID_SECRET`. The secret has 32 random bytes; the first four bytes of the SHA-256 digest of the
//! text before them follow as a checksum. All numbers are lower-case hexadecimal, so that a key has one form:
//! `agentd_[0-9a-f]{16}_[0-9a-f]{72}`.

use agentd_records::ContentDigest;
use agentd_state::ApiKeyId;
use data_encoding::HEXLOWER;
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use sha2::{Digest as _, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// The beginning by which programs that search for secrets find a key.
const PREFIX: &str = "agentd_";

/// The length of the secret in bytes.
const SECRET: usize = 32;

/// The length of the checksum in bytes.
const CHECKSUM: usize = 4;

/// The length of a key: prefix, identifier, `_`, secret and checksum.
const LENGTH: usize = PREFIX.len() + 16 + 1 + 2 * (SECRET + CHECKSUM);

/// An API key with its secret, which is overwritten in memory when the value is dropped.
pub struct ApiKey {
    id: ApiKeyId,
    text: Zeroizing<String>,
}

/// The text is not an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key: wrong form or checksum — copy the whole line that `agentd key create` has printed")]
pub struct InvalidApiKey;

/// Prints no secret, because messages are logged in this form.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, hidden)", self.id)
    }
}

impl ApiKey {
    /// Returns a new key.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn random() -> Result<Self, Errno> {
        let (mut id, mut secret) = ([0; 8], Zeroizing::new([0; SECRET]));
        fill(&mut id)?;
        fill(&mut *secret)?;
        let id = ApiKeyId::of(id);
        // With its whole length from the start: a text that grows leaves copies in memory.
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(PREFIX);
        text.push_str(&id.to_string());
        text.push('_');
        HEXLOWER.encode_append(&*secret, &mut text);
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Ok(Self { id, text })
    }

    /// Parses a key.
    ///
    /// # Errors
    /// [`InvalidApiKey`] if the form or the checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let rest = text.strip_prefix(PREFIX).filter(|_| text.len() == LENGTH && text.is_ascii()).ok_or(InvalidApiKey)?;
        let (id, secret) = rest.split_once('_').ok_or(InvalidApiKey)?;
        let id = id.parse().map_err(|_| InvalidApiKey)?;
        let is_hexadecimal = secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let (summed, sum) = text.split_at_checked(LENGTH - 2 * CHECKSUM).ok_or(InvalidApiKey)?;
        if !is_hexadecimal || checksum(summed) != sum {
            return Err(InvalidApiKey);
        }
        Ok(Self { id, text: Zeroizing::new(text.to_owned()) })
    }

    /// Returns the identifier, which is no secret.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// Returns the digest that is stored. A slow function is not needed: nobody guesses 256 random bits, not even from their
    /// digest.
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::of(self.text.as_bytes())
    }

    /// Returns the digest of the key after a context, which nobody computes without the key.
    pub(super) fn derived(&self, context: &[u8]) -> Zeroizing<[u8; SECRET]> {
        let digest = Sha256::new().chain_update(context).chain_update(self.text.as_bytes()).finalize();
        Zeroizing::new(digest.into())
    }

    /// Returns the whole key.
    pub fn secret_text(&self) -> &str {
        &self.text
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), Errno> {
    // Up to 256 bytes are returned at once (`man 2 getrandom`).
    getrandom(bytes, GetRandomFlags::empty()).map(drop)
}

fn checksum(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    HEXLOWER.encode(digest.get(..CHECKSUM).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_parsed_from_its_text_only() {
        let key = ApiKey::random().unwrap();
        let text = key.secret_text().to_owned();
        assert_eq!(text.len(), 96);
        let parsed = ApiKey::parse(&text).unwrap();
        assert_eq!((parsed.id(), parsed.digest()), (key.id(), key.digest()));
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            assert!(ApiKey::parse(&String::from_utf8(other).unwrap()).is_err(), "changed at {at}");
            assert!(ApiKey::parse(&text[..at]).is_err(), "cut at {at}");
        }
        for other in [text.to_uppercase(), format!("{text}0"), format!(" {text}"), text.replace('_', "-"), "é".repeat(48)] {
            assert!(ApiKey::parse(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn two_keys_differ_and_no_debug_form_has_the_secret() {
        let (one, other) = (ApiKey::random().unwrap(), ApiKey::random().unwrap());
        assert_ne!(one.digest(), other.digest());
        let secret = one.secret_text().rsplit_once('_').unwrap().1.to_owned();
        assert!(!format!("{one:?}").contains(&secret[..8]));
    }
}
