//! The record of each attempt of a sandbox to reach something, granted or refused. The queue of records is bounded, and records
//! that do not fit are counted. Refused attempts take at most half of the queue, so that many refused attempts do not displace
//! the record of a granted flow.

use crate::{address::SpecialKind, hello::HelloError, http::HeadError, inspect::error::InspectRefusal};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The kind of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlowKind {
    /// A TCP connection.
    Tcp,
    /// A UDP datagram, which is never carried.
    Udp,
    /// A DNS question. Only refused questions are recorded, because an answered one has no effect without a connection.
    Dns,
    /// A request inside of an inspected connection. Only refused requests are recorded. The connection has a separate record.
    Request,
}

/// The maximum length of the method in a record, in characters.
const MAX_METHOD: usize = 32;
/// The maximum length of the path in a record, in characters.
const MAX_PATH: usize = 512;

/// The method and path of a request. The texts are from the sandbox: escape them before printing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLine {
    /// The method, cut off if it is long.
    pub method: String,
    /// The path without its query, cut off if it is long.
    pub path: String,
}

impl RequestLine {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let cut = |text: &str, most: usize| text.chars().take(most).collect();
        Self { method: cut(method, MAX_METHOD), path: cut(path, MAX_PATH) }
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// The time of the attempt.
    pub started: SystemTime,
    /// The time until its end.
    pub lasted: Duration,
    /// The kind.
    pub kind: FlowKind,
    /// The name of the destination, if known. The text is from the sandbox: escape it before printing.
    pub name: Option<String>,
    /// The address and port that the program used. For a name, the address is synthetic.
    pub wanted: SocketAddr,
    /// The address to which the gateway connected, if it did.
    pub connected: Option<SocketAddr>,
    /// False if an upstream proxy resolved the name, so that the address was not checked.
    pub address_checked: bool,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// The request, if the record is about one.
    pub request: Option<RequestLine>,
    /// The decision.
    pub verdict: FlowVerdict,
}

/// The decision about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowVerdict {
    /// A grant allows the attempt.
    Granted {
        /// The grant, in text form.
        rule: String,
        /// How the flow ended.
        end: FlowEnd,
    },
    /// The attempt was refused.
    Refused(FlowRefusal),
}

/// The end of a granted flow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowEnd {
    /// Both sides closed the connection.
    Closed,
    /// A side reset the connection, or the system refused a call.
    Broken(String),
    /// The name was not resolved, or no address answered.
    Unreachable(String),
    /// No byte arrived for the idle limit.
    Idle,
    /// The grant was withdrawn.
    Revoked,
    /// The gateway stopped.
    Stopped,
    /// A later part of the flow was refused.
    Refused(FlowRefusal),
}

/// The reason of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowRefusal {
    /// No grant covers the name.
    #[error("no network grant covers the name — add one")]
    NameNotGranted,
    /// No grant covers the destination at this port.
    #[error("no network grant covers this destination at this port — add one with the port")]
    NotGranted,
    /// A UDP datagram.
    #[error("UDP is not carried — let the program use TCP")]
    Udp,
    /// An address from the range of the sandbox's DNS that belongs to no name.
    #[error(
        "no name was resolved to this address in this sandbox — connect by name; programs must not keep addresses from \
         earlier runs"
    )]
    NoName,
    /// The sandbox asked for more names than its limit.
    #[error("the sandbox resolved more names than its limit (`FlowLimits::names` of the library) permits — resolve fewer names")]
    TooManyNames,
    /// A question for a type of record that the gateway does not answer.
    #[error("DNS records of type {0} are not available in a sandbox — request A or AAAA records")]
    RecordType(String),
    /// The name leads to an address that is not of the public internet.
    #[error("the name leads to {address}, which is {kind} — grant that address with its port too, if you want to reach it")]
    Special {
        /// The address.
        address: std::net::IpAddr,
        /// The kind of the address.
        kind: SpecialKind,
    },
    /// The first bytes did not arrive in time.
    #[error("the client sent no complete {0} in time (`FlowLimits::first_bytes` of the library) — try again")]
    TimedOut(&'static str),
    /// The connection is not acceptable TLS.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// A request is not acceptable HTTP.
    #[error(transparent)]
    Request(#[from] HeadError),
    /// Something inside of an inspected connection is not acceptable.
    #[error(transparent)]
    Inspect(#[from] InspectRefusal),
}

/// Returns the text of the response to a refused request: the reason, then the text of the operator.
pub(crate) fn explanation(refusal: &dyn std::fmt::Display, deny_reason: Option<&str>) -> String {
    let operator = deny_reason.map(|text| format!("{text}\n")).unwrap_or_default();
    format!("agentd: {refusal}\n{operator}")
}

/// Records the refused requests of an inspected connection.
pub(crate) struct RequestLog {
    pub(crate) log: FlowLog,
    pub(crate) name: String,
    pub(crate) wanted: SocketAddr,
    pub(crate) connected: Option<SocketAddr>,
    pub(crate) address_checked: bool,
}

impl RequestLog {
    pub(crate) fn refused(&self, request: RequestLine, refusal: FlowRefusal) {
        self.log.add(FlowRecord {
            started: SystemTime::now(),
            lasted: Duration::ZERO,
            kind: FlowKind::Request,
            name: Some(self.name.clone()),
            wanted: self.wanted,
            connected: self.connected,
            address_checked: self.address_checked,
            sent: 0,
            received: 0,
            request: Some(request),
            verdict: FlowVerdict::Refused(refusal),
        });
    }
}

impl FlowRecord {
    /// Returns true if the attempt was refused.
    pub fn is_refused(&self) -> bool {
        matches!(self.verdict, FlowVerdict::Refused(_))
    }
}

/// The queue of records between a gateway and its reader.
#[derive(Debug, Clone)]
pub struct FlowLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    added: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<FlowRecord>,
    refused: usize,
    dropped: u64,
    closed: bool,
}

impl FlowLog {
    /// Creates a queue for at most `most` records.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), added: Condvar::new(), most: most.max(2) }))
    }

    /// Adds a record, or counts it as dropped.
    pub(crate) fn add(&self, record: FlowRecord) {
        let mut queue = self.lock();
        let refused = record.is_refused();
        if queue.records.len() >= self.0.most || (refused && queue.refused >= self.0.most / 2) {
            queue.dropped += 1;
            return;
        }
        queue.refused += usize::from(refused);
        queue.records.push_back(record);
        drop(queue);
        self.0.added.notify_one();
    }

    /// Marks the end: no record follows.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.0.added.notify_all();
    }

    /// Waits for a record up to `timeout`. Returns `None` at the time-out, or if the gateway has ended and no record is left.
    pub fn next(&self, timeout: Duration) -> Option<FlowRecord> {
        let deadline = Instant::now().checked_add(timeout);
        let mut queue = self.lock();
        loop {
            if let Some(record) = queue.records.pop_front() {
                queue.refused -= usize::from(record.is_refused());
                return Some(record);
            }
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if queue.closed || left.is_zero() {
                return None;
            }
            queue = self.0.added.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the number of records that did not fit since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(refused: bool) -> FlowRecord {
        let verdict = if refused {
            FlowVerdict::Refused(FlowRefusal::NotGranted)
        } else {
            FlowVerdict::Granted { rule: "a.example:443".to_owned(), end: FlowEnd::Closed }
        };
        FlowRecord {
            started: SystemTime::UNIX_EPOCH,
            lasted: Duration::ZERO,
            kind: FlowKind::Tcp,
            name: None,
            wanted: ([198, 18, 1, 0], 443).into(),
            connected: None,
            address_checked: true,
            sent: 0,
            received: 0,
            request: None,
            verdict,
        }
    }

    #[test]
    fn flood_of_refusals_leaves_room_for_granted_flows_and_is_counted() {
        let log = FlowLog::new(8);
        (0..100).for_each(|_| log.add(record(true)));
        (0..5).for_each(|_| log.add(record(false)));
        assert_eq!(log.take_dropped(), 96 + 1);
        assert_eq!(log.take_dropped(), 0);
        log.close();
        let read: Vec<_> = std::iter::from_fn(|| log.next(Duration::from_secs(60))).map(|record| record.is_refused()).collect();
        assert_eq!(read, [true, true, true, true, false, false, false, false]);
        // What was read makes room again.
        log.add(record(true));
        assert_eq!(log.take_dropped(), 0);
    }

    #[test]
    fn reader_is_woken_by_a_record() {
        let log = FlowLog::new(8);
        let reader = std::thread::spawn({
            let log = log.clone();
            move || log.next(Duration::from_secs(60))
        });
        log.add(record(false));
        assert_eq!(reader.join().unwrap(), Some(record(false)));
    }
}
