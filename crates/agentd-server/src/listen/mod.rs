//! The Unix socket of the daemon, and the connections of its clients.

mod connections;
mod socket;

pub use connections::{ConnectionLimits, serve};
pub use socket::{ListenError, UnixSocket};
