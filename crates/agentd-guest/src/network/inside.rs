//! The guest's side of the connections of its sandbox: accepts them, and carries their bytes to the host.

use super::{
    super::{
        mux::Mux,
        protocol::FromGuest,
        stream::{RecvStream, SendStream},
    },
    channel::{Channel, WaitingQuery},
};
use agentd_core::{Control, ControlError, IsolationError};
use agentd_egress::{
    GatewayError,
    agent::{AgentAttempts, AgentDatagrams, AgentListener},
    guest::MAX_QUERIES,
};
use agentd_isolation::sandbox::{NamespaceSockets, SharedKernelSandbox};
use agentd_kernel::gateway::GatewaySocket;
use agentd_log::LogFailure as _;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
};

const DNS: u16 = 53;
/// The pause after each reported attempt. Further packets wait in the sockets' buffers, and the kernel drops what does not fit.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(5);

/// The sockets of the gateway in the sandbox's network namespace, and the connections that they have accepted.
pub(crate) struct SandboxNetwork {
    shared: Arc<SharedNetwork>,
    /// True if the namespace has IPv6.
    has_v6: bool,
    listeners: Mutex<Vec<Arc<AgentListener>>>,
    /// The tasks that serve the sockets. They end with this value.
    tasks: Mutex<JoinSet<()>>,
}

struct SharedNetwork {
    state: Mutex<Channel>,
    /// The ports at which the sockets listen.
    ports: Mutex<BTreeSet<u16>>,
    /// The number of accepted connections whose programs may still send bytes.
    live: watch::Sender<usize>,
}

/// Counts a connection while the program may send bytes over it.
struct Live(Arc<SharedNetwork>);

impl Live {
    fn new(network: &Arc<SharedNetwork>) -> Self {
        network.live.send_modify(|live| *live += 1);
        Self(network.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.send_modify(|live| *live -= 1);
    }
}

impl SandboxNetwork {
    /// Takes over the sockets, and serves them over the channel. Returns `None` without sockets.
    ///
    /// # Errors
    /// A descriptor is not the socket that it should be.
    pub(crate) fn new(sockets: NamespaceSockets, ports: Vec<u16>, mux: Arc<Mux>) -> Result<Option<Self>, IsolationError> {
        if sockets.is_empty() {
            return Ok(None);
        }
        let shared = Arc::new(SharedNetwork {
            state: Mutex::new(Channel::new(mux)),
            ports: Mutex::new(ports.into_iter().chain([DNS]).collect()),
            live: watch::Sender::new(0),
        });
        let queries = Arc::new(Semaphore::new(MAX_QUERIES));
        let (mut listeners, mut tasks, mut names) = (Vec::new(), JoinSet::new(), 0);
        for (purpose, socket) in sockets {
            match purpose {
                GatewaySocket::Tcp | GatewaySocket::DnsTcp => {
                    let listener = Arc::new(AgentListener::new(socket).map_err(failed)?);
                    tasks.spawn(shared.clone().accept(listener.clone()));
                    listeners.push(listener);
                }
                GatewaySocket::DnsUdp => {
                    names += 1;
                    let socket = Arc::new(AgentDatagrams::new(socket).map_err(failed)?);
                    tasks.spawn(shared.clone().ask(socket, queries.clone()));
                }
                // The host refuses network grants of UDP for a machine. Without the socket, the kernel refuses the datagrams.
                GatewaySocket::Udp => drop(socket),
                GatewaySocket::Attempts => {
                    let socket = AgentAttempts::new(socket).map_err(failed)?;
                    tasks.spawn(shared.clone().report(socket));
                }
            }
        }
        let (listeners, tasks) = (Mutex::new(listeners), Mutex::new(tasks));
        Ok(Some(Self { shared, has_v6: names > 1, listeners, tasks }))
    }

    /// Uses another channel. The connections over the old channel, which is lost, end.
    pub(crate) fn renew(&self, mux: Arc<Mux>) {
        let old = std::mem::replace(&mut *self.shared.channel(), Channel::new(mux));
        // Wakes the tasks that wait for a permit, which then wait for one of the new channel.
        old.allowed().close();
    }

    /// Allows further connections.
    pub(crate) fn allow(&self, connections: u32) {
        let allowed = self.shared.channel().allowed().clone();
        let room = Semaphore::MAX_PERMITS - allowed.available_permits();
        allowed.add_permits(usize::try_from(connections).unwrap_or(room).min(room));
    }

    /// Sends the answer to a query. An empty answer is not sent.
    pub(crate) fn answer(&self, query: u32, bytes: &[u8]) {
        let waiting = self.shared.channel().answered(query);
        if let Some(WaitingQuery { socket, query, .. }) = waiting.filter(|_| !bytes.is_empty()) {
            socket.answer(bytes, &query);
        }
    }

    /// Listens at these ports too.
    ///
    /// # Errors
    /// As [`SharedKernelSandbox::listen_at`]. Ports before the failed one are then listened at.
    pub(crate) async fn listen(&self, sandbox: &SharedKernelSandbox, ports: Vec<u16>) -> Result<(), IsolationError> {
        for port in ports {
            if self.shared.ports().contains(&port) {
                continue;
            }
            let mut sockets = vec![sandbox.listen_at(port, false).await?];
            if self.has_v6 {
                sockets.push(sandbox.listen_at(port, true).await?);
            }
            for socket in sockets {
                let listener = Arc::new(AgentListener::new(socket).map_err(failed)?);
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                tasks.spawn(self.shared.clone().accept(listener.clone()));
                self.listeners().push(listener);
            }
            self.shared.ports().insert(port);
        }
        Ok(())
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Arc<AgentListener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that programs have sent is on its way to the host. To be called after all programs of the sandbox
    /// have ended.
    pub(crate) async fn drained(&self) {
        let listeners = self.listeners().clone();
        for listener in listeners {
            while let Some((client, to)) = listener.waiting() {
                self.shared.clone().open(Live::new(&self.shared), client, to).await;
            }
        }
        // The sender is part of this value, so the wait does not fail.
        let _ = self.shared.live.subscribe().wait_for(|live| *live == 0).await;
    }
}

impl SharedNetwork {
    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts the connections of a listener.
    async fn accept(self: Arc<Self>, listener: Arc<AgentListener>) {
        loop {
            let (client, to) = listener.accept().await;
            self.clone().open(Live::new(&self), client, to).await;
        }
    }

    /// Opens an accepted connection on the channel, as soon as the host allows one more. Further connections wait in the kernel.
    async fn open(self: Arc<Self>, live: Live, client: TcpStream, to: SocketAddr) {
        let permit = loop {
            let allowed = self.channel().allowed().clone();
            // The semaphore is closed if another channel has replaced its own.
            if let Ok(permit) = allowed.acquire_owned().await {
                break permit;
            }
        };
        // The connection is closed if it cannot be opened on the channel.
        let opened = self.channel().open(to);
        if let Some((up, down)) = opened.or_debug("open a connection of a sandbox", to) {
            permit.forget();
            tokio::spawn(carry(client, up, down, live));
        }
    }

    /// Passes the queries of a socket to the host.
    async fn ask(self: Arc<Self>, socket: Arc<AgentDatagrams>, turns: Arc<Semaphore>) {
        loop {
            // The semaphore is never closed.
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            let query = socket.receive().await;
            let to = query.to;
            self.channel()
                .ask(WaitingQuery { socket: socket.clone(), query, _turn: turn })
                .or_debug("ask the host for a name", to);
        }
    }

    /// Reports attempts to destinations at which nothing listens.
    async fn report(self: Arc<Self>, socket: AgentAttempts) {
        loop {
            let attempt = socket.receive().await;
            if attempt.to.port() == DNS || (!attempt.udp && self.ports().contains(&attempt.to.port())) {
                continue;
            }
            let message = FromGuest::Attempt { udp: attempt.udp, to: attempt.to };
            let sent = self.channel().mux().send(&message);
            sent.or_debug("report an attempt of a sandbox", attempt.to);
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
    }
}

/// Carries the bytes of a connection until both directions have ended.
async fn carry(mut client: TcpStream, mut up: SendStream, mut down: RecvStream, live: Live) {
    let (mut reader, mut writer) = client.split();
    let sent = async {
        let _live = live;
        match up.copy_from(&mut reader).await {
            Ok(Ok(_)) => {
                up.finish().await;
                true
            }
            // The program has reset the connection.
            Ok(Err(_)) => {
                up.abort().await;
                false
            }
            // The host no longer reads, or is lost.
            Err(_) => false,
        }
    };
    let received = async {
        while let Some(bytes) = down.read().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // If the call fails, the program has ended the connection already.
        down.is_complete() && writer.shutdown().await.is_ok()
    };
    let (sent, received) = tokio::join!(sent, received);
    if !(sent && received) {
        // A reset shows the program that the data is incomplete. If the call fails, the connection has ended already.
        let _ = client.set_zero_linger();
    }
}

fn failed(error: GatewayError) -> IsolationError {
    ControlError::caused_by(Control::Network, "take over the sockets of the gateway", error).into()
}
