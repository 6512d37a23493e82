//! The state that the tasks of one gateway share.

use crate::{
    approval::HostApprovals,
    budget::Budget,
    config::GatewayConfig,
    datagram::path::DatagramPath,
    grant::{NetGrants, Transport},
    inspect::{Inspector, error::InspectionError},
    limits::{ATTEMPTS, CONNECTING, FlowLimits, Pace},
    name::HostName,
    proxy::Upstream,
    record::{FlowEnd, FlowLog, FlowRefusal},
    relay::PipePool,
    resolve::Resolve,
    synthetic::SyntheticNames,
};
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The maximum number of concurrent calls of the host's resolver.
pub(crate) const LOOKUPS: usize = 8;

/// The state of one gateway.
pub(crate) struct Gate {
    /// The current grants. The sender is dropped when the gateway stops.
    pub(crate) grants: watch::Receiver<Arc<NetGrants>>,
    pub(crate) log: FlowLog,
    pub(crate) limits: FlowLimits,
    pub(crate) upstream: Upstream,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) pipes: PipePool,
    pub(crate) datagrams: DatagramPath,
    /// One permit for each connection.
    pub(crate) flows: Arc<Semaphore>,
    /// One permit for each flow, if the user limits their number.
    connections: Option<Arc<Semaphore>>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) approvals: HostApprovals,
    /// One permit for each call of the resolver, which holds it until the call returns.
    pub(crate) lookups: Arc<Semaphore>,
    /// One permit for each flow that resolves or connects.
    pub(crate) connecting: Semaphore,
    /// One permit for each inspected flow.
    pub(crate) inspected: Semaphore,
    pub(crate) inspector: Option<Arc<Inspector>>,
    pub(crate) deny_reason: Option<String>,
    pub(crate) accepted: Pace,
    pub(crate) queries: Pace,
    pub(crate) attempts: Pace,
    names: Arc<Mutex<SyntheticNames>>,
    /// The number of flows so far.
    started: AtomicU64,
    /// The TCP and UDP ports at which the gateway receives flows, except for those of DNS.
    ports: Mutex<BTreeSet<(Transport, u16)>>,
}

impl Gate {
    pub(crate) fn new(
        config: GatewayConfig,
        grants: watch::Receiver<Arc<NetGrants>>,
        log: FlowLog,
    ) -> Result<Self, InspectionError> {
        let GatewayConfig { grants: _, limits, network_limits, upstream, resolver, inspection, deny_reason, names } = config;
        let inspector = inspection.map(|inspection| Inspector::new(inspection, deny_reason.clone())).transpose()?;
        let rate = |bound: u32, limit: Option<u32>| Pace::new(limit.map_or(bound, |limit| limit.min(bound)));
        let permits = |limit: u32| usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            grants,
            log,
            upstream,
            resolver,
            pipes: PipePool::new(limits.pipes),
            datagrams: DatagramPath::new(limits.datagram_flows),
            flows: Arc::new(Semaphore::new(limits.flows.clamp(1, Semaphore::MAX_PERMITS))),
            connections: network_limits.connections.map(|limit| Arc::new(Semaphore::new(permits(limit)))),
            budget: Arc::new(Budget::new(&network_limits)),
            approvals: HostApprovals::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            connecting: Semaphore::new(CONNECTING),
            inspected: Semaphore::new(limits.inspected.clamp(1, Semaphore::MAX_PERMITS)),
            inspector: inspector.map(Arc::new),
            deny_reason,
            accepted: rate(limits.flows_per_second, network_limits.new_connections),
            queries: rate(limits.queries_per_second, network_limits.queries),
            attempts: Pace::new(ATTEMPTS),
            names: Arc::new(Mutex::new(names.unwrap_or_else(|| SyntheticNames::new(limits.names)))),
            started: AtomicU64::new(0),
            ports: Mutex::default(),
            limits,
        })
    }

    pub(crate) fn grants(&self) -> Arc<NetGrants> {
        self.grants.borrow().clone()
    }

    /// Returns the number of permits for connections.
    pub(crate) fn all_flows(&self) -> u32 {
        u32::try_from(self.limits.flows.max(1)).unwrap_or(u32::MAX)
    }

    /// Returns the table of [`Gate::names`], which outlives the gateway's thread.
    pub(crate) fn shared_names(&self) -> Arc<Mutex<SyntheticNames>> {
        self.names.clone()
    }

    pub(crate) fn names(&self) -> MutexGuard<'_, SyntheticNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a number for the records of a new flow.
    pub(crate) fn next_id(&self) -> u64 {
        self.started.fetch_add(1, Ordering::Relaxed)
    }

    /// Admits one more flow within the limits of the user. The permit must be held until the end of the flow; `None` if there is
    /// no limit.
    ///
    /// # Errors
    /// The limit that the flow would exceed.
    pub(crate) fn admit(&self) -> Result<Option<OwnedSemaphorePermit>, FlowRefusal> {
        if self.budget.is_exhausted() {
            return Err(FlowRefusal::UsedUp);
        }
        let permit = self.connections.clone().map(Semaphore::try_acquire_owned).transpose();
        permit.map_err(|_| FlowRefusal::TooManyConnections)
    }

    /// Notes that the gateway has a socket at the port, or that the agent of a guest has one.
    pub(crate) fn add_port(&self, transport: Transport, port: u16) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert((transport, port));
    }

    /// Returns true if the gateway has a socket at the port.
    pub(crate) fn has_port(&self, transport: Transport, port: u16) -> bool {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).contains(&(transport, port))
    }

    /// Resolves the name in another thread. The call cannot be cancelled, so it holds the permit until it returns.
    pub(crate) async fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        let permit = self.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (resolver, name) = (self.resolver.clone(), name.clone());
        let call = tokio::task::spawn_blocking(move || {
            let addresses = resolver.resolve(&name);
            drop(permit);
            addresses
        });
        call.await.map_err(io::Error::other)?
    }

    /// Waits until `is_granted` returns false for new grants, or until the gateway stops.
    pub(crate) async fn withdrawn(&self, is_granted: impl Fn(&NetGrants) -> bool) -> FlowEnd {
        let mut grants = self.grants.clone();
        loop {
            if grants.changed().await.is_err() {
                return FlowEnd::Stopped;
            }
            let now = grants.borrow_and_update().clone();
            if !is_granted(&now) {
                return FlowEnd::Revoked;
            }
        }
    }

    /// Waits until the gateway stops.
    pub(crate) async fn stopped(&self) {
        let mut grants = self.grants.clone();
        while grants.changed().await.is_ok() {}
    }
}
