//! The gateway of one sandbox: a thread with an event loop.
//!
//! Each sandbox has a thread of its own, so that the kernel's scheduler divides the processor between sandboxes: a hostile
//! sandbox slows down only itself.

use crate::{
    attempts,
    config::{GatewayConfig, GatewaySockets},
    dns,
    error::GatewayError,
    flow,
    gate::{Gate, LOOKUPS},
    grant::{Carried, NetGrants},
    inspect::{Inspection, secret::SecretHost},
    listen,
    record::FlowLog,
};
use agentd_log::LogFailure as _;
use rustix::process::{Resource, getrlimit};
use std::{
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::{self, Runtime},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

/// The time in which flows write their records after a stop.
const LAST_RECORDS: Duration = Duration::from_secs(5);
/// The maximum number of requests that wait for the thread. It exceeds the number of ports of any caller.
const REQUESTS: usize = 256;

/// A request to the thread of a gateway.
enum Request {
    /// Take over a listener.
    Listen(std::net::TcpListener),
    /// Accept all connections that wait in the kernel, then reply through the sender.
    AcceptWaiting(oneshot::Sender<()>),
}

/// A running gateway. Dropping it ends all flows, and waits until they are recorded.
#[derive(Debug)]
pub struct Gateway {
    grants: Option<watch::Sender<Arc<NetGrants>>>,
    inspects: bool,
    requests: mpsc::Sender<Request>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread is about to end.
    ended: oneshot::Receiver<()>,
    /// One permit for each connection.
    flows: Arc<Semaphore>,
    all_flows: u32,
    log: FlowLog,
}

impl Gateway {
    /// Takes over the sockets, and starts to serve them in a new thread, which belongs to the network namespace of the caller.
    ///
    /// # Errors
    /// A socket cannot be used, a grant cannot be enforced, or the thread could not be started. The sockets are then closed, so
    /// the kernel refuses every connection.
    pub async fn start(sockets: GatewaySockets, config: GatewayConfig) -> Result<Self, GatewayError> {
        enforceable(&config.grants, config.inspection.is_some())?;
        config.inspection.as_deref().map_or(Ok(()), |inspection| useful(inspection, &config.grants))?;
        let inspects = config.inspection.is_some();
        let (needed, limit) = (config.limits.descriptors(), getrlimit(Resource::Nofile).current);
        if let Some(limit) = limit
            && u64::try_from(needed).is_ok_and(|needed| needed > limit)
        {
            return Err(GatewayError::Descriptors { needed, limit });
        }
        let log = FlowLog::new(config.limits.records);
        let (sender, grants) = watch::channel(Arc::new(config.grants.clone()));
        let (requests, new_requests) = mpsc::channel(REQUESTS);
        let gate = Arc::new(Gate::new(config, grants, log.clone())?);
        let (flows, all_flows) = (gate.flows.clone(), all_flows(&gate));
        let ((report, started), (end, ended)) = (oneshot::channel(), oneshot::channel());
        // The thread creates its event loop itself, because an event loop that failed to start may be dropped only in that
        // thread.
        let thread = thread::Builder::new()
            .name("egress".to_owned())
            .spawn(move || {
                serve(&gate, sockets, new_requests, report);
                drop(end);
            })
            .map_err(GatewayError::Start)?;
        started.await.unwrap_or(Err(GatewayError::Stopped))?;
        Ok(Self { grants: Some(sender), inspects, requests, thread: Some(thread), ended, flows, all_flows, log })
    }

    /// Returns the queue of the records.
    pub fn log(&self) -> &FlowLog {
        &self.log
    }

    /// Waits up to `limit` until no connection is open or waits to be accepted. When the programs of a sandbox have ended, the
    /// gateway may still have bytes to forward.
    pub async fn idle(&self, limit: Duration) {
        let idle = async {
            let (done, accepted) = oneshot::channel();
            if self.requests.send(Request::AcceptWaiting(done)).await.is_ok() {
                let _ = accepted.await;
            }
            // The semaphore serves its callers in order, so each connection that was accepted before has ended when this call
            // returns.
            let _ = self.flows.acquire_many(self.all_flows).await;
        };
        let _ = tokio::time::timeout(limit, idle).await;
    }

    /// Ends all flows, and waits until they are recorded.
    pub async fn stop(mut self) {
        self.grants = None;
        // The thread sends nothing, but closes the channel when it is about to end. Dropping the gateway then waits only for that
        // end.
        let _ = (&mut self.ended).await;
    }

    /// Replaces the grants. Open flows that the new grants do not allow end at once.
    ///
    /// # Errors
    /// A grant cannot be enforced, or the gateway has stopped. In this case, the old grants remain.
    pub fn set_grants(&self, grants: NetGrants) -> Result<(), GatewayError> {
        enforceable(&grants, self.inspects)?;
        let sender = self.grants.as_ref().ok_or(GatewayError::Stopped)?;
        sender.send(Arc::new(grants)).map_err(|_| GatewayError::Stopped)
    }

    /// Takes over one more listening TCP socket, for a port that was granted later.
    ///
    /// # Errors
    /// The descriptor is not a listening TCP socket, another program could bind its port, or the gateway has stopped.
    pub fn listen(&self, socket: OwnedFd) -> Result<(), GatewayError> {
        let listener = listen::listener(socket)?;
        self.requests.try_send(Request::Listen(listener)).map_err(|_| GatewayError::Stopped)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.grants = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been reported by the panic hook.
            let _ = thread.join();
        }
        self.log.close();
    }
}

/// Refuses a secret whose host has no network grant with TLS, so that no request could use the secret.
fn useful(inspection: &Inspection, grants: &NetGrants) -> Result<(), GatewayError> {
    inspection.secrets.iter().try_for_each(|secret| injectable(secret.host(), grants))
}

/// Checks that the grants permit requests into which a secret for this host is put.
///
/// # Errors
/// No grant covers the host and its port with TLS.
pub fn injectable(host: &SecretHost, grants: &NetGrants) -> Result<(), GatewayError> {
    match grants.tcp_name(&host.name, host.port) {
        Some(access) if access.carried == Carried::Tls => Ok(()),
        _ => Err(GatewayError::Secret { name: host.name.clone(), port: host.port }),
    }
}

/// Checks that a gateway can enforce the grants. `inspects` is true if the gateway inspects TLS.
///
/// # Errors
/// The first grant that the gateway cannot enforce.
pub fn enforceable(grants: &NetGrants, inspects: bool) -> Result<(), GatewayError> {
    if let Some(grant) = grants.need_inspection().filter(|_| !inspects) {
        return Err(GatewayError::Inspection { grant: Box::new(grant.clone()) });
    }
    match grants.iter().find(|grant| grant.carried == Carried::Udp) {
        Some(grant) => Err(GatewayError::Udp { grant: Box::new(grant.clone()) }),
        None => Ok(()),
    }
}

/// Reports whether the thread could start, serves until the gateway is dropped, then waits until open flows are recorded.
fn serve(
    gate: &Arc<Gate>,
    sockets: GatewaySockets,
    requests: mpsc::Receiver<Request>,
    report: oneshot::Sender<Result<(), GatewayError>>,
) {
    let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUPS).build();
    let started = runtime.map_err(GatewayError::Start).and_then(|runtime| {
        let taken = take_over(&runtime, gate, sockets)?;
        Ok((runtime, taken))
    });
    let (reported, serving) = match started {
        Ok(serving) => (Ok(()), Some(serving)),
        Err(error) => (Err(error), None),
    };
    // A missing receiver means that the caller no longer waits for the start and has dropped the gateway.
    let _ = report.send(reported);
    if let Some((runtime, taken)) = serving {
        run(runtime, gate, requests, taken);
    }
}

/// The listeners and tasks of a gateway.
struct Taken {
    /// The listeners of the granted ports.
    listeners: Vec<Arc<TcpListener>>,
    /// The tasks that record attempts.
    attempts: JoinSet<()>,
}

/// Registers the sockets with the event loop, and spawns their tasks. The tasks run once the event loop runs.
fn take_over(runtime: &Runtime, gate: &Arc<Gate>, sockets: GatewaySockets) -> Result<Taken, GatewayError> {
    let _context = runtime.enter();
    let (mut listeners, mut attempts) = (Vec::new(), JoinSet::new());
    for socket in sockets.tcp {
        let listener = Arc::new(TcpListener::from_std(listen::listener(socket)?).map_err(GatewayError::socket)?);
        runtime.spawn(listen::accept(gate.clone(), listener.clone(), flow::serve));
        listeners.push(listener);
    }
    for socket in sockets.dns_tcp {
        let listener = TcpListener::from_std(listen::listener(socket)?).map_err(GatewayError::socket)?;
        runtime.spawn(listen::accept(gate.clone(), Arc::new(listener), dns::serve::tcp));
    }
    for socket in sockets.attempts {
        attempts.spawn(attempts::record(gate.clone(), attempts::take_over(socket)?));
    }
    for socket in sockets.dns_udp {
        let socket = dns::serve::datagrams(socket)?;
        let socket = UdpSocket::from_std(socket).map_err(GatewayError::socket)?;
        runtime.spawn(dns::serve::udp(gate.clone(), socket));
    }
    Ok(Taken { listeners, attempts })
}

/// Returns the number of permits for connections.
fn all_flows(gate: &Gate) -> u32 {
    u32::try_from(gate.limits.flows.max(1)).unwrap_or(u32::MAX)
}

fn run(runtime: Runtime, gate: &Arc<Gate>, requests: mpsc::Receiver<Request>, taken: Taken) {
    let Taken { listeners, mut attempts } = taken;
    runtime.block_on(async {
        tokio::select! {
            () = gate.stopped() => {}
            () = answer(gate, requests, listeners) => {}
        }
        // Every flow holds a permit until its record is written.
        let ended = async {
            while attempts.join_next().await.is_some() {}
            gate.flows.acquire_many(all_flows(gate)).await.is_ok()
        };
        tokio::time::timeout(LAST_RECORDS, ended).await.or_warn("wait for the last records of flows", "egress");
    });
    // A call of the host's resolver cannot be interrupted. Its thread ends when the call returns.
    runtime.shutdown_background();
}

/// Answers requests until the gateway stops.
async fn answer(gate: &Arc<Gate>, mut requests: mpsc::Receiver<Request>, mut listeners: Vec<Arc<TcpListener>>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Listen(listener) => match TcpListener::from_std(listener).map(Arc::new) {
                Ok(listener) => {
                    tokio::spawn(listen::accept(gate.clone(), listener.clone(), flow::serve));
                    listeners.push(listener);
                }
                Err(error) => listen::pause(error, "take over a listener of a sandbox").await,
            },
            Request::AcceptWaiting(done) => {
                for listener in &listeners {
                    listen::accept_waiting(gate, listener, flow::serve).await;
                }
                // A missing receiver means that the caller no longer waits.
                let _ = done.send(());
            }
        }
    }
    gate.stopped().await;
}
