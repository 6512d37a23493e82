//! The gateway of one sandbox: a thread with an event loop.
//!
//! Each sandbox has its own thread, so that the kernel's scheduler divides the processor between sandboxes: a hostile
//! sandbox slows down only itself.

use crate::{
    approval::HostApprovals,
    config::{GatewayConfig, GatewaySockets},
    datagram,
    error::GatewayError,
    flow,
    gate::{Gate, LOOKUPS},
    grant::{Carried, Destination, NetGrants, Transport},
    guest::ClosePort,
    inspect::{Inspection, secret::SecretHost},
    limits::WAITING_DATAGRAMS,
    listen,
    record::FlowLog,
    sockets::{GrantedPorts, NewSocket, Taken, take_over},
    synthetic::SyntheticNames,
};
use agentd_log::LogFailure as _;
use rustix::{
    net::{SocketType, sockopt},
    process::{Resource, getrlimit},
};
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    runtime::{self, Runtime},
    sync::{Semaphore, mpsc, oneshot, watch},
};

/// The time in which flows write their records after a stop.
const LAST_RECORDS: Duration = Duration::from_secs(5);
/// The maximum number of requests that wait for the thread. It exceeds the number of ports of any caller.
const REQUESTS: usize = 256;

/// A request to the thread of a gateway.
enum Request {
    /// Take over a socket.
    Listen(NewSocket),
    /// Accept all connections and datagrams that wait in the kernel, then reply through the sender.
    AcceptWaiting(oneshot::Sender<()>),
}

/// A running gateway. Dropping it ends all flows, and waits until they are recorded.
#[derive(Debug)]
pub struct Gateway {
    grants: Option<watch::Sender<Arc<NetGrants>>>,
    inspects: bool,
    /// False for a sandbox in a virtual machine, whose agent does not carry UDP.
    carries_udp: bool,
    /// The hosts of the secrets.
    secrets: Vec<SecretHost>,
    requests: mpsc::Sender<Request>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread is about to end.
    ended: oneshot::Receiver<()>,
    /// One permit for each connection.
    flows: Arc<Semaphore>,
    all_flows: u32,
    /// One permit for each byte of a datagram that waits.
    datagrams: Arc<Semaphore>,
    log: FlowLog,
    approvals: HostApprovals,
    names: Arc<Mutex<SyntheticNames>>,
}

impl Gateway {
    /// Takes over the sockets, and starts to serve them in a new thread, which belongs to the network namespace of the caller.
    ///
    /// # Errors
    /// A socket cannot be used, a grant cannot be enforced, or the thread could not be started. The sockets are then closed, so
    /// the kernel refuses every connection.
    pub async fn start(sockets: GatewaySockets, config: GatewayConfig) -> Result<Self, GatewayError> {
        enforceable(&config.grants, config.inspection.is_some())?;
        let carries_udp = sockets.guest.is_none();
        carried(&config.grants, carries_udp)?;
        config.inspection.as_deref().map_or(Ok(()), |inspection| useful(inspection, &config.grants))?;
        let inspects = config.inspection.is_some();
        let secrets = config.inspection.iter().flat_map(|inspection| inspection.hosts()).cloned().collect();
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
        let (flows, all_flows, names) = (gate.flows.clone(), gate.all_flows(), gate.shared_names());
        let (datagrams, approvals) = (gate.datagrams.memory.clone(), gate.approvals.clone());
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
        let (grants, thread) = (Some(sender), Some(thread));
        Ok(Self {
            grants,
            inspects,
            carries_udp,
            secrets,
            requests,
            thread,
            ended,
            flows,
            all_flows,
            datagrams,
            log,
            approvals,
            names,
        })
    }

    /// Returns the queue of the records.
    pub fn log(&self) -> &FlowLog {
        &self.log
    }

    /// Returns the requests for approvals of destinations. Closing them refuses the connections that wait.
    pub fn approvals(&self) -> &HostApprovals {
        &self.approvals
    }

    /// Returns the names that have an address so far, for the gateway of a copy of the sandbox ([`GatewayConfig::names`]).
    pub fn names(&self) -> SyntheticNames {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits up to `limit` until no connection is open or waits to be accepted, and no datagram of the sandbox waits. When the
    /// programs of a sandbox have ended, the gateway may still have bytes to forward.
    pub async fn idle(&self, limit: Duration) {
        let idle = async {
            let (done, accepted) = oneshot::channel();
            if self.requests.send(Request::AcceptWaiting(done)).await.is_ok() {
                let _ = accepted.await;
            }
            // The semaphore serves its callers in order, so each connection that was accepted before has ended when this call
            // returns.
            let _ = self.flows.acquire_many(self.all_flows).await;
            let _ = self.datagrams.acquire_many(WAITING_DATAGRAMS).await;
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

    /// Replaces the grants. Open flows that the new grants do not allow end immediately. Approvals of destinations that the new
    /// grants do not allow are forgotten.
    ///
    /// # Errors
    /// A grant cannot be enforced, or the gateway has stopped. In this case, the old grants remain.
    pub fn set_grants(&self, grants: NetGrants) -> Result<(), GatewayError> {
        enforceable(&grants, self.inspects)?;
        carried(&grants, self.carries_udp)?;
        self.secrets.iter().try_for_each(|host| not_bypassed(host, &grants))?;
        let sender = self.grants.as_ref().ok_or(GatewayError::Stopped)?;
        let grants = Arc::new(grants);
        sender.send(grants.clone()).map_err(|_| GatewayError::Stopped)?;
        self.approvals
            .retain(|to| to.parse::<Destination>().is_ok_and(|to| to.check(&grants).is_ok_and(|access| access.approval)));
        Ok(())
    }

    /// Takes over one more listening TCP socket, or one more UDP socket, for a port that was granted later.
    ///
    /// # Errors
    /// The descriptor is not a socket of these kinds, another program could bind its port, or the gateway has stopped.
    pub fn listen(&self, socket: OwnedFd) -> Result<(), GatewayError> {
        let socket = match sockopt::socket_type(&socket).map_err(GatewayError::socket)? {
            SocketType::DGRAM => NewSocket::Datagrams(listen::datagrams(socket)?),
            _ => NewSocket::Listener(listen::listener(socket)?),
        };
        self.requests.try_send(Request::Listen(socket)).map_err(|_| GatewayError::Stopped)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.grants = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been reported by the panic hook.
            let _ = thread.join();
        }
        self.approvals.close();
        self.log.close();
    }
}

/// Refuses a secret whose host has no network grant with TLS, so that no request could use the secret.
fn useful(inspection: &Inspection, grants: &NetGrants) -> Result<(), GatewayError> {
    inspection.hosts().try_for_each(|host| injectable(host, grants))
}

/// Checks that the grants permit requests into which a secret for this host is put.
///
/// # Errors
/// No grant covers the host and its port with TLS, or a grant covers them with UDP.
pub fn injectable(host: &SecretHost, grants: &NetGrants) -> Result<(), GatewayError> {
    match grants.tcp_name(&host.name, host.port) {
        Some(access) if access.carried == Carried::Tls => not_bypassed(host, grants),
        _ => Err(GatewayError::Secret { name: host.name.clone(), port: host.port }),
    }
}

/// Refuses a grant by which programs could send requests to the host of a secret without inspection.
fn not_bypassed(host: &SecretHost, grants: &NetGrants) -> Result<(), GatewayError> {
    match grants.name(Transport::Udp, &host.name, host.port) {
        Some(_) => Err(GatewayError::SecretBypassed { name: host.name.clone(), port: host.port }),
        None => Ok(()),
    }
}

/// Refuses grants of UDP for a sandbox in a virtual machine.
fn carried(grants: &NetGrants, carries_udp: bool) -> Result<(), GatewayError> {
    match grants.need_datagrams().filter(|_| !carries_udp) {
        Some(grant) => Err(GatewayError::Datagrams { grant: Box::new(grant.clone()) }),
        None => Ok(()),
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
    match grants.bypassed() {
        Some((udp, ruled)) => Err(GatewayError::Bypassed { udp: Box::new(udp.clone()), ruled: Box::new(ruled.clone()) }),
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
    let _close = ClosePort(sockets.guest.clone());
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

fn run(runtime: Runtime, gate: &Arc<Gate>, requests: mpsc::Receiver<Request>, taken: Taken) {
    let Taken { ports, mut attempts } = taken;
    runtime.block_on(async {
        tokio::select! {
            () = gate.stopped() => {}
            () = answer(gate, requests, ports) => {}
        }
        // Every flow holds a permit until its record is written.
        let ended = async {
            while attempts.join_next().await.is_some() {}
            let datagrams = u32::try_from(gate.limits.datagram_flows.max(1)).unwrap_or(u32::MAX);
            gate.datagrams.flows.acquire_many(datagrams).await.is_ok() && gate.flows.acquire_many(gate.all_flows()).await.is_ok()
        };
        tokio::time::timeout(LAST_RECORDS, ended).await.or_warn("wait for the last records of flows", "egress");
    });
    // A call of the host's resolver cannot be interrupted. Its thread ends when the call returns.
    runtime.shutdown_background();
}

/// Answers requests until the gateway stops.
async fn answer(gate: &Arc<Gate>, mut requests: mpsc::Receiver<Request>, mut ports: GrantedPorts) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Listen(socket) => {
                if let Err(error) = ports.add(gate, socket) {
                    listen::pause(error, "take over a socket of a sandbox").await;
                }
            }
            Request::AcceptWaiting(done) => {
                for listener in &ports.listeners {
                    listen::accept_waiting(gate, listener, flow::serve_by_port).await;
                }
                for socket in &ports.datagrams {
                    datagram::take_waiting(gate, socket).await;
                }
                // A missing receiver means that the caller no longer waits.
                let _ = done.send(());
            }
        }
    }
    gate.stopped().await;
}
