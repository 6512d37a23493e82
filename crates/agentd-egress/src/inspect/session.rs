//! Serves the requests of an inspected connection: HTTP/1.1 or HTTP/2, the same on both sides.

use super::{
    exchange::{Exchange, Marks, Sender},
    tasks::{EndTasks, Tasks},
    tunnel::{Tunnel, TunnelEnd},
    wire::Wire,
};
use crate::{
    http::HeadError,
    limits::{MAX_FIRST_BYTES, MAX_HEADERS, MAX_STREAMS, MAX_UNSENT, WINDOW_DOWN, WINDOW_UP},
    record::FlowRefusal,
};
use hyper::{
    client, server,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    error::Error,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::mpsc, time::sleep};

/// The maximum number of header fields of one message.
const MAX_FIELDS: usize = 100;
/// The number of bytes that a connection with HTTP/1.1 buffers in each direction.
const MAX_BUFFER: usize = 64 * 1024;
/// The size of the dynamic table of HPACK, in bytes.
const TABLE: u32 = 4096;
/// The maximum number of streams that a peer may reset before they were processed (CVE-2023-44487).
const MAX_RESETS: usize = 20;

type ClientStream = tokio_rustls::server::TlsStream<Wire>;
type ServerStream = tokio_rustls::client::TlsStream<Wire>;

/// A connection whose two TLS sessions are established.
pub(crate) struct Session {
    pub(crate) client: ClientStream,
    pub(crate) server: ServerStream,
    /// True for HTTP/2, which both sides have agreed to.
    pub(crate) two: bool,
    /// The time limit for the first request, for a head, and for the answer to a ping.
    pub(crate) time_limit: Duration,
}

/// The part of [`Exchange`] that does not depend on the connection to the server.
pub(crate) type Prepare = Box<dyn FnOnce(Sender, mpsc::Sender<Tunnel>, Arc<Marks>) -> Exchange + Send>;

impl Session {
    /// Serves requests until a side closes the connection.
    pub(crate) async fn serve(self, prepare: Prepare) -> Result<(), TunnelEnd> {
        let tasks = Tasks::default();
        let _end = EndTasks(tasks.clone());
        let (tunnels, mut tunnel) = mpsc::channel(1);
        let marks = Arc::new(Marks::default());
        let (client, server, time_limit) = (TokioIo::new(self.client), TokioIo::new(self.server), self.time_limit);
        if self.two {
            let (sender, upstream) = http2_to_server(&tasks, time_limit).handshake(server).await.map_err(broken)?;
            let exchange = Arc::new(prepare(Sender::Http2(sender), tunnels, marks.clone()));
            let service = service_fn(move |request| exchange.clone().serve(request));
            let connection = http2_to_client(tasks, time_limit).serve_connection(client, service);
            return drive(connection, upstream, &marks, time_limit, &mut tunnel).await;
        }
        let mut builder = client::conn::http1::Builder::new();
        builder.max_buf_size(MAX_BUFFER).max_headers(MAX_FIELDS);
        let (sender, upstream) = builder.handshake(server).await.map_err(broken)?;
        let exchange = Arc::new(prepare(Sender::Http1(sender.into()), tunnels, marks.clone()));
        let service = service_fn(move |request| exchange.clone().serve(request));
        let mut builder = server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(time_limit).auto_date_header(false);
        builder.max_headers(MAX_FIELDS).max_header_size(MAX_FIRST_BYTES).max_buf_size(MAX_BUFFER);
        let connection = builder.serve_connection(client, service).with_upgrades();
        drive(connection, upstream.with_upgrades(), &marks, time_limit, &mut tunnel).await
    }
}

fn http2_to_server(tasks: &Tasks, time_limit: Duration) -> client::conn::http2::Builder<Tasks> {
    let mut builder = client::conn::http2::Builder::new(tasks.clone());
    builder.timer(TokioTimer::new()).keep_alive_interval(time_limit).keep_alive_timeout(time_limit);
    builder.initial_stream_window_size(WINDOW_DOWN).initial_connection_window_size(WINDOW_DOWN);
    builder.max_header_list_size(MAX_HEADERS).header_table_size(TABLE).max_send_buf_size(MAX_UNSENT);
    builder.max_pending_accept_reset_streams(MAX_RESETS).max_local_error_reset_streams(MAX_RESETS);
    builder
}

fn http2_to_client(tasks: Tasks, time_limit: Duration) -> server::conn::http2::Builder<Tasks> {
    let mut builder = server::conn::http2::Builder::new(tasks);
    builder.timer(TokioTimer::new()).keep_alive_interval(time_limit).keep_alive_timeout(time_limit).auto_date_header(false);
    builder.initial_stream_window_size(WINDOW_UP).initial_connection_window_size(WINDOW_UP);
    builder.max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADERS).header_table_size(TABLE);
    builder.max_send_buf_size(MAX_UNSENT);
    builder.max_pending_accept_reset_streams(MAX_RESETS).max_local_error_reset_streams(MAX_RESETS);
    builder
}

/// A connection to a client. It can be shut down so that it accepts no further request.
trait Finish: Future<Output = Result<(), hyper::Error>> {
    fn finish(self: Pin<&mut Self>);
}

impl<S> Finish for server::conn::http1::UpgradeableConnection<TokioIo<ClientStream>, S>
where
    S: HttpService<hyper::body::Incoming, ResBody = super::body::Reply>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Finish for server::conn::http2::Connection<TokioIo<ClientStream>, S, Tasks>
where
    S: HttpService<hyper::body::Incoming, ResBody = super::body::Reply>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs the connections to client and server. When the server closes its connection, the client may finish the requests in
/// progress.
async fn drive(
    client: impl Finish,
    server: impl Future<Output = Result<(), hyper::Error>>,
    marks: &Marks,
    time_limit: Duration,
    tunnel: &mut mpsc::Receiver<Tunnel>,
) -> Result<(), TunnelEnd> {
    let (mut client, mut server) = (pin!(client), pin!(server));
    let mut first = pin!(sleep(time_limit));
    let (mut waiting, mut open) = (true, true);
    let ended = loop {
        tokio::select! {
            ended = &mut client => break ended,
            _ = &mut server, if open => {
                open = false;
                if !marks.upgrading.load(Ordering::Relaxed) {
                    client.as_mut().finish();
                }
            }
            () = &mut first, if waiting => {
                waiting = false;
                if !marks.seen.load(Ordering::Relaxed) {
                    return Err(TunnelEnd::Refused(FlowRefusal::TimedOut("request")));
                }
            }
        }
    };
    if let Ok(tunnel) = tunnel.try_recv() {
        // The server's side becomes available once its connection has ended.
        let released = async {
            if open {
                let _ = server.await;
            }
            Ok(())
        };
        return tokio::try_join!(released, tunnel.run()).map(drop);
    }
    match ended {
        Ok(()) => Ok(()),
        // An idle connection is closed in the same way.
        Err(error) if error.is_timeout() && marks.seen.load(Ordering::Relaxed) => Ok(()),
        Err(error) if error.is_timeout() => Err(TunnelEnd::Refused(FlowRefusal::TimedOut("request"))),
        Err(error) if error.is_parse_too_large() => Err(TunnelEnd::Refused(HeadError::TooLong.into())),
        Err(error) if error.is_parse() => Err(TunnelEnd::Refused(HeadError::NotHttp.into())),
        Err(error) => Err(broken(error)),
    }
}

/// Describes an error with its causes, which hyper leaves out.
fn broken(error: hyper::Error) -> TunnelEnd {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    TunnelEnd::Broken(io::Error::other(text))
}
