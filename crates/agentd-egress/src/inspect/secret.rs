//! Secrets: the sandbox holds a placeholder, and the gateway puts the value into requests to one host.

use super::error::{InspectRefusal, InspectionError};
use crate::name::HostName;
use data_encoding::{BASE64, HEXLOWER};
use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fmt;
use zeroize::Zeroizing;

/// The minimum length of a value, in bytes. A shorter value could occur in a response by chance.
pub(crate) const MIN_VALUE: usize = 8;
const MAX_VALUE: usize = 4096;
const MAX_PREFIX: usize = 32;
/// The maximum length of a scheme before the placeholder. A longer word could be a credential itself.
const MAX_SCHEME: usize = 16;

/// A random text that the sandbox holds instead of a secret. It has no value outside of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder(String);

impl Placeholder {
    /// Creates a placeholder. `prefix` is for programs that check the start of a key (`sk-`).
    ///
    /// # Errors
    /// The prefix is too long or has a special character, or getrandom(2) fails.
    pub fn random(prefix: &str) -> Result<Self, InspectionError> {
        let plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if prefix.len() > MAX_PREFIX || !plain {
            return Err(InspectionError::Prefix);
        }
        let mut random = [0; 24];
        SystemRandom::new().fill(&mut random).map_err(|_| InspectionError::Key)?;
        Ok(Self(format!("{prefix}{}", HEXLOWER.encode(&random))))
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of a secret in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretPlace {
    /// The value of the named header, alone or after a scheme (`Bearer`).
    Header(String),
    /// The password of HTTP basic authentication (RFC 7617).
    BasicPassword,
}

impl SecretPlace {
    /// Returns the header that holds the secret.
    ///
    /// # Errors
    /// The name is not that of a header, or the header has a meaning for the gateway.
    pub(crate) fn header(&self, host: &SecretHost) -> Result<HeaderName, InspectionError> {
        let Self::Header(name) = self else { return Ok(header::AUTHORIZATION) };
        let header = name.parse().ok().filter(|header| !RESERVED.contains(header));
        header.ok_or_else(|| InspectionError::Header { host: host.name.clone(), header: name.clone() })
    }
}

/// The host and port that may receive a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHost {
    /// The name. A secret has no wildcard.
    pub name: HostName,
    /// The port, which must carry TLS.
    pub port: u16,
}

/// A secret. Neither the secret nor its parts can be printed. The value is zeroed when the secret is dropped.
pub struct Secret {
    placeholder: Placeholder,
    value: Zeroizing<Vec<u8>>,
    host: SecretHost,
    header: HeaderName,
    basic: bool,
}

impl Secret {
    /// Takes over the value of a secret.
    ///
    /// # Errors
    /// The value is not valid in a header or is too short to be masked, or the place is not a usable header.
    pub fn new(placeholder: Placeholder, value: String, host: SecretHost, place: SecretPlace) -> Result<Self, InspectionError> {
        let value = Zeroizing::new(value.into_bytes());
        let of = || host.name.clone();
        if !(MIN_VALUE..=MAX_VALUE).contains(&value.len()) {
            return Err(InspectionError::Length { host: of() });
        }
        if !value.iter().all(u8::is_ascii_graphic) {
            return Err(InspectionError::Value { host: of() });
        }
        let (header, basic) = (place.header(&host)?, place == SecretPlace::BasicPassword);
        Ok(Self { placeholder, value, host, header, basic })
    }

    /// Returns the host that may receive the secret.
    pub fn host(&self) -> &SecretHost {
        &self.host
    }

    /// Returns the header's value with the secret in the place of the placeholder, if the header has no other credential.
    fn fill(&self, sent: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (scheme, credential) = match sent.iter().position(|byte| *byte == b' ') {
            Some(space) => sent.split_at(space + 1),
            None => (&[][..], sent),
        };
        let placeholder = self.placeholder.0.as_bytes();
        if !self.basic {
            let plain = scheme.len() <= MAX_SCHEME && scheme.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b' ');
            return (plain && credential == placeholder).then(|| Zeroizing::new([scheme, &self.value].concat()));
        }
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let plain = BASE64.decode(credential).ok()?;
        let colon = plain.iter().position(|byte| *byte == b':')?;
        let (user, password) = plain.split_at(colon + 1);
        let filled = Zeroizing::new([user, &self.value].concat());
        (password == placeholder).then(|| Zeroizing::new([b"Basic ", BASE64.encode(&filled).as_bytes()].concat()))
    }
}

/// Headers with a meaning for the gateway.
const RESERVED: [HeaderName; 14] = [
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::ACCEPT_ENCODING,
    header::EXPECT,
    header::RANGE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// The secrets for one port of one host.
pub(crate) struct HostSecrets<'a> {
    secrets: Vec<&'a Secret>,
}

impl<'a> HostSecrets<'a> {
    pub(crate) fn of(all: &'a [Secret], name: &HostName, port: u16) -> Self {
        Self { secrets: all.iter().filter(|secret| secret.host.name == *name && secret.host.port == port).collect() }
    }

    /// Returns the values, which a response of the host must not contain.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.secrets.iter().map(|secret| &*secret.value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Returns the headers that hold the secrets.
    pub(crate) fn headers(&self) -> Vec<&'a HeaderName> {
        self.secrets.iter().map(|secret| &secret.header).collect()
    }

    /// Replaces placeholders by the values of their secrets.
    ///
    /// # Errors
    /// A header that is reserved for a secret has another value. Some headers may then be changed already, so they must not be
    /// sent.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) -> Result<(), InspectRefusal> {
        for (position, secret) in self.secrets.iter().enumerate() {
            if self.secrets[..position].iter().any(|earlier| earlier.header == secret.header) {
                continue;
            }
            let mut sent = headers.get_all(&secret.header).iter();
            let Some(first) = sent.next() else { continue };
            let same = self.secrets.iter().filter(|other| other.header == secret.header);
            let filled = same.filter_map(|other| other.fill(first.as_bytes())).next();
            let filled = filled.filter(|_| sent.next().is_none()).and_then(|filled| HeaderValue::from_bytes(&filled).ok());
            let Some(mut filled) = filled else {
                return Err(InspectRefusal::Credential { header: secret.header.to_string() });
            };
            // Hidden from debug output, and never put into the table of HPACK.
            filled.set_sensitive(true);
            headers.insert(&secret.header, filled);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod tests;
