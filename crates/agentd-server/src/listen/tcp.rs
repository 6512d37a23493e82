//! A TCP address on which the daemon listens: with TLS, or without on loopback.

use super::tls::TlsServer;
use rustix::net::sockopt;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// The time after which the kernel asks a silent client whether it is alive, the time between two questions, and their number.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const QUESTIONS: u32 = 3;

/// The time for which a client may leave bytes unacknowledged.
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// The reason why the daemon cannot listen on an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// Keys and data would cross a network as plain text.
    #[error(
        "listen: {0}: other machines can reach the address, and there is no TLS — name a certificate (--tls-cert, --tls-key), or a \
         loopback address"
    )]
    Plaintext(SocketAddr),
    /// The address cannot be used.
    #[error("listen: {address}: {source} — use a free port of an address of this host")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// A TCP address that listens. Its clients need a credential.
#[derive(Debug)]
pub struct TcpEndpoint {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsServer>,
}

impl TcpEndpoint {
    /// Listens on an address: with TLS if there is a certificate, and otherwise only on loopback.
    ///
    /// # Errors
    /// [`TcpError`].
    pub async fn bind(address: SocketAddr, tls: Option<TlsServer>) -> Result<Self, TcpError> {
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(TcpError::Plaintext(address));
        }
        let failed = |source| TcpError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, tls })
    }

    /// Returns the address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Waits for a client. Returns its connection and its address.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, address) = self.listener.accept().await?;
        // A socket without these options works.
        let socket = stream.as_fd();
        let set = sockopt::set_socket_keepalive(socket, true)
            .and_then(|()| sockopt::set_tcp_keepidle(socket, IDLE))
            .and_then(|()| sockopt::set_tcp_keepintvl(socket, INTERVAL))
            .and_then(|()| sockopt::set_tcp_keepcnt(socket, QUESTIONS))
            .and_then(|()| sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MS))
            .and_then(|()| sockopt::set_tcp_nodelay(socket, true));
        if let Err(error) = set {
            tracing::debug!(%error, "set the options of a connection");
        }
        Ok((stream, address.ip().to_canonical()))
    }

    /// Returns TLS, if there is a certificate.
    pub(super) fn tls(&self) -> Option<TlsServer> {
        self.tls.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plaintext_is_refused_on_addresses_that_other_machines_reach() {
        for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "[2001:db8::1]:0", "[::ffff:192.0.2.1]:0"] {
            let refused = TcpEndpoint::bind(address.parse().unwrap(), None).await;
            assert!(matches!(refused, Err(TcpError::Plaintext(_))), "{address}: {refused:?}");
        }
        let endpoint = TcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        assert!(endpoint.url().starts_with("http://127.0.0.1:") && !endpoint.url().ends_with(":0"));
        let taken = TcpEndpoint::bind(endpoint.address, None).await;
        assert!(matches!(taken, Err(TcpError::Bind { .. })), "{taken:?}");
    }
}
