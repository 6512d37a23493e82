//! The connections of clients: HTTP/1.1 and HTTP/2 with prior knowledge, within bounds.

use super::UnixSocket;
use crate::auth::Peer;
use agentd_kernel::peer::{self, OtherNamespaces};
use axum::Router;
use hyper::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{os::fd::AsFd as _, sync::Arc, time::Duration};
use tokio::{net::UnixStream, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The time for which a client may take to send the head of a request. An idle connection is closed after the same time.
const HEAD: Duration = Duration::from_secs(30);

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

/// The bounds of all connections together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most connections at a time. Further clients wait.
    pub connections: usize,
}

/// Serves the clients of a socket until `stop` is cancelled, and then until all requests that have begun are answered.
pub async fn serve(socket: UnixSocket, router: Router, limits: ConnectionLimits, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let builder = Arc::new(builder());
    loop {
        let accepted = async {
            // A semaphore that is never closed.
            let permit = connections.clone().acquire_owned().await;
            (permit, socket.listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            () = stop.cancelled() => break,
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let (router, builder, watcher) = (router.clone(), builder.clone(), graceful.watcher());
        tokio::spawn(async move {
            let peer = verified(&stream);
            let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer.clone());
                request
            });
            let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(error, "connection");
            }
            drop(permit);
        });
    }
    // No client connects any more.
    drop(socket);
    graceful.shutdown().await;
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

/// Returns the peer of a connection, as the kernel states it.
fn verified(stream: &UnixStream) -> Peer {
    match peer::verify(stream.as_fd(), None) {
        Ok(peer::Peer::SameNamespaces | peer::Peer::DiffersIn(_)) => Peer::Own,
        Ok(peer::Peer::OtherNamespaces(OtherNamespaces { namespace, .. })) => Peer::Untrusted(format!(
            "the process that connected is in another {namespace} namespace, as the commands of a sandbox are — connect from outside \
             of containers and sandboxes"
        )),
        Err(error) => Peer::Untrusted(error.to_string()),
    }
}
