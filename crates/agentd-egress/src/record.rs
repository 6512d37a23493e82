//! The record of each attempt of a sandbox to reach something, granted or refused, and the queue of the records.
//!
//! A granted flow also has records while it is open. A later record of the flow replaces an earlier one in the queue, so a flow
//! has exactly one record that is not [`FlowVerdict::Open`].

mod queue;

use crate::{
    address::SpecialKind, approval::ApprovalRefusal, hello::HelloError, http::HeadError, inspect::error::InspectRefusal,
};
use agentd_core::{DatagramCount, DelayedBy};
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

pub use queue::FlowLog;

/// The kind of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlowKind {
    /// A TCP connection.
    Tcp,
    /// The UDP datagrams between one socket of a program and one destination, or a datagram that was refused.
    Udp,
    /// A DNS query. Only refused queries are recorded, because an answered query has no effect without a connection.
    Dns,
    /// A request inside an inspected connection. Only refused requests are recorded. The connection has a separate record.
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
        let cut = |text: &str, max: usize| text.chars().take(max).collect();
        Self { method: cut(method, MAX_METHOD), path: cut(path, MAX_PATH) }
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// A number that the records of one flow share. `None` for an attempt with one record only.
    pub id: Option<u64>,
    /// The time of the attempt.
    pub started: SystemTime,
    /// The time until its end, or until this record.
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
    /// The carried datagrams, if the record is about a flow of UDP.
    pub datagrams: Option<DatagramCount>,
    /// The limits that delayed the flow.
    pub delayed: DelayedBy,
    /// The user who approved the destination, if its grant needs an approval.
    pub approved_by: Option<String>,
    /// The method and path that were refused, if known.
    pub request: Option<RequestLine>,
    /// The decision.
    pub verdict: FlowVerdict,
}

/// The decision about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlowVerdict {
    /// A grant allows the attempt, and the connection is open. The bytes are those so far.
    Open {
        /// The grant, in text form.
        rule: String,
    },
    /// A grant allows the attempt.
    Granted {
        /// The grant, in text form.
        rule: String,
        /// The way in which the flow ended.
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
    /// No byte arrived for the idle limit. Flows of UDP have no other regular end.
    Idle,
    /// The sandbox started more flows of UDP than its limit permits, and this one was used least recently.
    Displaced,
    /// The grant was revoked.
    Revoked,
    /// The gateway stopped.
    Stopped,
    /// A later part of the flow was refused.
    Refused(FlowRefusal),
}

/// The reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowRefusal {
    /// No grant covers the name.
    #[error("no network grant covers the name — add one")]
    NameNotGranted,
    /// No grant covers the destination at this port.
    #[error("no network grant covers this destination at this port — add one with the port")]
    NotGranted,
    /// No grant covers UDP to the destination at this port.
    #[error("no network grant covers UDP to this destination — let the program use TCP, or add a network grant with `/udp`")]
    Udp,
    /// The program used UDP in a virtual machine, whose agent does not carry UDP.
    #[error(
        "no network grant covers UDP in a virtual machine — let the program use TCP, or use the backend linux-native or container"
    )]
    UdpInMachine,
    /// The sandbox started more flows of UDP per second than its limit.
    #[error("the sandbox started too many flows of UDP per second (`new-connections` of --net-limit) — start fewer, or raise it")]
    TooManyFlows,
    /// The sandbox has as many flows as its limit permits.
    #[error(
        "the sandbox has as many connections as its limit permits (`connections` of --net-limit) — close some, or raise the limit"
    )]
    TooManyConnections,
    /// The sandbox has carried as many bytes as its limit permits.
    #[error("the sandbox has carried as many bytes as its limit permits (`bytes` of --net-limit) — raise the limit")]
    UsedUp,
    /// The address is from the range of the sandbox's DNS, and belongs to no name.
    #[error(
        "no name was resolved to this address in this sandbox — connect by name; programs must not keep addresses from \
         earlier runs"
    )]
    NoName,
    /// The sandbox asked for more names than its limit.
    #[error("the sandbox resolved more names than its limit (`FlowLimits::names` of the library) permits — resolve fewer names")]
    TooManyNames,
    /// The query requests a type of record that the gateway does not answer.
    #[error("DNS records of type {0} are not available in a sandbox — request A or AAAA records")]
    RecordType(String),
    /// The name leads to an address that is not of the public internet.
    #[error("the name leads to {address}, which is {kind} — also grant that address with its port, if you want to reach it")]
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
    /// The destination needs an approval and has none.
    #[error(transparent)]
    Approval(#[from] ApprovalRefusal),
    /// A request is not acceptable HTTP.
    #[error(transparent)]
    Request(#[from] HeadError),
    /// Something inside an inspected connection is not acceptable.
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
        let verdict = FlowVerdict::Refused(refusal);
        self.log.add(FlowRecord {
            name: Some(self.name.clone()),
            connected: self.connected,
            address_checked: self.address_checked,
            request: Some(request),
            ..FlowRecord::new(SystemTime::now(), Duration::ZERO, FlowKind::Request, self.wanted, verdict)
        });
    }
}

impl FlowRecord {
    /// Returns a record without bytes, name and connection.
    pub(crate) fn new(started: SystemTime, lasted: Duration, kind: FlowKind, wanted: SocketAddr, verdict: FlowVerdict) -> Self {
        Self {
            id: None,
            started,
            lasted,
            kind,
            name: None,
            wanted,
            connected: None,
            address_checked: true,
            sent: 0,
            received: 0,
            datagrams: None,
            delayed: DelayedBy::default(),
            approved_by: None,
            request: None,
            verdict,
        }
    }

    /// Returns true if the attempt was refused.
    pub fn is_refused(&self) -> bool {
        matches!(self.verdict, FlowVerdict::Refused(_))
    }

    /// Returns true if another record of the connection follows.
    pub fn is_open(&self) -> bool {
        matches!(self.verdict, FlowVerdict::Open { .. })
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
