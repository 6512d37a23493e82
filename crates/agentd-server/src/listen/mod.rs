//! The Unix socket and the TCP addresses of the daemon, and the connections of their clients.

mod connections;
mod endpoint;
mod socket;
mod tcp;
mod tls;

pub use connections::{ConnectionLimits, serve};
pub use endpoint::Endpoint;
pub use socket::{ListenError, UnixSocket};
pub use tcp::{TcpEndpoint, TcpError};
pub use tls::{TlsError, TlsFiles, TlsServer};
