//! Tokens that the holder of an API key restricts without the daemon.
//!
//! A token is a chain of blocks. Each block has restrictions and a public key, and is signed by the private key of the block
//! before; the first by a key that is derived from the API key. The end of the text is the private key of the last block, so
//! whoever holds a token can add a block, and nobody can remove one. The store has the public key of each API key only.
//!
//! Text: `agentdtoken_ID` and, after a dot each, the blocks and the last private key, in Base64 (RFC 4648, section 5). A block is
//! the public key (32 bytes), the signature (64 bytes) and the restrictions as JSON. The signature is Ed25519 over [`CONTEXT`],
//! the identifier, the index of the block as a byte, the public key and the JSON.

mod caveats;

pub use caveats::Caveats;

use super::api_key::{ApiKey, InvalidApiKey};
use agentd_state::{ApiKeyId, PublicKey};
use data_encoding::BASE64URL_NOPAD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use std::fmt;
use zeroize::Zeroizing;

/// The beginning of a token.
const PREFIX: &str = "agentdtoken_";

/// What every signature begins with, so that it means nothing elsewhere.
const CONTEXT: &[u8] = b"agentd token v1\0";

/// The most blocks of a token.
const MAX_BLOCKS: usize = 8;

/// The longest token in bytes, as the daemon reads credentials.
const MAX_TEXT: usize = super::credential::MAX_CREDENTIAL;

/// The longest restrictions of a block in bytes.
const MAX_CAVEATS: usize = 2048;

const KEY: usize = 32;
const SIGNATURE: usize = 64;

/// The reason why a credential cannot be restricted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestrictError {
    /// The text is neither an API key nor a token.
    #[error(transparent)]
    Key(#[from] InvalidApiKey),
    /// The text is not a token.
    #[error("not a token: {0} — pass a token as it was printed")]
    Token(&'static str),
    /// The restrictions are too long, or not valid.
    #[error("the restrictions have more than {MAX_CAVEATS} bytes, or a directory that is not an absolute path without '..'")]
    Caveats,
    /// The token would have too many blocks, or be too long.
    #[error(
        "the token would have more than {MAX_BLOCKS} restrictions or {MAX_TEXT} bytes — restrict the credential that it was made from"
    )]
    Blocks,
    /// The kernel has no random bytes.
    #[error("create a token: getrandom: {0}")]
    Random(#[from] Errno),
    /// A key cannot be used. This is a bug.
    #[error("create a token: the derived key cannot be used — report this as a bug of agentd")]
    Derived,
}

/// A token, which has the form of one. Its signatures are not verified yet.
pub struct Token {
    id: ApiKeyId,
    blocks: Vec<TokenBlock>,
    /// The private key of the last block.
    last: Zeroizing<[u8; KEY]>,
}

struct TokenBlock {
    next: [u8; KEY],
    signature: [u8; SIGNATURE],
    caveats: Vec<u8>,
}

/// Prints no private key, because messages are logged in this form.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, {} blocks)", self.id, self.blocks.len())
    }
}

/// Returns true for a text that claims to be a token.
pub(super) fn is_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Returns the public key that verifies the first block of the tokens of an API key.
///
/// # Errors
/// [`RestrictError::Derived`].
pub fn public_key(key: &ApiKey) -> Result<PublicKey, RestrictError> {
    PublicKey::try_from(pair(&root(key))?.public_key().as_ref()).map_err(|_| RestrictError::Derived)
}

/// Returns a token that permits what an API key or a token permits, and at most what `caveats` permit. Needs no daemon.
///
/// # Errors
/// [`RestrictError`].
pub fn restrict(credential: &str, caveats: &Caveats) -> Result<Zeroizing<String>, RestrictError> {
    let (id, mut blocks, secret) = if is_token(credential) {
        let Token { id, blocks, last } = Token::parse(credential).map_err(RestrictError::Token)?;
        (id, blocks, last)
    } else {
        let key = ApiKey::parse(credential)?;
        (key.id(), Vec::new(), root(&key))
    };
    let index = u8::try_from(blocks.len()).ok().filter(|_| blocks.len() < MAX_BLOCKS).ok_or(RestrictError::Blocks)?;
    let caveats = serde_json::to_vec(&caveats.is_valid().then_some(caveats).ok_or(RestrictError::Caveats)?);
    let caveats = caveats.ok().filter(|text| text.len() <= MAX_CAVEATS).ok_or(RestrictError::Caveats)?;
    let mut last = Zeroizing::new([0; KEY]);
    getrandom(&mut *last, GetRandomFlags::empty())?;
    let next = pair(&last)?.public_key().as_ref().try_into().map_err(|_| RestrictError::Derived)?;
    let signature = pair(&secret)?.sign(&message(id, index, &next, &caveats));
    let signature = signature.as_ref().try_into().map_err(|_| RestrictError::Derived)?;
    blocks.push(TokenBlock { next, signature, caveats });
    let text = Token { id, blocks, last }.text();
    if text.len() > MAX_TEXT { Err(RestrictError::Blocks) } else { Ok(text) }
}

impl Token {
    /// Parses a token.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.strip_prefix(PREFIX).ok_or("another beginning")?.split('.');
        let id = parts.next().unwrap_or_default().parse().map_err(|_| "a malformed identifier")?;
        let mut parts: Vec<&str> = parts.take(MAX_BLOCKS + 2).collect();
        let last = parts.pop().unwrap_or_default();
        if parts.is_empty() || parts.len() > MAX_BLOCKS {
            return Err("no block, or too many");
        }
        let decoded = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map(Zeroizing::new).map_err(|_| "malformed Base64");
        let blocks = parts.into_iter().map(|part| TokenBlock::parse(&decoded(part)?)).collect::<Result<_, _>>()?;
        let mut secret = Zeroizing::new([0; KEY]);
        let bytes = decoded(last)?;
        *secret = bytes.as_slice().try_into().map_err(|_| "the last part has another length")?;
        Ok(Self { id, blocks, last: secret })
    }

    /// Returns the identifier of the API key from which the token was made.
    pub(super) fn id(&self) -> ApiKeyId {
        self.id
    }

    /// Verifies all blocks. Returns their restrictions, all of which hold.
    ///
    /// # Errors
    /// Why the token is refused, for the log.
    pub(super) fn verify(&self, root: &PublicKey) -> Result<Vec<Caveats>, &'static str> {
        let (mut key, mut all) = (root.bytes(), Vec::new());
        for (index, block) in (0u8..).zip(&self.blocks) {
            let message = message(self.id, index, &block.next, &block.caveats);
            let verified = UnparsedPublicKey::new(&ED25519, key).verify(&message, &block.signature);
            verified.map_err(|_| "a block of the token has a wrong signature")?;
            all.push(Caveats::parse(&block.caveats).ok_or("a block of the token is malformed")?);
            key = &block.next;
        }
        // Only the holder of the last private key has the whole token: without it, blocks could be removed.
        let last = pair(&self.last).map_err(|_| "the last key of the token is malformed")?;
        if last.public_key().as_ref() == key { Ok(all) } else { Err("blocks of the token are missing") }
    }

    fn text(&self) -> Zeroizing<String> {
        let length = PREFIX.len() + 64 + self.blocks.iter().map(|block| block.caveats.len() * 2 + 160).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.push_str(PREFIX);
        text.push_str(&self.id.to_string());
        for block in &self.blocks {
            text.push('.');
            BASE64URL_NOPAD.encode_append(&[&block.next[..], &block.signature, &block.caveats].concat(), &mut text);
        }
        text.push('.');
        BASE64URL_NOPAD.encode_append(&*self.last, &mut text);
        text
    }
}

impl TokenBlock {
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let short = "a block is too short";
        let (next, rest) = bytes.split_first_chunk().ok_or(short)?;
        let (signature, caveats) = rest.split_first_chunk().ok_or(short)?;
        if caveats.len() > MAX_CAVEATS {
            return Err("a block is too long");
        }
        Ok(Self { next: *next, signature: *signature, caveats: caveats.to_vec() })
    }
}

/// Returns the private key that signs the first block of the tokens of an API key.
fn root(key: &ApiKey) -> Zeroizing<[u8; KEY]> {
    key.derived(CONTEXT)
}

fn pair(seed: &[u8; KEY]) -> Result<Ed25519KeyPair, RestrictError> {
    Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| RestrictError::Derived)
}

/// Returns what the signature of a block signs.
fn message(id: ApiKeyId, index: u8, next: &[u8; KEY], caveats: &[u8]) -> Vec<u8> {
    [CONTEXT, id.to_string().as_bytes(), &[index], next, caveats].concat()
}

#[cfg(test)]
mod tests;
