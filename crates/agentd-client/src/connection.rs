//! Connects to a daemon.

use crate::{client::Client, error::ClientError};
use http::Uri;
use hyper_util::rt::TokioIo;
use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};
use tokio::net::UnixStream;
use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The time after which an idle connection is tested, and the longest wait for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The bytes of one reply, and of all replies together, that the daemon may send before the program has read them. A program
/// that does not read one reply delays no other one, as long as it leaves fewer than 64 unread.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// The daemon to connect to, and the credentials.
#[derive(Clone)]
pub struct Connection {
    address: DaemonAddress,
    key: Option<AsciiMetadataValue>,
    tls: ClientTlsConfig,
    /// True if the certificates of the system are not trusted.
    names_authority: bool,
}

#[derive(Clone, Debug)]
enum DaemonAddress {
    Unix(PathBuf),
    Tls(String),
    Loopback(String),
}

impl Connection {
    /// Returns the connection with the daemon that listens on a Unix socket. The daemon knows the user of this process.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self::to(DaemonAddress::Unix(socket.into()))
    }

    /// Returns the connection by TLS with a daemon at `HOST:PORT`. The certificates that the system trusts are trusted.
    pub fn tls(authority: impl Into<String>) -> Self {
        Self::to(DaemonAddress::Tls(authority.into()))
    }

    /// Returns the connection without TLS with a daemon at `HOST:PORT`. The host must be a loopback address, because an API key
    /// would otherwise be readable on the network.
    pub fn loopback(authority: impl Into<String>) -> Self {
        Self::to(DaemonAddress::Loopback(authority.into()))
    }

    fn to(address: DaemonAddress) -> Self {
        Self { address, key: None, tls: ClientTlsConfig::new(), names_authority: false }
    }

    /// Sends an API key or another bearer token with each call.
    ///
    /// # Errors
    /// [`ClientError::Key`] if a header cannot contain the key.
    pub fn api_key(self, key: &str) -> Result<Self, ClientError> {
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {key}")).map_err(|_| ClientError::Key)?;
        value.set_sensitive(true);
        Ok(Self { key: Some(value), ..self })
    }

    /// Trusts the certificates of this authority (PEM) instead of those that the system trusts.
    pub fn authority(self, certificates: impl AsRef<[u8]>) -> Self {
        Self { tls: self.tls.ca_certificate(Certificate::from_pem(certificates)), names_authority: true, ..self }
    }

    /// Sends a client certificate (PEM), which identifies the principal.
    pub fn identity(self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self { tls: self.tls.identity(Identity::from_pem(certificate, key)), ..self }
    }

    /// Connects. A connection that breaks is made again by the next call.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Plaintext`] and [`ClientError::Connect`].
    pub async fn connect(self) -> Result<Client, ClientError> {
        let channel = match self.address {
            DaemonAddress::Unix(socket) => {
                let shown = socket.display().to_string();
                let connector = tower::service_fn(move |_: Uri| {
                    let socket = socket.clone();
                    async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
                });
                // HTTP needs a name for the host, which nobody looks up.
                let connected = endpoint("http://localhost")?.connect_with_connector(connector).await;
                connected.map_err(|source| ClientError::Connect { address: shown, source })?
            }
            DaemonAddress::Loopback(authority) => {
                let endpoint = endpoint(&format!("http://{authority}"))?;
                if !endpoint.uri().host().is_some_and(is_loopback) {
                    return Err(ClientError::Plaintext(authority));
                }
                connected(endpoint, authority).await?
            }
            DaemonAddress::Tls(authority) => {
                let tls = if self.names_authority { self.tls } else { self.tls.with_native_roots() };
                let endpoint = endpoint(&format!("https://{authority}"))?;
                let secured = endpoint.tls_config(tls);
                let endpoint = secured.map_err(|source| ClientError::Connect { address: authority.clone(), source })?;
                connected(endpoint, authority).await?
            }
        };
        Ok(Client::new(channel, self.key))
    }
}

fn endpoint(uri: &str) -> Result<Endpoint, ClientError> {
    let endpoint = Endpoint::from_shared(uri.to_owned()).map_err(|_| ClientError::Address(uri.to_owned()))?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE))
}

async fn connected(endpoint: Endpoint, address: String) -> Result<Channel, ClientError> {
    endpoint.connect().await.map_err(|source| ClientError::Connect { address, source })
}

fn is_loopback(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).field("has_key", &self.key.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plaintext_connection_to_another_host_is_refused() {
        for authority in ["192.0.2.1:1", "example.com:1", "localhost.example.com:1", "[2001:db8::1]:1", "127.0.0.1@192.0.2.1:1"] {
            let refused = Connection::loopback(authority).connect().await.unwrap_err();
            assert!(matches!(refused, ClientError::Plaintext(_)), "{authority}: {refused}");
        }
    }

    #[test]
    fn key_is_not_in_the_debug_output() {
        let connection = Connection::unix("/run/s").api_key("agentd_secret").unwrap();
        assert!(!format!("{connection:?}").contains("secret"));
        assert!(Connection::unix("/run/s").api_key("a\nb").is_err());
    }
}
