//! Public keys, each with the period in which it signs.

use crate::{
    note::{KeyId, NoteError, VerifierKey},
    time::{InvalidTimestamp, Timestamp},
};
use std::fmt;

/// The maximum length of a file of public keys, in bytes.
pub const MAX_RING: usize = 64 << 10;

/// A public key, and the period in which it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The key.
    pub verifier: VerifierKey,
    /// The time since which the key signs.
    pub from: Timestamp,
    /// The time at which the key was replaced; `None` while it is in use.
    pub until: Option<Timestamp>,
}

/// Public keys. The text form has one line for each key: the key, the time of its first use, and the time of its replacement.
/// Lines that begin with `#` and empty lines are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing(Vec<PublicKey>);

/// The reason why a text is not a list of public keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The text contains no key.
    #[error("the file has no key")]
    Empty,
    /// The text is too long.
    #[error("the file is longer than 64 KiB")]
    TooLong,
    /// A line does not have the form of a key with its times.
    #[error("line {0}: expected a key, the time of its first use, and, for a replaced key, the time of its replacement")]
    Line(usize),
    /// A key is invalid.
    #[error("line {0}: {1}")]
    Key(usize, NoteError),
    /// A time is invalid.
    #[error("line {0}: {1}")]
    Time(usize, InvalidTimestamp),
    /// Two keys have the same identifier.
    #[error("the key {0} occurs twice")]
    Twice(KeyId),
    /// The keys are not those of one installation.
    #[error("the keys have different names, or a key other than the last one is in use")]
    Mixed,
}

/// The reason why a key cannot have signed at a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyNotInUse {
    /// The time is before the first use of the key.
    #[error("the key {key} was not in use before {from}")]
    Early {
        /// The key.
        key: KeyId,
        /// The time since which it signs.
        from: Timestamp,
    },
    /// The key was replaced before this time.
    #[error("the key {key} was replaced at {until}")]
    Retired {
        /// The key.
        key: KeyId,
        /// The time at which it was replaced.
        until: Timestamp,
    },
}

impl KeyRing {
    /// Parses a file of public keys.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RingError> {
        if bytes.len() > MAX_RING {
            return Err(RingError::TooLong);
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| RingError::Line(bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count()))?;
        let mut ring = Self::default();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let key = PublicKey::parse(number, line)?;
            if ring.find(key.verifier.key_id()).is_some() {
                return Err(RingError::Twice(key.verifier.key_id().clone()));
            }
            ring.push(key);
        }
        if ring.0.is_empty() { Err(RingError::Empty) } else { Ok(ring) }
    }

    /// Returns the keys if they have the same name, and the last one alone is in use.
    pub(crate) fn of_one_installation(self) -> Result<Self, RingError> {
        let Some((last, older)) = self.0.split_last() else { return Err(RingError::Empty) };
        let same = older.iter().all(|key| key.verifier.key_id().name == last.verifier.key_id().name);
        if same && last.until.is_none() && older.iter().all(|key| key.until.is_some()) { Ok(self) } else { Err(RingError::Mixed) }
    }

    /// Returns the keys, the newest last.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// Returns the keys without their times.
    pub fn verifiers(&self) -> impl Iterator<Item = &VerifierKey> + Clone {
        self.0.iter().map(|key| &key.verifier)
    }

    /// Returns the key with this name and identifier.
    pub fn find(&self, id: &KeyId) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.verifier.key_id() == id)
    }

    pub(crate) fn push(&mut self, key: PublicKey) {
        self.0.push(key);
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut PublicKey> {
        self.0.last_mut()
    }
}

impl fmt::Display for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|key| writeln!(f, "{key}"))
    }
}

impl PublicKey {
    fn parse(number: usize, line: &str) -> Result<Self, RingError> {
        let time = |text: &str| text.parse::<Timestamp>().map_err(|error| RingError::Time(number, error));
        let words: Vec<_> = line.split(' ').collect();
        let (key, from, until) = match words[..] {
            [key, from] => (key, from, None),
            [key, from, until] => (key, from, Some(until)),
            _ => return Err(RingError::Line(number)),
        };
        let verifier = key.parse::<VerifierKey>().map_err(|error| RingError::Key(number, error))?;
        Ok(Self { verifier, from: time(from)?, until: until.map(time).transpose()? })
    }

    /// Checks that the key signed at `time`.
    ///
    /// # Errors
    /// [`KeyNotInUse`].
    pub fn check_at(&self, time: Timestamp) -> Result<(), KeyNotInUse> {
        let key = self.verifier.key_id().clone();
        match self.until {
            _ if time < self.from => Err(KeyNotInUse::Early { key, from: self.from }),
            Some(until) if time > until => Err(KeyNotInUse::Retired { key, until }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verifier, self.from)?;
        self.until.iter().try_for_each(|until| write!(f, " {until}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Signer;

    fn line(seed: u8, rest: &str) -> String {
        format!("{} {rest}\n", Signer::new("log.example", &[seed; 32]).unwrap().verifier())
    }

    const FROM: &str = "2026-01-01T00:00:00.000000Z";
    const UNTIL: &str = "2026-02-01T00:00:00.000000Z";

    #[test]
    fn list_of_keys_has_one_form_and_at_least_one_key() {
        let text = line(1, &format!("{FROM} {UNTIL}")) + &line(2, FROM);
        let ring = KeyRing::parse(text.as_bytes()).unwrap();
        assert_eq!(ring.to_string(), text);
        assert_eq!(KeyRing::parse(format!("# comment\n\n{text}").as_bytes()).unwrap(), ring);
        assert!(ring.of_one_installation().is_ok());
        assert_eq!(KeyRing::parse(b"# nothing\n"), Err(RingError::Empty));
        assert!(matches!(KeyRing::parse((line(1, FROM) + &line(1, FROM)).as_bytes()), Err(RingError::Twice(_))));
        assert_eq!(KeyRing::parse(line(1, &format!("{FROM} {FROM} {FROM}")).as_bytes()), Err(RingError::Line(1)));
        assert!(matches!(KeyRing::parse(line(1, "today").as_bytes()), Err(RingError::Time(1, _))));
        assert!(matches!(KeyRing::parse(format!("\nx {FROM}\n").as_bytes()), Err(RingError::Key(2, _))));
        let both = KeyRing::parse((line(1, FROM) + &line(2, FROM)).as_bytes()).unwrap();
        assert_eq!(both.of_one_installation(), Err(RingError::Mixed));
    }

    #[test]
    fn key_signs_only_between_its_times() {
        let ring = KeyRing::parse(line(1, &format!("{FROM} {UNTIL}")).as_bytes()).unwrap();
        let check = |time: &str| ring.keys()[0].check_at(time.parse().unwrap());
        assert_eq!((check(FROM), check(UNTIL)), (Ok(()), Ok(())));
        assert!(matches!(check("2025-12-31T23:59:59.999999Z"), Err(KeyNotInUse::Early { .. })));
        assert!(matches!(check("2026-02-01T00:00:00.000001Z"), Err(KeyNotInUse::Retired { .. })));
    }
}
