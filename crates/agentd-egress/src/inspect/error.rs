//! Errors of the settings of inspection, and refusals inside an inspected connection.

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
    /// The value of a secret is not valid in a header.
    #[error("secret for {host}: the value has a character other than visible ASCII — check it for line ends and spaces")]
    Value {
        /// The host of the secret.
        host: HostName,
    },
    /// The header of a secret is not a header name, or is one that the gateway sets itself.
    #[error("secret for {host}: the header `{header}` cannot carry a secret — name another header")]
    Header {
        /// The host of the secret.
        host: HostName,
        /// The header.
        header: String,
    },
    /// A key of AWS is malformed.
    #[error(
        "secret for {host}: the value is not ACCESS_KEY_ID:SECRET_ACCESS_KEY or ACCESS_KEY_ID:SECRET_ACCESS_KEY:SESSION_TOKEN, or a \
         part has fewer than 8 bytes — correct the value"
    )]
    AwsForm {
        /// The host of the key.
        host: HostName,
    },
    /// The prefix of a placeholder is not plain.
    #[error(
        "placeholder of a secret: the prefix has more than 32 characters, or one other than letters, digits, `-` and `_` — \
         choose another prefix"
    )]
    Prefix,
}

/// The reason for a refusal inside an inspected connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectRefusal {
    /// The client offers only protocols that cannot be inspected.
    #[error("the client offers neither HTTP/2 nor HTTP/1.1, so its requests cannot be inspected — grant the port with `/tcp`")]
    Protocol,
    /// The request is a `CONNECT`, or an upgrade other than WebSocket.
    #[error("the request is a `CONNECT`, or an upgrade other than WebSocket, in an inspected connection — send plain requests")]
    Tunnel,
    /// The header of a secret contains something other than the placeholder.
    #[error("the header `{header}` is reserved for a secret, but contains another credential — send only the placeholder")]
    Credential {
        /// The name of the header.
        header: String,
    },
    /// Another part of the request than the header of a secret can carry a credential.
    #[error(
        "the {place} can carry another credential than the secret for this host — send the request without it, or use --secret \
         for this header too"
    )]
    OtherCredential {
        /// The header or the parameter of the query.
        place: String,
    },
    /// The response is encoded, so a secret in it would not be recognised.
    #[error(
        "the server encoded its response although the request forbids that, so a secret in the response cannot be masked — \
         use this host without --secret"
    )]
    Encoded,
    /// The request is not signed again with the real key of AWS.
    #[error(transparent)]
    Aws(#[from] AwsRefusal),
    /// The frames of a WebSocket cannot be read, so a secret in them would not be recognised.
    #[error("a secret in the frames of the WebSocket cannot be masked: {0} — use this host without --secret")]
    Frames(&'static str),
}

/// The reason why a request is not signed with a key of AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AwsRefusal {
    /// The query is a credential.
    #[error("the query has a signature of AWS (a presigned URL) — sign in the header `Authorization`")]
    Presigned,
    /// The parts of the body have signatures of their own, which depend on the first one.
    #[error(
        "the parts of the body have signatures of AWS (`STREAMING-AWS4-…`), which the gateway cannot replace — sign the whole \
         body, or use `UNSIGNED-PAYLOAD`"
    )]
    Chunked,
    /// The digest of the body is unknown before the body has been sent.
    #[error(
        "the request has a body, but its signature of AWS has no header `x-amz-content-sha256` — send the digest of the body or \
         `UNSIGNED-PAYLOAD` in this header"
    )]
    Digest,
    /// The signature is for another region or service.
    #[error("the signature of AWS is for another region or service than {region}/{service} — use this region and service")]
    Scope {
        /// The region of the key.
        region: String,
        /// The service of the key.
        service: String,
    },
    /// The time is missing, differs from the clock of this host, or from the day of the scope.
    #[error(
        "the header `x-amz-date` of the signature of AWS is missing, or is not the current time — set it to the current \
         time in UTC"
    )]
    Time,
    /// The signature is not that of the placeholder.
    #[error(
        "the signature of AWS is not that of the placeholder for this request — sign with the placeholder, and change nothing later"
    )]
    Signature,
    /// The headers of the signature are not of the supported form.
    #[error(
        "the form of the AWS signature is not supported — use AWS4-HMAC-SHA256 with the signed headers `host` and `x-amz-date`, each \
         signed header in the request"
    )]
    Form,
}
