//! The listening sockets of a sandbox: which ones are taken over, and the loop that accepts from them.

use crate::{error::GatewayError, gate::Gate};
use agentd_log::LogFailure as _;
use rustix::net::{SocketFlags, SocketType, accept_with, sockopt};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};

/// The pause after a failed call, so that a lasting failure such as EMFILE does not use a whole processor.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes over a listening TCP socket.
///
/// # Errors
/// The descriptor is not a listening TCP socket, or other programs could bind its port too.
pub(crate) fn listener(socket: OwnedFd) -> Result<std::net::TcpListener, GatewayError> {
    check(&socket, SocketType::STREAM)?;
    if !sockopt::socket_acceptconn(&socket).map_err(GatewayError::socket)? {
        return Err(GatewayError::NotListening);
    }
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(GatewayError::socket)?;
    Ok(listener)
}

/// Returns the name of a socket type (`socket(2)`).
fn name(kind: SocketType) -> &'static str {
    match kind {
        SocketType::STREAM => "SOCK_STREAM",
        SocketType::DGRAM => "SOCK_DGRAM",
        SocketType::RAW => "SOCK_RAW",
        SocketType::SEQPACKET => "SOCK_SEQPACKET",
        _ => "unknown",
    }
}

/// Checks the type of a socket, and that no other socket can share its port. With `SO_REUSEADDR` or `SO_REUSEPORT`, a program in
/// the sandbox could bind the same port, and receive connections to the gateway.
pub(crate) fn check(socket: impl AsFd, kind: SocketType) -> Result<(), GatewayError> {
    let socket = socket.as_fd();
    check_type(socket, kind)?;
    let shared = sockopt::socket_reuseaddr(socket).map_err(GatewayError::socket)?
        || sockopt::socket_reuseport(socket).map_err(GatewayError::socket)?;
    if shared { Err(GatewayError::Shared) } else { Ok(()) }
}

/// Checks the type of a socket.
pub(crate) fn check_type(socket: impl AsFd, kind: SocketType) -> Result<(), GatewayError> {
    let found = sockopt::socket_type(socket).map_err(GatewayError::socket)?;
    if found == kind { Ok(()) } else { Err(GatewayError::Kind { expected: name(kind), found: name(found) }) }
}

/// Accepts connections until the gateway stops, and serves each in a task of its own.
pub(crate) async fn accept<F>(gate: Arc<Gate>, listener: Arc<TcpListener>, serve: fn(Arc<Gate>, TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let all = async {
        loop {
            let client = next(&listener).await;
            // Further connections wait in the kernel, up to the backlog. A listener without connections holds no permit.
            let Ok(permit) = gate.flows.clone().acquire_owned().await else { return };
            begin(&gate, client, permit, serve).await;
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
}

/// Accepts the connections that wait in the kernel, and serves each like [`accept`]. Returns when no connection waits.
pub(crate) async fn accept_waiting<F>(gate: &Arc<Gate>, listener: &TcpListener, serve: fn(Arc<Gate>, TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok(permit) = gate.flows.clone().acquire_owned().await {
        // Calls accept4(2) directly, because the event loop may not have reported a waiting connection yet.
        let accepted = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        match accepted.map_err(io::Error::from).and_then(|client| TcpStream::from_std(client.into())) {
            Ok(client) => begin(gate, client, permit, serve).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => pause(error, "accept a waiting connection of a sandbox").await,
        }
    }
}

/// Starts the task that serves a connection, as soon as the limit on connections per second permits.
async fn begin<F>(gate: &Arc<Gate>, client: TcpStream, permit: OwnedSemaphorePermit, serve: fn(Arc<Gate>, TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    gate.accepted.turn().await;
    let serving = serve(gate.clone(), client);
    tokio::spawn(async move {
        serving.await;
        drop(permit);
    });
}

async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            Err(error) => pause(error, "accept a connection of a sandbox").await,
        }
    }
}

/// Logs a failure that may pass, and waits.
pub(crate) async fn pause(error: io::Error, doing: &str) {
    Err::<(), _>(error).or_debug(doing, "egress");
    tokio::time::sleep(PAUSE).await;
}
