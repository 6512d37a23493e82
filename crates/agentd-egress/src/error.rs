//! Errors of starting a gateway.

use crate::{grant::NetGrant, inspect::error::InspectionError, name::HostName};
use std::io;

/// The reason why a gateway did not start, or did not take over a socket or grants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The type of a socket is not the one that its field of `GatewaySockets` requires.
    #[error("egress gateway: take over a socket: its type is {found}, expected {expected} — report this as a bug of agentd")]
    Kind {
        /// The required type.
        expected: &'static str,
        /// The type of the socket.
        found: &'static str,
    },
    /// A TCP socket does not listen.
    #[error("egress gateway: take over a socket: the TCP socket does not listen — report this as a bug of agentd")]
    NotListening,
    /// A socket shares its port.
    #[error(
        "egress gateway: take over a socket: SO_REUSEADDR or SO_REUSEPORT is set, so another program could bind the port — \
         report this as a bug of agentd"
    )]
    Shared,
    /// A call on a socket failed.
    #[error("egress gateway: take over a socket: {0}")]
    Socket(#[source] io::Error),
    /// A rule needs the content of TLS.
    #[error(
        "network grant {grant}: a method and path inside of TLS need inspection — set `GatewayConfig::inspection`, or remove the \
         method and path"
    )]
    Inspection {
        /// The grant.
        grant: Box<NetGrant>,
    },
    /// No connection to the host of a secret would be inspected.
    #[error("secret for {name}:{port}: no network grant covers this host and port with TLS — add `{name}:{port}/tls`")]
    Secret {
        /// The host of the secret.
        name: HostName,
        /// The port of the host.
        port: u16,
    },
    /// Inspection could not be set up.
    #[error(transparent)]
    SetUp(#[from] InspectionError),
    /// The sandbox is in a virtual machine, and a grant allows UDP.
    #[error(
        "network grant {grant}: UDP is not carried out of a virtual machine — use the backend linux-native or container, or \
         remove the grant"
    )]
    Datagrams {
        /// The grant of UDP.
        grant: Box<NetGrant>,
    },
    /// Requests that a grant does not allow could be sent over UDP.
    #[error(
        "network grant {udp}: programs could send requests over UDP (QUIC) that {ruled} does not allow — remove one of the two \
         grants"
    )]
    Bypassed {
        /// The grant of UDP.
        udp: Box<NetGrant>,
        /// The grant with a method and path.
        ruled: Box<NetGrant>,
    },
    /// Requests to the host of a secret could be sent over UDP.
    #[error("secret for {name}:{port}: a network grant allows UDP (QUIC) to this host and port — remove that grant")]
    SecretBypassed {
        /// The host of the secret.
        name: HostName,
        /// The port of the host.
        port: u16,
    },
    /// The process may not open enough descriptors.
    #[error(
        "egress gateway: the limits of the sandbox need {needed} file descriptors, but this process may open only {limit} \
         — raise the limit (`ulimit -n`), or lower the number of connections"
    )]
    Descriptors {
        /// The maximum number of descriptors that the gateway opens.
        needed: usize,
        /// RLIMIT_NOFILE.
        limit: u64,
    },
    /// The event loop or its thread could not be created.
    #[error("egress gateway: start the event loop: {0}")]
    Start(#[source] io::Error),
    /// The gateway's thread has ended.
    #[error("egress gateway: the gateway has stopped — start the sandbox again")]
    Stopped,
}

impl GatewayError {
    pub(crate) fn socket(error: impl Into<io::Error>) -> Self {
        Self::Socket(error.into())
    }
}
