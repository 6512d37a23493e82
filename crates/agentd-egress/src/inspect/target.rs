//! The text form of the destination of a secret: `NAME@HOST[:PORT][/HEADER]` or `NAME@HOST[:PORT]/aws/REGION/SERVICE`.
//!
//! NAME is the environment variable that holds the placeholder. HOST is a name without a wildcard, and PORT is 443 if it is left
//! out. HEADER is the header that holds the secret, `authorization` if it is left out, or `basic` for the password of HTTP basic
//! authentication.
//!
//! With `aws/REGION/SERVICE`, the secret is a key of AWS, and NAME is the beginning of the two variables with its placeholders:
//! `AWS` stands for `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.

use super::{
    aws::AwsScope,
    error::InspectionError,
    secret::{SecretHost, SecretPlace},
};
use crate::name::{HostName, NameError};
use std::{fmt, str::FromStr};

const DEFAULT_PORT: u16 = 443;
const DEFAULT_HEADER: &str = "authorization";
/// The word for [`SecretPlace::BasicPassword`], in the place of a header.
const BASIC: &str = "basic";

/// The beginning of the form of a key of AWS, in the place of a header.
const AWS: &str = "aws";

/// The use that the gateway makes of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretUse {
    /// The secret is put into a place in requests.
    Placed(SecretPlace),
    /// The secret is a key of AWS, which signs requests in this scope.
    Signs(AwsScope),
}

/// The destination of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretTarget {
    /// The environment variable of the sandbox that holds the placeholder, or the beginning of the variables of a key.
    pub variable: String,
    /// The host.
    pub host: SecretHost,
    /// The use in requests to this host.
    pub usage: SecretUse,
}

impl SecretTarget {
    /// Returns the environment variables of the sandbox that hold placeholders. Those of a key of AWS are the access key ID and
    /// the secret access key.
    pub fn variables(&self) -> Vec<String> {
        match &self.usage {
            SecretUse::Placed(_) => vec![self.variable.clone()],
            SecretUse::Signs(_) => ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"].map(|end| format!("{}_{end}", self.variable)).to_vec(),
        }
    }

    /// Returns the parts of a value that no program may learn.
    pub fn confidential<'a>(&self, value: &'a str) -> Vec<&'a str> {
        match &self.usage {
            SecretUse::Placed(_) => vec![value],
            // The first part is the access key ID.
            SecretUse::Signs(_) => value.splitn(3, ':').skip(1).collect(),
        }
    }
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
    #[error("secret {variable}: {source} — name one host, without a scheme or wildcard")]
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
    /// The scope of a key of AWS is missing or malformed.
    #[error("secret {variable}: `aws` is not followed by /REGION/SERVICE — use a form such as `AWS@HOST/aws/eu-west-1/s3`")]
    Scope {
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
        let (word, scope) = header.split_once('/').unwrap_or((header, ""));
        if word == AWS {
            let scope = scope_of(scope).ok_or_else(|| SecretTargetError::Scope { variable: variable.clone() })?;
            return Ok(Self { variable, host, usage: SecretUse::Signs(scope) });
        }
        let place = match header {
            BASIC => SecretPlace::BasicPassword,
            name => SecretPlace::Header(name.to_ascii_lowercase()),
        };
        place.header(&host)?;
        Ok(Self { variable, host, usage: SecretUse::Placed(place) })
    }
}

/// Reads `REGION/SERVICE`.
fn scope_of(text: &str) -> Option<AwsScope> {
    let (region, service) = text.split_once('/')?;
    let plain = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (plain(region) && plain(service)).then(|| AwsScope { region: region.to_owned(), service: service.to_owned() })
}

/// Describes the place of the secret in requests.
impl fmt::Display for SecretTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SecretHost { name, port } = &self.host;
        write!(f, "{}: ", self.variables().join(", "))?;
        match &self.usage {
            SecretUse::Placed(SecretPlace::Header(header)) => write!(f, "the header {header} of requests to {name}:{port}"),
            SecretUse::Placed(SecretPlace::BasicPassword) => write!(f, "the password of basic authentication at {name}:{port}"),
            SecretUse::Signs(AwsScope { region, service }) => {
                write!(f, "the signature of AWS for {region}/{service} of requests to {name}:{port}")
            }
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
            (
                "AWS@s3.example/aws/eu-west-1/s3",
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: the signature of AWS for eu-west-1/s3 of requests to s3.example:443",
            ),
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
            "A@a.example/aws",
            "A@a.example/aws/",
            "A@a.example/aws/sk-live-0123456789",
            "A@a.example/aws//s3",
            "A@a.example/aws/r/s/t",
            "A@a.example/aws/*/s3",
        ] {
            let error = text.parse::<SecretTarget>().unwrap_err().to_string();
            assert!(error.contains(" — ") && !error.contains("sk-live"), "{text}: {error}");
        }
    }
}
