//! The other end of a connection.

use super::certificate::ClientCertificate;
use std::net::IpAddr;
use tokio_util::sync::CancellationToken;

/// The other end of a connection, as the kernel states it.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A process of the user who runs the daemon, which is no process of a sandbox.
    Own,
    /// Another process, with the reason why it is not trusted.
    Untrusted(String),
    /// A client that connected by TCP, with its certificate, if it has one. It needs a credential.
    Remote(IpAddr, Option<ClientCertificate>),
}

impl Peer {
    /// Returns the address; `None` for a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Remote(address, _) => Some(*address),
            Self::Own | Self::Untrusted(_) => None,
        }
    }
}

/// Tells a connection that one of its requests was authenticated. A connection without such a request is closed after a time.
#[derive(Debug, Clone, Default)]
pub struct FirstAuthentication(CancellationToken);

impl FirstAuthentication {
    /// Records that a request was authenticated.
    pub fn note(&self) {
        self.0.cancel();
    }

    /// Returns once a request was authenticated.
    pub async fn noted(&self) {
        self.0.cancelled().await;
    }
}
