//! Errors of the settings of inspection, and refusals inside of an inspected connection.

use crate::name::HostName;

/// The reason why inspection cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectionError {
    /// No key could be created.
    #[error("inspection: create a key: getrandom(2) returned no random bytes — check that no system call filter blocks it")]
    Key,
    /// A certificate could not be created.
    #[error("inspection: create a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be configured.
    #[error("inspection: configure TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no authority to verify servers with.
    #[error("inspection: read the trusted authorities: {0} — install the package `ca-certificates`, or set `SSL_CERT_FILE`")]
    Roots(String),
    /// The value of a secret is too short or too long.
    #[error("secret for {host}: the value has fewer than 8 or more than 4096 bytes, so it cannot be masked — use another value")]
    Length {
        /// The host of the secret.
        host: HostName,
    },
    /// The value of a secret cannot stand in a header.
    #[error("secret for {host}: the value has a character other than visible ASCII — check it for line ends and spaces")]
    Value {
        /// The host of the secret.
        host: HostName,
    },
    /// The header of a secret is no header name, or one that the gateway sets itself.
    #[error("secret for {host}: the header `{header}` cannot carry a secret — name another header")]
    Header {
        /// The host of the secret.
        host: HostName,
        /// The header.
        header: String,
    },
    /// The prefix of a placeholder is not plain.
    #[error(
        "placeholder of a secret: the prefix has more than 32 characters, or one other than letters, digits, `-` and `_` — \
         choose another prefix"
    )]
    Prefix,
}

/// The reason of a refusal inside of an inspected connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectRefusal {
    /// The client offers only protocols that cannot be inspected.
    #[error("the client offers neither HTTP/2 nor HTTP/1.1, so its requests cannot be inspected — grant the port with `/tcp`")]
    Protocol,
    /// `CONNECT`, or an upgrade other than WebSocket.
    #[error("the request is a `CONNECT`, or an upgrade other than WebSocket, in an inspected connection — send plain requests")]
    Tunnel,
    /// The header of a secret contains something else.
    #[error("the header `{header}` is reserved for a secret, but contains another credential — send only the placeholder")]
    Credential {
        /// The name of the header.
        header: String,
    },
    /// The response is encoded, so a secret in it would not be recognised.
    #[error("the server encoded its response although it was asked not to, so a secret in it cannot be masked")]
    Encoded,
    /// The frames of a WebSocket cannot be read, so a secret in them would not be recognised.
    #[error("a secret in the frames of the WebSocket cannot be masked: {0}")]
    Frames(&'static str),
}
