//! Reads the server name from the ClientHello of TLS (RFC 8446, 4.1.2), which is not encrypted.
//!
//! The bytes are hostile. The decoder reads at most [`MAX_FIRST_BYTES`], copies only bytes that have arrived, and allocates no
//! memory according to a length field.

use crate::{
    limits::MAX_FIRST_BYTES,
    name::{HostName, NameError},
};
use std::borrow::Cow;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEAD: usize = 5;
const HANDSHAKE_HEAD: usize = 4;
/// RFC 8446, 5.1.
const MAX_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
/// RFC 9849 (`encrypted_client_hello`), and the extension of its first drafts (ESNI).
const ENCRYPTED: [u16; 2] = [0xfe0d, 0xffce];

/// The fields of a ClientHello that the gateway reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The SNI.
    pub server_name: Option<HostName>,
    /// True if the client offers an encrypted ClientHello, or pretends to offer one (GREASE), which looks the same.
    pub encrypted: bool,
}

/// The reason why a connection is not acceptable as TLS to a granted name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The first bytes are not TLS.
    #[error("the connection is not TLS, but the port is granted for TLS — grant the port with `/tcp` for other protocols")]
    NotTls,
    /// The ClientHello is damaged.
    #[error("the ClientHello is damaged: {0}")]
    Damaged(&'static str),
    /// The ClientHello is larger than the limit.
    #[error("the ClientHello is larger than {MAX_FIRST_BYTES} bytes")]
    TooLong,
    /// The SNI is not a host name.
    #[error("the ClientHello has an invalid server name: {0} — use a client that sends a host name")]
    Name(#[from] NameError),
    /// The client sent no SNI.
    #[error("the ClientHello has no server name (SNI) — use a client that sends it, or grant the port with `/tcp`")]
    NoName,
    /// The client sent a name other than the granted one.
    #[error(
        "the ClientHello has the server name {asked}, but this address was assigned to {granted} — connect to {asked} instead"
    )]
    OtherName {
        /// The SNI.
        asked: HostName,
        /// The name of the address.
        granted: HostName,
    },
    /// The client uses an encrypted ClientHello.
    #[error("the ClientHello is encrypted (ECH), so its server name is not known — turn ECH off in the client")]
    Encrypted,
}

/// Decodes the ClientHello at the start of a connection. Returns `None` if more bytes are needed.
///
/// # Errors
/// The bytes are not the start of an acceptable TLS connection.
pub fn decode(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    match handshake(bytes)? {
        Some(message) => body(&message).map(Some),
        None if bytes.len() >= MAX_FIRST_BYTES => Err(HelloError::TooLong),
        None => Ok(None),
    }
}

/// Checks that the ClientHello has the granted name, and that the name is not encrypted.
///
/// # Errors
/// The name is absent, encrypted, or different from the granted one.
pub fn check(hello: &ClientHello, granted: &HostName) -> Result<(), HelloError> {
    if hello.encrypted {
        return Err(HelloError::Encrypted);
    }
    match &hello.server_name {
        None => Err(HelloError::NoName),
        Some(asked) if asked == granted => Ok(()),
        Some(asked) => Err(HelloError::OtherName { asked: asked.clone(), granted: granted.clone() }),
    }
}

/// Returns the body of the first handshake message, which may be spread over several records.
fn handshake(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, HelloError> {
    let mut rest = bytes;
    let mut joined = Cow::Borrowed(&[][..]);
    while let Some((head, after)) = rest.split_first_chunk::<RECORD_HEAD>() {
        if head[0] != HANDSHAKE_RECORD || head[1] != 3 {
            return Err(HelloError::NotTls);
        }
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if length == 0 || length > MAX_RECORD {
            return Err(HelloError::Damaged("the length of a record"));
        }
        let Some((payload, after)) = after.split_at_checked(length) else {
            // The message type arrives with the first byte.
            check_type(if joined.is_empty() { after } else { &joined })?;
            return Ok(None);
        };
        if joined.is_empty() {
            joined = Cow::Borrowed(payload);
        } else {
            joined.to_mut().extend_from_slice(payload);
        }
        check_type(&joined)?;
        if let Some((head, message)) = joined.split_first_chunk::<HANDSHAKE_HEAD>() {
            let length = usize::try_from(u32::from_be_bytes([0, head[1], head[2], head[3]])).map_err(|_| HelloError::TooLong)?;
            if length > MAX_FIRST_BYTES {
                return Err(HelloError::TooLong);
            }
            if message.len() > length {
                return Err(HelloError::Damaged("bytes after the message in its record"));
            }
            if message.len() == length {
                return Ok(Some(match joined {
                    Cow::Borrowed(whole) => Cow::Borrowed(&whole[HANDSHAKE_HEAD..]),
                    Cow::Owned(whole) => Cow::Owned(whole[HANDSHAKE_HEAD..].to_vec()),
                }));
            }
        }
        rest = after;
    }
    // A protocol that is not TLS shows in the first byte.
    if rest.first().is_some_and(|first| *first != HANDSHAKE_RECORD) {
        return Err(HelloError::NotTls);
    }
    Ok(None)
}

fn check_type(message: &[u8]) -> Result<(), HelloError> {
    match message.first() {
        Some(kind) if *kind != CLIENT_HELLO => Err(HelloError::Damaged("the first message is not a ClientHello")),
        _ => Ok(()),
    }
}

/// The fields of a message that are not yet read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HelloError::Damaged(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, HelloError> {
        let (first, rest) = self.0.split_first().ok_or(HelloError::Damaged(field))?;
        self.0 = rest;
        Ok(*first)
    }

    fn word(&mut self, field: &'static str) -> Result<u16, HelloError> {
        let (word, rest) = self.0.split_first_chunk::<2>().ok_or(HelloError::Damaged(field))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*word))
    }

    /// Reads a field with a length of one byte.
    fn short(&mut self, field: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.byte(field)?.into();
        self.take(length, field)
    }

    /// Reads a field with a length of two bytes.
    fn long(&mut self, field: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.word(field)?.into();
        self.take(length, field)
    }
}

fn body(message: &[u8]) -> Result<ClientHello, HelloError> {
    let mut fields = Fields(message);
    fields.take(2, "version")?;
    fields.take(32, "random")?;
    fields.short("session id")?;
    fields.long("cipher suites")?;
    fields.short("compression methods")?;
    let mut hello = ClientHello { server_name: None, encrypted: false };
    if fields.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Fields(fields.long("extensions")?);
    if !fields.0.is_empty() {
        return Err(HelloError::Damaged("bytes after the extensions"));
    }
    let mut named = false;
    while !extensions.0.is_empty() {
        let kind = extensions.word("extension")?;
        let data = extensions.long("extension")?;
        hello.encrypted |= ENCRYPTED.contains(&kind);
        if kind == SERVER_NAME {
            if std::mem::replace(&mut named, true) {
                return Err(HelloError::Damaged("two server names"));
            }
            hello.server_name = Some(server_name(data)?);
        }
    }
    Ok(hello)
}

/// Reads the only entry of the list of names. RFC 6066, 3 defines only one type of name, and permits each type once.
fn server_name(data: &[u8]) -> Result<HostName, HelloError> {
    let mut data = Fields(data);
    let mut list = Fields(data.long("server name")?);
    let kind = list.byte("server name")?;
    let name = list.long("server name")?;
    if kind != 0 || !list.0.is_empty() || !data.0.is_empty() {
        return Err(HelloError::Damaged("the server name is not exactly one host name"));
    }
    Ok(HostName::from_wire(name)?)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
pub(crate) mod tests;
