//! The facts of a flow so far, for its records.

use crate::{
    budget::Meter,
    gate::Gate,
    record::{FlowKind, FlowLog, FlowRecord, FlowVerdict, RequestLine},
};
use agentd_core::{DatagramCount, DelayedBy};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::time::sleep;

/// The time until the bytes of an open flow are recorded for the first time. Each further time is twice as long, so that the
/// number of records is small.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// The facts of a flow so far, for its records.
pub(crate) struct Progress {
    id: u64,
    started: SystemTime,
    clock: Instant,
    kind: FlowKind,
    /// The address and port that the program used.
    wanted: SocketAddr,
    /// True if the limit on connections per second delayed the start.
    late: bool,
    pub(crate) name: Option<String>,
    pub(crate) sent: Meter,
    pub(crate) received: Meter,
    pub(crate) datagrams: DatagramMeter,
    /// The destination outside, once connected. The inner `None` means that a proxy chose the destination.
    pub(crate) connected: OnceLock<Option<SocketAddr>>,
    /// The user who approved the destination, if its grant needs an approval.
    pub(crate) approved_by: OnceLock<String>,
    /// The request that was refused, of a connection without TLS.
    pub(crate) refused: OnceLock<RequestLine>,
}

/// Counts the datagrams of a flow in both directions.
#[derive(Default)]
pub(crate) struct DatagramMeter {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Progress {
    pub(crate) fn new(gate: &Gate, kind: FlowKind, wanted: SocketAddr, late: bool) -> Self {
        let meter = || Meter::new(gate.budget.clone());
        Self {
            id: gate.next_id(),
            started: SystemTime::now(),
            clock: Instant::now(),
            kind,
            wanted,
            late,
            name: None,
            sent: meter(),
            received: meter(),
            datagrams: DatagramMeter::default(),
            connected: OnceLock::new(),
            approved_by: OnceLock::new(),
            refused: OnceLock::new(),
        }
    }

    /// Returns the address outside, if the gateway has connected to one.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.connected.get().copied().flatten()
    }

    pub(crate) fn record(&self, verdict: FlowVerdict) -> FlowRecord {
        let rate = self.sent.is_delayed() || self.received.is_delayed();
        FlowRecord {
            id: Some(self.id),
            name: self.name.clone(),
            connected: self.peer(),
            address_checked: self.connected.get() != Some(&None),
            sent: self.sent.carried(),
            received: self.received.carried(),
            datagrams: (self.kind == FlowKind::Udp).then(|| self.datagrams.count()),
            delayed: DelayedBy { new_connections: self.late, rate, queries: false },
            approved_by: self.approved_by.get().cloned(),
            request: self.refused.get().cloned(),
            ..FlowRecord::new(self.started, self.clock.elapsed(), self.kind, self.wanted, verdict)
        }
    }

    /// Records that the flow is open, and the bytes so far. `rule` is the grant.
    pub(crate) fn record_open(&self, log: &FlowLog, rule: &str) {
        log.add(self.record(FlowVerdict::Open { rule: rule.to_owned() }));
    }

    /// Records the bytes of the open flow so far, at growing intervals.
    pub(crate) async fn report(&self, log: &FlowLog, rule: &str) -> Infallible {
        let mut pause = FIRST_REPORT;
        loop {
            sleep(pause).await;
            pause = pause.saturating_mul(2);
            if self.connected.get().is_some() {
                self.record_open(log, rule);
            }
        }
    }
}

impl DatagramMeter {
    fn count(&self) -> DatagramCount {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DatagramCount { sent: read(&self.sent), received: read(&self.received) }
    }
}
