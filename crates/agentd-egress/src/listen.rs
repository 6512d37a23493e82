//! The listeners of a sandbox: which sockets are taken over, and the loop that accepts from a socket or from a guest.

use crate::{error::GatewayError, gate::Gate, guest::GuestPort, pktinfo, socket::Client};
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
/// The descriptor is not a listening TCP socket, or other programs could also bind its port.
pub(crate) fn listener(socket: OwnedFd) -> Result<std::net::TcpListener, GatewayError> {
    check(&socket, SocketType::STREAM)?;
    if !sockopt::socket_acceptconn(&socket).map_err(GatewayError::socket)? {
        return Err(GatewayError::NotListening);
    }
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(GatewayError::socket)?;
    Ok(listener)
}

/// Takes over a UDP socket.
///
/// # Errors
/// The descriptor is not a UDP socket, or another program could bind its port.
pub(crate) fn datagrams(socket: OwnedFd) -> Result<std::net::UdpSocket, GatewayError> {
    check(&socket, SocketType::DGRAM)?;
    pktinfo::enable(socket.as_fd()).map_err(GatewayError::socket)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true).map_err(GatewayError::socket)?;
    Ok(socket)
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

/// Serves a connection. The last argument is true if the limit on connections per second delayed the connection.
type Serve<F> = fn(Arc<Gate>, Client, bool) -> F;

/// The source of connections.
pub(crate) enum Listener {
    /// A socket in the network namespace of the sandbox.
    Kernel(TcpListener),
    /// The agent in the virtual machine of the sandbox.
    Guest(Arc<GuestPort>),
}

impl Listener {
    /// Waits for a connection.
    async fn next(&self) -> Client {
        loop {
            let accepted = match self {
                Self::Kernel(listener) => listener.accept().await.map(|(client, _)| Client::accepted(client)),
                Self::Guest(port) => Client::of_guest(port.connections.next().await).map(Some),
            };
            match accepted {
                Ok(Some(client)) => return client,
                Ok(None) => {}
                Err(error) => pause(error, "accept a connection of a sandbox").await,
            }
        }
    }

    /// Returns a connection that waits. `None` if it was reset meanwhile.
    ///
    /// # Errors
    /// `WouldBlock` if no connection waits, and the errors of accept(2).
    fn waiting(&self) -> io::Result<Option<Client>> {
        match self {
            // Calls accept4(2) directly, because the event loop may not have reported a waiting connection yet.
            Self::Kernel(listener) => {
                let client = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
                TcpStream::from_std(client.into()).map(Client::accepted)
            }
            Self::Guest(port) => Client::of_guest(port.connections.pop().ok_or(io::ErrorKind::WouldBlock)?).map(Some),
        }
    }
}

/// Accepts connections until the gateway stops, and serves each in a task of its own.
pub(crate) async fn accept<F>(gate: Arc<Gate>, listener: Arc<Listener>, serve: Serve<F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let all = async {
        loop {
            let client = listener.next().await;
            // Further connections wait, up to the backlog. A listener without connections holds no permit.
            let Ok(permit) = gate.flows.clone().acquire_owned().await else { return };
            begin(&gate, client, permit, serve).await;
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
}

/// Accepts the connections that wait, and serves each like [`accept`]. Returns when no connection waits.
pub(crate) async fn accept_waiting<F>(gate: &Arc<Gate>, listener: &Listener, serve: Serve<F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok(permit) = gate.flows.clone().acquire_owned().await {
        match listener.waiting() {
            Ok(Some(client)) => begin(gate, client, permit, serve).await,
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => pause(error, "accept a waiting connection of a sandbox").await,
        }
    }
}

/// Starts the task that serves a connection, as soon as the limit on connections per second permits.
async fn begin<F>(gate: &Arc<Gate>, client: Client, permit: OwnedSemaphorePermit, serve: Serve<F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let delayed = gate.accepted.turn().await;
    let serving = serve(gate.clone(), client, delayed);
    tokio::spawn(async move {
        serving.await;
        drop(permit);
    });
}

/// Logs a failure that may pass, and waits.
pub(crate) async fn pause(error: io::Error, doing: &str) {
    Err::<(), _>(error).or_debug(doing, "egress");
    tokio::time::sleep(PAUSE).await;
}
