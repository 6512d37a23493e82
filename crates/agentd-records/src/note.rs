//! Signed notes (<https://c2sp.org/signed-note>), the form of the log's checkpoints.

use crate::base64;
use data_encoding::{BASE64, HEXLOWER};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// The maximum length of a note in bytes: enough for 16 signatures of quantum-resistant witnesses.
pub const MAX_NOTE: usize = 128 << 10;

/// The maximum number of signatures of a note.
const MAX_SIGNATURES: usize = 32;

/// The type of Ed25519 signatures.
const ED25519_TYPE: u8 = 1;

/// The reason why a note, a key or a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The text is not a signed note.
    #[error("not a signed note: {0}")]
    Note(&'static str),
    /// The text is not a public key.
    #[error("not a public key: {0}")]
    Key(&'static str),
    /// The signature of a known key is invalid.
    #[error("the signature of the key {0} is invalid: the text was changed after it was signed")]
    Signature(String),
    /// No known key has signed the note.
    #[error("no known key has signed this text; its signatures name {0}")]
    Unknown(String),
}

/// The name and identifier of a key, as a signature states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId {
    /// The name: the origin of the log.
    pub name: String,
    /// The first bytes of a digest of name and key.
    pub id: [u8; 4],
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.name, HEXLOWER.encode(&self.id))
    }
}

/// A public key of Ed25519 with its name. Its text form is that of `golang.org/x/mod/sumdb/note`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    key_id: KeyId,
    public: [u8; 32],
}

impl VerifierKey {
    /// Returns the key with this name.
    ///
    /// # Errors
    /// [`NoteError::Key`] if the name is empty, or contains a space, a plus sign or a control character.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key("the name is empty, or contains a space, `+` or a control character"));
        }
        let digest = Sha256::new().chain_update(name).chain_update([b'\n', ED25519_TYPE]).chain_update(public).finalize();
        let id = [digest[0], digest[1], digest[2], digest[3]];
        Ok(Self { key_id: KeyId { name: name.to_owned(), id }, public })
    }

    /// Returns the name and identifier.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Returns true if `signature` is this key's signature of `message`.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(message, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.key_id, BASE64.encode(&[&[ED25519_TYPE][..], &self.public[..]].concat()))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        const FORM: NoteError = NoteError::Key("expected NAME+ID+KEY");
        let (name, rest) = text.split_once('+').ok_or(FORM)?;
        let (_, key) = rest.split_once('+').ok_or(FORM)?;
        let bytes = base64::decode(key).ok_or(NoteError::Key("the key is not canonical base64"))?;
        let Some((&ED25519_TYPE, public)) = bytes.split_first() else {
            return Err(NoteError::Key("the key is not an Ed25519 key"));
        };
        let public = public.try_into().map_err(|_| NoteError::Key("a key of Ed25519 has 32 bytes"))?;
        let parsed = Self::new(name, public)?;
        // Also compares the identifier, and refuses every other form of the same key.
        if parsed.to_string() == text { Ok(parsed) } else { Err(NoteError::Key("the identifier does not belong to the key")) }
    }
}

/// A private key.
pub struct Signer {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
}

impl Signer {
    /// Returns the key with this name and these secret bytes.
    ///
    /// # Errors
    /// [`NoteError::Key`].
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::Key("the secret has a wrong length"))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::Key("a key of Ed25519 has 32 bytes"))?;
        Ok(Self { pair, verifier: VerifierKey::new(name, public)? })
    }

    /// Returns the public key.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Returns the signature of a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// Prints no byte of the private key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier.key_id)
    }
}

/// A signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key that the line names.
    pub key_id: KeyId,
    /// The signature.
    pub signature: Vec<u8>,
}

/// A text with signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// The signatures of a note whose text was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatures {
    /// The known keys that have signed the text.
    pub known: Vec<KeyId>,
    /// The keys of the other signatures, which were not verified.
    pub unknown: Vec<KeyId>,
}

impl SignedNote {
    /// Signs a text. The text must end with a line feed.
    pub fn sign(text: String, signers: &[&Signer]) -> Self {
        let sign =
            |signer: &&Signer| NoteSignature { key_id: signer.verifier.key_id.clone(), signature: signer.sign(text.as_bytes()) };
        let signatures = signers.iter().map(sign).collect();
        Self { text, signatures }
    }

    /// Parses a note. The signatures are not verified.
    ///
    /// # Errors
    /// [`NoteError::Note`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::Note("longer than 128 KiB"));
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Note("not UTF-8"))?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Note("contains a control character"));
        }
        let end = note.rfind("\n\n").ok_or(NoteError::Note("no empty line before the signatures"))?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Note("the last line has no end, or there is no signature"))?;
        let signatures = lines.split('\n').map(signature).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Note("more than 32 signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Returns the text if a known key has signed it, and no signature of a known key is invalid.
    ///
    /// # Errors
    /// [`NoteError::Signature`] or [`NoteError::Unknown`].
    pub fn verify<'k>(&self, keys: impl Iterator<Item = &'k VerifierKey> + Clone) -> Result<(&str, Signatures), NoteError> {
        let mut found = Signatures { known: Vec::new(), unknown: Vec::new() };
        for NoteSignature { key_id, signature } in &self.signatures {
            match keys.clone().find(|key| key.key_id == *key_id) {
                None => found.unknown.push(key_id.clone()),
                Some(key) if key.has_signed(self.text.as_bytes(), signature) => found.known.push(key_id.clone()),
                Some(_) => return Err(NoteError::Signature(key_id.to_string())),
            }
        }
        if found.known.is_empty() {
            let named: Vec<_> = found.unknown.iter().map(KeyId::to_string).collect();
            return Err(NoteError::Unknown(named.join(", ")));
        }
        Ok((&self.text, found))
    }
}

/// Prints the one text form of the note.
impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for NoteSignature { key_id, signature } in &self.signatures {
            writeln!(f, "— {} {}", key_id.name, BASE64.encode(&[&key_id.id[..], signature].concat()))?;
        }
        Ok(())
    }
}

fn signature(line: &str) -> Result<NoteSignature, NoteError> {
    let (name, encoded) = line
        .strip_prefix("— ")
        .and_then(|rest| rest.split_once(' '))
        .ok_or(NoteError::Note("a signature line has the form `— NAME SIGNATURE`"))?;
    let bytes = base64::decode(encoded).ok_or(NoteError::Note("a signature is not canonical base64"))?;
    match bytes.split_first_chunk() {
        Some((id, signature)) if is_name(name) && !signature.is_empty() => {
            Ok(NoteSignature { key_id: KeyId { name: name.to_owned(), id: *id }, signature: signature.to_vec() })
        }
        _ => Err(NoteError::Note("a signature has no valid key name, or no bytes")),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification of notes.
    const EXAMPLE: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
        — quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";

    fn signer(seed: u8) -> Signer {
        Signer::new("log.example/x", &[seed; 32]).unwrap()
    }

    #[test]
    fn example_of_the_specification_is_parsed_to_its_text() {
        let note = SignedNote::parse(EXAMPLE.as_bytes()).unwrap();
        assert!(note.text.ends_with("sole:\n\ned è subito sera.\n"));
        assert_eq!(note.signatures[0].key_id.to_string(), "quasimodo.example/salvatore+367ba04b");
        assert_eq!(note.to_string(), EXAMPLE);
    }

    #[test]
    fn signatures_of_unknown_keys_are_listed_and_those_of_known_keys_must_be_right() {
        let [one, two, other] = [1, 2, 3].map(signer);
        let note = SignedNote::sign("a\n".to_owned(), &[&one, &two]);
        let keys = |signers: &[&Signer]| signers.iter().map(|signer| signer.verifier().clone()).collect::<Vec<_>>();
        let (text, signatures) = note.verify(keys(&[&two]).iter()).unwrap();
        assert_eq!((text, signatures.known.len(), signatures.unknown.len()), ("a\n", 1, 1));
        assert!(matches!(note.verify(keys(&[&other]).iter()), Err(NoteError::Unknown(_))));
        assert!(matches!(note.verify([].iter()), Err(NoteError::Unknown(_))));
        let changed = SignedNote { text: "b\n".to_owned(), ..note };
        assert!(matches!(changed.verify(keys(&[&one]).iter()), Err(NoteError::Signature(_))));
    }

    #[test]
    fn public_key_has_one_text_form() {
        let text = signer(1).verifier().to_string();
        assert_eq!(text.parse::<VerifierKey>().unwrap(), *signer(1).verifier());
        let (name, rest) = text.split_once('+').unwrap();
        let (id, key) = rest.split_once('+').unwrap();
        for other in [
            format!("other+{rest}"),
            format!("{name}+{}+{key}", id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A")),
            format!("{name}+00000000+{key}"),
            format!("{text}="),
            format!("{name}+{id}+{}", BASE64.encode(&[2; 33])),
            format!("{name}+{id}+{}", BASE64.encode(&[1; 32])),
            format!("+{rest}"),
            String::new(),
        ] {
            assert!(other.parse::<VerifierKey>().is_err(), "{other}");
        }
    }

    #[test]
    fn malformed_notes_are_refused() {
        let good = SignedNote::sign("a\n".to_owned(), &[&signer(1)]).to_string();
        assert!(SignedNote::parse(good.as_bytes()).is_ok());
        for bad in [
            good.trim_end().to_owned(),
            good.replace("\n\n", "\n"),
            good.replace("— ", "- "),
            good.replace("a\n", "a\r\n"),
            good.replace("log.example/x", "log+x"),
            good.replace("log.example/x", "log x"),
            format!("{good}\n"),
            format!("{good}x\n"),
            "a\n\n— x AAAAAA==\n".to_owned(),
            // The last bits of the base64 text are not zero.
            "a\n\n— x AAAAAAB=\n".to_owned(),
            // Two base64 texts in a row.
            "a\n\n— x AAAAAAA=AAAA\n".to_owned(),
            "a\n\n".to_owned(),
            String::new(),
            format!("{good}{}", "— x AAAAAAA=\n".repeat(MAX_SIGNATURES)),
        ] {
            assert!(SignedNote::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
