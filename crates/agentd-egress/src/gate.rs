//! The state that the tasks of one gateway share.

use crate::{
    config::GatewayConfig,
    grant::NetGrants,
    inspect::{Inspector, error::InspectionError},
    limits::{ATTEMPTS, CONNECTING, FlowLimits, Pace},
    proxy::Upstream,
    record::FlowLog,
    relay::PipePool,
    resolve::Resolve,
    synthetic::SyntheticNames,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch};

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
    /// One permit for each connection.
    pub(crate) flows: Arc<Semaphore>,
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
    names: Mutex<SyntheticNames>,
}

impl Gate {
    pub(crate) fn new(
        config: GatewayConfig,
        grants: watch::Receiver<Arc<NetGrants>>,
        log: FlowLog,
    ) -> Result<Self, InspectionError> {
        let GatewayConfig { grants: _, limits, upstream, resolver, inspection, deny_reason } = config;
        let inspector = inspection.map(|inspection| Inspector::new(inspection, deny_reason.clone())).transpose()?;
        Ok(Self {
            grants,
            log,
            upstream,
            resolver,
            pipes: PipePool::new(limits.pipes),
            flows: Arc::new(Semaphore::new(limits.flows.clamp(1, Semaphore::MAX_PERMITS))),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            connecting: Semaphore::new(CONNECTING),
            inspected: Semaphore::new(limits.inspected.clamp(1, Semaphore::MAX_PERMITS)),
            inspector: inspector.map(Arc::new),
            deny_reason,
            accepted: Pace::new(limits.flows_per_second),
            queries: Pace::new(limits.queries_per_second),
            attempts: Pace::new(ATTEMPTS),
            names: Mutex::new(SyntheticNames::new(limits.names)),
            limits,
        })
    }

    pub(crate) fn grants(&self) -> Arc<NetGrants> {
        self.grants.borrow().clone()
    }

    pub(crate) fn names(&self) -> MutexGuard<'_, SyntheticNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the gateway stops.
    pub(crate) async fn stopped(&self) {
        let mut grants = self.grants.clone();
        while grants.changed().await.is_ok() {}
    }
}
