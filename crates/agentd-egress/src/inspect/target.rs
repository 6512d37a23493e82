//! The text form of the destination of a secret: `NAME@HOST[:PORT][/HEADER]`.
//!
//! NAME is the environment variable that holds the placeholder. HOST is a name without a wildcard, and PORT is 443 if it is left
//! out. HEADER is the header that holds the secret, `authorization` if it is left out, or `basic` for the password of HTTP basic
//! authentication.

use super::{
    error::InspectionError,
    secret::{SecretHost, SecretPlace},
};
use crate::name::{HostName, NameError};
use std::{fmt, str::FromStr};

const DEFAULT_PORT: u16 = 443;
const DEFAULT_HEADER: &str = "authorization";
/// The word for [`SecretPlace::BasicPassword`], in the place of a header.
const BASIC: &str = "basic";

/// The destination of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretTarget {
    /// The environment variable of the sandbox that holds the placeholder.
    pub variable: String,
    /// The host.
    pub host: SecretHost,
    /// The place in the requests to this host.
    pub place: SecretPlace,
}

/// The reason why a text is not the destination of a secret. The messages contain no part of the text that could be a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretTargetError {
    /// The text has no `@`.
    #[error("secret: the host is missing — use NAME@HOST, as in `API_KEY@api.example.com`")]
    NoHost,
    /// The part before the `@` is not the name of a variable.
    #[error("secret: the part before `@` is not the name of an environment variable — use letters, digits and _, no digit first")]
    Variable,
    /// The host is not a name.
    #[error("secret {variable}: {source} — name one host, without a wildcard")]
    Name {
        /// The variable.
        variable: String,
        /// The cause.
        #[source]
        source: NameError,
    },
    /// The port is not a number from 1 to 65535.
    #[error("secret {variable}: the port is not a number from 1 to 65535 — correct the port")]
    Port {
        /// The variable.
        variable: String,
    },
    /// The header cannot hold a secret.
    #[error(transparent)]
    Place(#[from] InspectionError),
}

impl FromStr for SecretTarget {
    type Err = SecretTargetError;

    fn from_str(text: &str) -> Result<Self, SecretTargetError> {
        let (variable, rest) = text.split_once('@').ok_or(SecretTargetError::NoHost)?;
        let plain = variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if variable.is_empty() || !plain || variable.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(SecretTargetError::Variable);
        }
        let variable = variable.to_owned();
        let (host, header) = rest.split_once('/').unwrap_or((rest, DEFAULT_HEADER));
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => {
                // `u16::from_str` also accepts a sign.
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let number = port.parse().ok().filter(|port| digits && *port != 0);
                number.ok_or_else(|| SecretTargetError::Port { variable: variable.clone() })?
            }
        };
        let name: HostName = name.parse().map_err(|source| SecretTargetError::Name { variable: variable.clone(), source })?;
        let host = SecretHost { name, port };
        let place = match header {
            BASIC => SecretPlace::BasicPassword,
            name => SecretPlace::Header(name.to_ascii_lowercase()),
        };
        place.header(&host)?;
        Ok(Self { variable, host, place })
    }
}

/// Describes the place of the secret in requests.
impl fmt::Display for SecretTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, host: SecretHost { name, port }, place } = self;
        match place {
            SecretPlace::Header(header) => write!(f, "{variable}: the header {header} of requests to {name}:{port}"),
            SecretPlace::BasicPassword => write!(f, "{variable}: the password of basic authentication at {name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_names_variable_host_port_and_place() {
        for (text, words) in [
            ("API_KEY@API.Example.com", "API_KEY: the header authorization of requests to api.example.com:443"),
            ("K@a.example:8443/X-Api-Key", "K: the header x-api-key of requests to a.example:8443"),
            ("TOKEN@git.example/basic", "TOKEN: the password of basic authentication at git.example:443"),
        ] {
            assert_eq!(text.parse::<SecretTarget>().unwrap().to_string(), words, "{text}");
        }
    }

    #[test]
    fn other_texts_are_errors_that_do_not_repeat_them() {
        for text in [
            "",
            "sk-live-0123456789",
            "sk-live-0123456789@a.example",
            "1A@a.example",
            "@a.example",
            "A@",
            "A@*.sk-live-0123456789",
            "A@10.0.0.1",
            "A@a.example:sk-live-0123456789",
            "A@a.example:0",
            "A@a.example:+1",
            "A@a.example/host",
            "A@a.example/no header",
            "A@a.example/",
        ] {
            let error = text.parse::<SecretTarget>().unwrap_err().to_string();
            assert!(error.contains(" — ") && !error.contains("sk-live"), "{text}: {error}");
        }
    }
}
