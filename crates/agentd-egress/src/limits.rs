//! The bounds of one sandbox, so that a hostile one slows down only itself.

use crate::connect::MAX_ADDRESSES;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Bytes that the gateway reads before it decides about a flow: a ClientHello, or the head of a request.
pub const MAX_FIRST_BYTES: usize = 18 * 1024;
/// Flows that resolve a name or connect at once. Each may have several attempts.
pub(crate) const CONNECTING: usize = 64;
/// Attempts that no socket accepts, of which as many are read in a second. Others wait in the sockets, and the kernel drops what
/// does not fit.
pub(crate) const ATTEMPTS: u32 = 200;
/// Bytes that one pipe between two sockets may hold.
pub(crate) const MAX_IN_PIPE: usize = 64 * 1024;
/// Bytes that a flow takes otherwise, with what its task holds.
const FLOW_STATE: usize = 8 * 1024;
/// Requests at once in one inspected connection.
pub(crate) const MAX_STREAMS: u32 = 32;
/// Bytes of the header fields of one message, as HTTP/2 counts them (RFC 9113, 6.5.2).
pub(crate) const MAX_HEADERS: u32 = 16 * 1024;
/// Bytes that the sandbox may send in an inspected connection before the server has taken them.
pub(crate) const WINDOW_UP: u32 = 128 * 1024;
/// Bytes that a server may send before the sandbox has taken them. The way to a server is long, so a small window is slow.
pub(crate) const WINDOW_DOWN: u32 = 512 * 1024;
/// Bytes of one stream that wait to be sent.
pub(crate) const MAX_UNSENT: usize = 16 * 1024;
/// Bytes of the buffers of an inspected flow: TLS and HTTP in both directions.
const INSPECTED_BUFFERS: usize = 384 * 1024;
/// Bytes that an inspected flow takes: its buffers, what the peers may send before it is taken, and for each stream the head of a
/// message and what waits to be sent in both directions.
const INSPECTED: usize =
    INSPECTED_BUFFERS + (WINDOW_DOWN + WINDOW_UP) as usize + MAX_STREAMS as usize * (MAX_HEADERS as usize + 2 * MAX_UNSENT);
/// Descriptors of the event loop, and of calls of the resolver.
const RUNTIME: usize = 32;
/// Bytes of a record or a name, with the longest texts in it.
const ENTRY: usize = 2 * 1024;

/// The bounds of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLimits {
    /// Connections at once. The kernel queues further ones up to the backlog of the listener.
    pub flows: usize,
    /// Inspected connections at once, which take more memory. Further ones wait.
    pub inspected: usize,
    /// Connections that are accepted in a second.
    pub flows_per_second: u32,
    /// DNS queries that are answered in a second.
    pub queries_per_second: u32,
    /// Different granted names that the sandbox may ask for.
    pub names: usize,
    /// Records that wait for the reader. Further ones are counted and dropped.
    pub records: usize,
    /// Pipes between sockets. A direction holds one while it has bytes that its receiver does not take.
    pub pipes: usize,
    /// Time for the ClientHello, for the head of a request, or for a message of DNS over TCP.
    pub first_bytes: Duration,
    /// Time to resolve a name and to connect.
    pub connect: Duration,
    /// Time after which a flow without any byte in either direction ends.
    pub idle: Duration,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            flows: 2048,
            inspected: 64,
            flows_per_second: 1000,
            queries_per_second: 1000,
            names: 4096,
            records: 4096,
            pipes: 256,
            first_bytes: Duration::from_secs(10),
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(3600),
        }
    }
}

impl FlowLimits {
    /// Returns the most bytes of memory that the gateway takes for the sandbox, without the kernel's socket buffers.
    pub fn memory(&self) -> usize {
        let inspected = self.inspected.min(self.flows).saturating_mul(INSPECTED);
        let flows = self.flows.saturating_mul(MAX_FIRST_BYTES + FLOW_STATE);
        let entries = self.names.saturating_add(self.records).saturating_mul(ENTRY);
        flows.saturating_add(entries).saturating_add(self.pipes.saturating_mul(MAX_IN_PIPE)).saturating_add(inspected)
    }

    /// Returns the most file descriptors that the gateway opens for the sandbox, without those of its listeners.
    pub fn descriptors(&self) -> usize {
        let flows = self.flows.saturating_mul(2).saturating_add(CONNECTING * MAX_ADDRESSES);
        flows.saturating_add(self.pipes.saturating_mul(2)).saturating_add(RUNTIME)
    }
}

/// A bound on events in a second. Events above the bound wait, so that the sender's queue in the kernel fills up.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        let now = Instant::now();
        // Without a second's worth at the start, the first connections of a program would wait.
        let next = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        Self { interval: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(next) }
    }

    /// Waits until one more event is within the bound. Up to a second's worth of events pass at once.
    pub(crate) async fn turn(&self) {
        let at = self.book(Instant::now());
        tokio::time::sleep_until(at).await;
    }

    /// Returns when the next event may happen.
    fn book(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let at = (*next).max(earliest);
        *next = at + self.interval;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_above_the_rate_are_booked_for_later() {
        let pace = Pace::new(10);
        let now = Instant::now();
        assert!((0..10).all(|_| pace.book(now) <= now), "a new pace has a second's worth");
        let start = Instant::now() + Duration::from_secs(60);
        let booked: Vec<_> = (0..25).map(|_| pace.book(start)).collect();
        assert_eq!(booked.iter().filter(|at| **at <= start).count(), 11, "a second's worth, and the one that is due");
        assert_eq!(booked[24].duration_since(start), Duration::from_millis(1400));
        // A pause does not save up more than a second's worth.
        let later = start + Duration::from_secs(600);
        assert_eq!((0..25).map(|_| pace.book(later)).filter(|at| *at <= later).count(), 11);
    }

    #[test]
    fn default_bounds_are_within_what_a_host_can_give() {
        assert!(FlowLimits::default().memory() < 256 << 20, "{}", FlowLimits::default().memory());
    }
}
