//! Connects to the Unix socket of a daemon, and sets the bounds of all connections.

use crate::{client::Client, error::ClientError};
use hyper_util::rt::TokioIo;
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The time after which an idle connection is tested, and the longest wait for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The bytes of one reply, and of all replies together, that the daemon may send before the program has read them. A program
/// that does not read one reply delays no other one, as long as it leaves fewer than 64 unread.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

impl Client {
    /// Connects to the daemon that listens on a Unix socket. The daemon knows the user of this process. A connection that breaks
    /// is made again by the next call.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, ClientError> {
        let socket = socket.as_ref().to_owned();
        let shown = socket.display().to_string();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // HTTP needs a name for the host, which nobody looks up.
        let endpoint = bounded(Endpoint::from_static("http://localhost"));
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => Ok(Self::new(channel, None)),
            Err(source) => Err(ClientError::Connect { address: shown, source }),
        }
    }
}

/// Sets the bounds of a connection.
pub(crate) fn bounded(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
}
