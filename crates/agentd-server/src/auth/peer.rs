//! The other end of a connection, as the kernel and TLS state it.

use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process that connected to a Unix socket of the daemon (`SO_PEERCRED` of `unix(7)`).
    Local {
        /// The user.
        uid: u32,
        /// The groups of the process: the effective one and the supplementary ones.
        gids: Vec<u32>,
    },
    /// A client that connected by TCP.
    Remote {
        /// Its address.
        address: SocketAddr,
    },
}
