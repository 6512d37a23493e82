//! The record of a sandbox's connections, and of its attempts to connect.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// The queue of the flows of one sandbox ([`crate::Network::Egress`]). The queue is bounded, and flows that do not fit are
/// counted.
pub trait NetworkLog: Send + Sync {
    /// Waits for the next flow, up to `timeout`. Returns `None` after that time, or if the sandbox has ended and no flow is left.
    fn next(&self, timeout: Duration) -> Option<NetworkFlow>;
    /// Returns the number of flows that did not fit since the last call.
    fn take_dropped(&self) -> u64;
}

/// One connection of a sandbox, one question for a name that was refused, or one request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFlow {
    /// The time of the attempt.
    pub started: SystemTime,
    /// The time until its end.
    pub lasted: Duration,
    /// The name of the destination, if known. The text is from the sandbox: escape it before printing.
    pub name: Option<String>,
    /// The address and port that the program used. `None` if the program only looked up the name.
    pub wanted: Option<SocketAddr>,
    /// The address to which the gateway connected, if it did.
    pub connected: Option<SocketAddr>,
    /// False if a proxy resolved the name, so that the address was not checked.
    pub address_checked: bool,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// The method and path of a refused request inside of an inspected connection. The text comes from the sandbox, as for
    /// `name`.
    pub request: Option<String>,
    /// The decision.
    pub verdict: NetworkVerdict,
}

/// The decision about a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkVerdict {
    /// A grant allows the flow.
    Granted {
        /// The grant.
        rule: String,
        /// The reason for which the flow ended early; `None` if both sides closed it.
        cut: Option<String>,
    },
    /// The flow was refused.
    Refused {
        /// The reason.
        reason: String,
        /// The network grant that would allow the flow, if one would.
        missing: Option<String>,
    },
}
