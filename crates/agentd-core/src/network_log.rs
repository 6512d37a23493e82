//! The record of a sandbox's connections, and of its attempts to connect.

use crate::DelayedBy;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// The queue of the flows of one sandbox ([`crate::Network::Egress`]). The queue is bounded, and flows that do not fit are
/// counted.
pub trait NetworkLog: Send + Sync {
    /// Waits for the next record of a flow, up to `timeout`. Returns `None` after that time, or if the sandbox has ended and no
    /// record is left.
    fn next(&self, timeout: Duration) -> Option<NetworkFlow>;
    /// Returns the number of flows that did not fit since the last call.
    fn take_dropped(&self) -> u64;
}

/// A number of datagrams in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramCount {
    /// Datagrams from the sandbox.
    pub sent: u64,
    /// Datagrams to the sandbox.
    pub received: u64,
}

/// A record of one connection or flow of UDP of a sandbox, of one name lookup that was refused, or of one request that was
/// refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFlow {
    /// A number that the records of one flow of the sandbox share. A granted flow has records with [`NetworkVerdict::Open`]
    /// while it is open, and one other record at its end. `None` for a flow with one record only.
    pub id: Option<u64>,
    /// The time of the attempt.
    pub started: SystemTime,
    /// The time until its end, or until this record.
    pub lasted: Duration,
    /// The name of the destination, if known. The text is from the sandbox: escape it before printing.
    pub name: Option<String>,
    /// The address and port that the program used. `None` if the program only looked up the name.
    pub wanted: Option<SocketAddr>,
    /// The address to which the gateway connected, if it did.
    pub connected: Option<SocketAddr>,
    /// False if a proxy resolved the name, so that the address was not checked.
    pub address_checked: bool,
    /// True if the agent of a virtual machine reported the flow. The attempt and its destination (`wanted`, and the `name` that
    /// belongs to that address) are then the word of the guest. Everything else was observed outside.
    pub from_guest: bool,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// The carried datagrams of a flow of UDP; `None` for every other flow.
    pub datagrams: Option<DatagramCount>,
    /// The limits that delayed the flow.
    pub delayed: DelayedBy,
    /// The user who approved the destination, if its network grant needs an approval.
    pub approved_by: Option<String>,
    /// The method and path of a refused request. The text comes from the sandbox, as for `name`.
    pub request: Option<String>,
    /// The decision.
    pub verdict: NetworkVerdict,
}

/// The decision about a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkVerdict {
    /// A grant allows the flow, which has not ended. The bytes are those so far.
    Open {
        /// The grant.
        rule: String,
    },
    /// A grant allows the flow.
    Granted {
        /// The grant.
        rule: String,
        /// The reason why the flow ended early; `None` if both sides closed it.
        cut: Option<String>,
    },
    /// A grant allows the flow, and the flow was ended because a later part of it was refused.
    RefusedLater {
        /// The grant.
        rule: String,
        /// The reason of the refusal.
        reason: String,
        /// The network grant that would allow the refused part, if one would.
        missing: Option<String>,
    },
    /// The flow was refused.
    Refused {
        /// The reason.
        reason: String,
        /// The network grant that would allow the flow, if one would.
        missing: Option<String>,
    },
}
