//! The connections of clients: HTTP/1.1 and HTTP/2 with prior knowledge, within bounds.

use super::endpoint::{ClientStream, Endpoint};
use crate::auth::{FirstAuthentication, Peer};
use axum::Router;
use hyper::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The time for which a client may take to send the head of a request. An idle connection is closed after the same time.
const HEAD: Duration = Duration::from_secs(30);

/// The time within which a remote client must have sent a request that is authenticated.
const AUTHENTICATION: Duration = Duration::from_secs(30);

/// The most bytes of the head of a request.
const MAX_HEAD: usize = 64 << 10;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// The most requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 128;

/// The bytes that the daemon receives of one HTTP/2 request, and of all requests of a connection, before they are read. A command
/// that does not read its input therefore holds up no other request of the connection.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// The time after which an HTTP/2 client is asked whether it is alive, and for which its answer is awaited.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The pause after the kernel accepted no connection, for example because this process has too many descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The bounds of the connections of one endpoint together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most connections at a time. Further clients wait.
    pub connections: usize,
}

/// Serves the clients of an endpoint until `stop` is cancelled, and then until all requests that have begun are answered.
pub async fn serve(endpoint: Endpoint, router: Router, limits: ConnectionLimits, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let builder = Arc::new(builder());
    loop {
        let accepted = async {
            // A semaphore that is never closed.
            let permit = connections.clone().acquire_owned().await;
            (permit, endpoint.accept().await)
        };
        let (permit, client) = tokio::select! {
            () = stop.cancelled() => break,
            (permit, accepted) = accepted => match accepted {
                Ok(client) => (permit, client),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let (router, builder, watcher, stop) = (router.clone(), builder.clone(), graceful.watcher(), stop.clone());
        tokio::spawn(async move {
            let connected = tokio::select! {
                connected = client.connected() => connected,
                // A client without TLS has sent no request.
                () = stop.cancelled() => None,
            };
            if let Some((stream, peer)) = connected {
                match stream {
                    ClientStream::Unix(stream) => connection(stream, peer, router, &builder, watcher).await,
                    ClientStream::Tcp(stream) => connection(stream, peer, router, &builder, watcher).await,
                    ClientStream::Tls(stream) => connection(stream, peer, router, &builder, watcher).await,
                }
            }
            drop(permit);
        });
    }
    // No client connects any more.
    drop(endpoint);
    graceful.shutdown().await;
}

/// Serves one connection until its end. A remote client that is not authenticated in time loses its connection, because it could
/// otherwise keep a place for ever: by an incomplete head, or by answers to pings.
async fn connection<S>(stream: S, peer: Peer, router: Router, builder: &Builder<TokioExecutor>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let first = FirstAuthentication::default();
    let is_bounded = matches!(peer, Peer::Remote(..));
    let late = first.clone();
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(first.clone());
        request
    });
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let served = watcher.watch(connection.into_owned());
    let overdue = async {
        if !is_bounded || tokio::time::timeout(AUTHENTICATION, late.noted()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::debug!(error, "connection");
        },
        () = overdue => tracing::debug!("connection: no request was authenticated in {} s", AUTHENTICATION.as_secs()),
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    // The library also bounds streams that the client resets at once (CVE-2023-44487).
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Extension, routing::get};
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const REMOTE: Peer = Peer::Remote(IpAddr::V4(Ipv4Addr::LOCALHOST), None);

    /// Returns what a client receives that requests `path` and then waits. The server answers after twice the time for the first
    /// authentication.
    async fn received(path: &str, peer: Peer) -> String {
        let late = async || {
            tokio::time::sleep(2 * AUTHENTICATION).await;
            "late"
        };
        let noting = async move |Extension(first): Extension<FirstAuthentication>| {
            first.note();
            late().await
        };
        let router = Router::new().route("/authenticated", get(noting)).route("/stranger", get(late));
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let graceful = GracefulShutdown::new();
        let (builder, watcher) = (builder(), graceful.watcher());
        let server = connection(ours, peer, router, &builder, watcher);
        let client = async {
            theirs.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
            let mut received = String::new();
            theirs.read_to_string(&mut received).await.unwrap();
            received
        };
        tokio::join!(server, client).1
    }

    #[tokio::test(start_paused = true)]
    async fn remote_client_that_is_not_authenticated_in_time_loses_its_connection() {
        assert_eq!(received("/stranger", REMOTE).await, "");
        assert!(received("/authenticated", REMOTE).await.ends_with("late"));
        assert!(received("/stranger", Peer::Own).await.ends_with("late"));
    }

    #[tokio::test(start_paused = true)]
    async fn remote_client_that_sends_nothing_loses_its_connection() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let graceful = GracefulShutdown::new();
        connection(ours, REMOTE, Router::new(), &builder(), graceful.watcher()).await;
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }
}
