//! What the daemon listens on, and the clients that it accepts there.

use super::{socket::UnixSocket, tcp::TcpEndpoint, tls::TlsServer};
use crate::auth::{ClientCertificate, Peer};
use agentd_kernel::peer::{self, OtherNamespaces};
use std::{io, net::IpAddr, os::fd::AsFd as _, time::Duration};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// The time for which a client may take to establish TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the daemon listens on.
#[derive(Debug)]
pub enum Endpoint {
    /// The Unix socket of the user.
    Unix(UnixSocket),
    /// A TCP address.
    Tcp(TcpEndpoint),
}

/// A client whose connection has no further state yet.
pub(super) enum AcceptedClient {
    Unix(UnixStream),
    Tcp(TcpStream, IpAddr, Option<TlsServer>),
}

/// The bytes of a connection.
pub(super) enum ClientStream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Endpoint {
    /// Waits for a client.
    pub(super) async fn accept(&self) -> io::Result<AcceptedClient> {
        match self {
            Self::Unix(socket) => Ok(AcceptedClient::Unix(socket.listener.accept().await?.0)),
            Self::Tcp(endpoint) => {
                let (stream, address) = endpoint.accept().await?;
                Ok(AcceptedClient::Tcp(stream, address, endpoint.tls()))
            }
        }
    }
}

impl AcceptedClient {
    /// Establishes TLS if necessary. Returns the stream and the peer; `None` if the client does not establish TLS in time.
    pub async fn connected(self) -> Option<(ClientStream, Peer)> {
        match self {
            Self::Unix(stream) => {
                let peer = verified(&stream);
                Some((ClientStream::Unix(stream), peer))
            }
            Self::Tcp(stream, address, None) => Some((ClientStream::Tcp(stream), Peer::Remote(address, None))),
            Self::Tcp(stream, address, Some(tls)) => match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificate = ClientCertificate::of(stream.get_ref().1.peer_certificates(), tls.authorities());
                    Some((ClientStream::Tls(Box::new(stream)), Peer::Remote(address, certificate)))
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, %address, "TLS handshake");
                    None
                }
                Err(_) => {
                    tracing::debug!(%address, "TLS handshake: not finished in {} s", HANDSHAKE.as_secs());
                    None
                }
            },
        }
    }
}

/// Returns the peer of a connection, as the kernel states it.
fn verified(stream: &UnixStream) -> Peer {
    match peer::verify(stream.as_fd(), None) {
        Ok(peer::Peer::SameNamespaces | peer::Peer::DiffersIn(_)) => Peer::Own,
        Ok(peer::Peer::OtherNamespaces(OtherNamespaces { namespace, .. })) => Peer::Untrusted(format!(
            "the process that connected is in another {namespace} namespace, as the commands of a sandbox are — connect from outside \
             of containers and sandboxes, or send an API key"
        )),
        Err(error) => Peer::Untrusted(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::tls::{TlsServer, tests::pair};
    use tokio::net::TcpListener;

    #[tokio::test(start_paused = true)]
    async fn client_that_does_not_finish_the_handshake_of_tls_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let tls = TlsServer::load(pair(folder.path(), "a")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut client, sent).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = AcceptedClient::Tcp(stream, IpAddr::from([127, 0, 0, 1]), Some(tls.clone()));
            // The client is still there.
            assert!(accepted.connected().await.is_none());
            drop(client);
        }
    }
}
