//! The bounds of one sandbox, so that a hostile sandbox slows down only itself.

use crate::connect::MAX_ADDRESSES;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The maximum number of bytes that the gateway reads before it allows or refuses a flow: a ClientHello, or the head of a
/// request.
pub const MAX_FIRST_BYTES: usize = 18 * 1024;
/// The maximum number of flows that resolve a name or connect at once. Each flow may connect to several addresses.
pub(crate) const CONNECTING: usize = 64;
/// The maximum number of destinations that wait for an approval at once.
pub(crate) const PENDING_APPROVALS: usize = 8;
/// The maximum number of connections that wait for approvals at once.
pub(crate) const WAITING_FOR_APPROVAL: usize = 64;
/// The maximum number of requests for approvals of one sandbox, so that it cannot ask again and again.
pub(crate) const APPROVAL_REQUESTS: u64 = 64;
/// The maximum number of attempts that are recorded per second. Further packets wait in the buffers of the raw sockets. If a
/// buffer is full, the kernel drops packets.
pub(crate) const ATTEMPTS: u32 = 200;
/// The maximum number of bytes in one pipe between two sockets.
pub(crate) const MAX_IN_PIPE: usize = 64 * 1024;
/// The memory of a flow and its task without the pipes, in bytes.
const FLOW_STATE: usize = 8 * 1024;
/// The maximum number of concurrent requests in one inspected connection.
pub(crate) const MAX_STREAMS: u32 = 32;
/// The maximum size of the header fields of one message, in bytes, as HTTP/2 counts them (RFC 9113, 6.5.2).
pub(crate) const MAX_HEADERS: u32 = 16 * 1024;
/// The maximum number of bytes that the sandbox may send in an inspected connection before the server has received them.
pub(crate) const WINDOW_UP: u32 = 128 * 1024;
/// The maximum number of bytes that a server may send before the sandbox has received them. A small window would be slow, because
/// the network to a server has a long delay.
pub(crate) const WINDOW_DOWN: u32 = 512 * 1024;
/// The maximum number of bytes of one stream that wait to be sent.
pub(crate) const MAX_UNSENT: usize = 16 * 1024;
/// The size of the buffers of an inspected flow, in bytes: TLS and HTTP in both directions.
const INSPECTED_BUFFERS: usize = 384 * 1024;
/// The memory of an inspected flow, in bytes: its buffers, the windows of both peers and, for each stream, the head of a message
/// and the bytes that wait to be sent in both directions.
const INSPECTED: usize =
    INSPECTED_BUFFERS + (WINDOW_DOWN + WINDOW_UP) as usize + MAX_STREAMS as usize * (MAX_HEADERS as usize + 2 * MAX_UNSENT);
/// The maximum number of bytes in datagrams that wait to be sent out of the sandbox.
pub(crate) const WAITING_DATAGRAMS: u32 = 1 << 20;
/// The memory of a flow of datagrams and its task, in bytes.
const DATAGRAM_FLOW: usize = 8 * 1024;
/// The number of descriptors for the event loop and for calls of the resolver.
const RUNTIME: usize = 32;
/// The size of a record or a name with the longest texts, in bytes.
const ENTRY: usize = 2 * 1024;

/// The bounds of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLimits {
    /// The maximum number of concurrent connections. The kernel queues further connections, up to the backlog of the listener.
    pub flows: usize,
    /// The maximum number of concurrent inspected connections, which take more memory. Further connections wait.
    pub inspected: usize,
    /// The maximum number of concurrent flows of UDP. A further flow ends the one that was used least recently.
    pub datagram_flows: usize,
    /// The maximum number of connections and flows of UDP that start per second.
    pub flows_per_second: u32,
    /// The maximum number of DNS queries that are answered per second.
    pub queries_per_second: u32,
    /// The maximum number of different granted names that the sandbox may resolve.
    pub names: usize,
    /// The maximum number of records that wait for the reader. Further records are counted and dropped.
    pub records: usize,
    /// The maximum number of pipes between sockets. A direction holds a pipe while it has bytes that its receiver does not
    /// accept.
    pub pipes: usize,
    /// The time limit for the ClientHello, for the head of a request, or for a message of DNS over TCP.
    pub first_bytes: Duration,
    /// The time limit for resolving a name and connecting.
    pub connect: Duration,
    /// The time limit for the approval of a destination.
    pub approval: Duration,
    /// The time after which a flow ends if no byte was carried in either direction.
    pub idle: Duration,
    /// The time after which a flow of UDP ends if no datagram was carried in either direction.
    pub datagram_idle: Duration,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            flows: 2048,
            inspected: 64,
            datagram_flows: 256,
            flows_per_second: 1000,
            queries_per_second: 1000,
            names: 4096,
            records: 4096,
            pipes: 256,
            first_bytes: Duration::from_secs(10),
            connect: Duration::from_secs(30),
            approval: Duration::from_secs(300),
            idle: Duration::from_secs(3600),
            // RFC 4787, 4.3: a NAT keeps a mapping for at least two minutes.
            datagram_idle: Duration::from_secs(120),
        }
    }
}

impl FlowLimits {
    /// Returns the maximum amount of memory that the gateway uses for the sandbox, in bytes, without the kernel's socket buffers.
    pub fn memory(&self) -> usize {
        let inspected = self.inspected.min(self.flows).saturating_mul(INSPECTED);
        let flows = self.flows.saturating_mul(MAX_FIRST_BYTES + FLOW_STATE);
        let entries = self.names.saturating_add(self.records).saturating_mul(ENTRY);
        let datagrams = self.datagram_flows.saturating_mul(DATAGRAM_FLOW).saturating_add(WAITING_DATAGRAMS as usize);
        let tcp = flows.saturating_add(self.pipes.saturating_mul(MAX_IN_PIPE)).saturating_add(inspected);
        tcp.saturating_add(entries).saturating_add(datagrams)
    }

    /// Returns the maximum number of file descriptors that the gateway opens for the sandbox, without those of its listeners.
    pub fn descriptors(&self) -> usize {
        let flows = self.flows.saturating_mul(2).saturating_add(self.datagram_flows).saturating_add(CONNECTING * MAX_ADDRESSES);
        flows.saturating_add(self.pipes.saturating_mul(2)).saturating_add(RUNTIME)
    }
}

/// A limit on events per second. Events above the limit wait, so that the sender's queue in the kernel fills up.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        let now = Instant::now();
        // Permits the number of one second at once. Otherwise, the first connections of a program would wait.
        let next = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        Self { interval: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(next) }
    }

    /// Waits until one more event is within the limit. After a pause, as many events as the limit permits in one second pass at
    /// once. Returns true if the event was delayed.
    pub(crate) async fn turn(&self) -> bool {
        let now = Instant::now();
        let at = self.book(now);
        tokio::time::sleep_until(at).await;
        at > now
    }

    /// Returns true, and counts the event, if one more event is within the limit now.
    pub(crate) fn try_turn(&self) -> bool {
        self.try_book(Instant::now())
    }

    fn try_book(&self, now: Instant) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        if at <= now {
            *next = at + self.interval;
        }
        at <= now
    }

    /// Returns the time at which the next event may happen.
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
        assert!((0..10).all(|_| pace.book(now) <= now), "a new pace permits the number of one second at once");
        let start = Instant::now() + Duration::from_secs(60);
        let booked: Vec<_> = (0..25).map(|_| pace.book(start)).collect();
        assert_eq!(booked.iter().filter(|at| **at <= start).count(), 11, "a second's worth, and the one that is due");
        assert_eq!(booked[24].duration_since(start), Duration::from_millis(1400));
        // A pause does not save up more than a second's worth.
        let later = start + Duration::from_secs(600);
        assert_eq!((0..25).map(|_| pace.book(later)).filter(|at| *at <= later).count(), 11);
    }

    #[test]
    fn events_above_the_rate_get_no_turn_and_use_none_up() {
        let pace = Pace::new(10);
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| pace.try_book(now)).count(), 11, "a second's worth, and the one that is due");
        assert!(!pace.try_book(now + Duration::from_millis(99)) && pace.try_book(now + Duration::from_millis(100)));
    }

    #[test]
    fn default_bounds_are_within_what_a_host_can_give() {
        assert!(FlowLimits::default().memory() < 256 << 20, "{}", FlowLimits::default().memory());
    }
}
