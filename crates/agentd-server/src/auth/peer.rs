//! The other end of a connection, as the kernel states it.

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of the user who runs the daemon, which is no process of a sandbox.
    Own,
    /// Another process, with the reason why it is not trusted.
    Untrusted(String),
}
