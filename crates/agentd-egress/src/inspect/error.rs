//! Errors of the settings of inspection, and refusals inside of an inspected connection.

use crate::name::HostName;

/// The reason why inspection cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectionError {
    /// No key could be made.
    #[error("inspection: make a key: the system gives no random bytes — check that getrandom(2) works")]
    Key,
    /// A certificate could not be made.
    #[error("inspection: make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be configured.
    #[error("inspection: configure TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no authority to verify servers with.
    #[error("inspection: read the trusted authorities: {0} — install the package `ca-certificates`, or set `SSL_CERT_FILE`")]
    Roots(String),
    /// The value of a secret is too short or too long.
    #[error("secret for {host}: the value must have 8 to 4096 bytes, else it cannot be masked — use a longer one")]
    Length {
        /// The host of the secret.
        host: HostName,
    },
    /// The value of a secret cannot stand in a header.
    #[error("secret for {host}: the value must consist of visible ASCII characters — check it for line ends and spaces")]
    Value {
        /// The host of the secret.
        host: HostName,
    },
    /// The header of a secret is no header name, or one that the gateway sets itself.
    #[error("secret for {host}: `{header}` is no header that can carry a secret — name another header")]
    Header {
        /// The host of the secret.
        host: HostName,
        /// The header.
        header: String,
    },
    /// The prefix of a placeholder is not plain.
    #[error("placeholder of a secret: the prefix must have at most 32 letters, digits, `-` and `_` — choose another")]
    Prefix,
}

/// The reason of a refusal inside of an inspected connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectRefusal {
    /// The client offers only protocols that cannot be inspected.
    #[error("the client offers neither HTTP/2 nor HTTP/1.1, and nothing else can be inspected — grant the port with `/tcp`")]
    Protocol,
    /// `CONNECT`, or an upgrade other than WebSocket.
    #[error("`CONNECT` and upgrades other than WebSocket are not possible in an inspected connection — send plain requests")]
    Tunnel,
    /// A header could replace what was checked.
    #[error(
        "the header `{header}` can replace the method or path at the server, after the check — send the request without this header"
    )]
    Override {
        /// The name of the header.
        header: &'static str,
    },
    /// The header of a secret contains something else.
    #[error("the header `{header}` is reserved for a secret, and has a credential of its own — send the placeholder alone")]
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
