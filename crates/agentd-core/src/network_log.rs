//! The record of what a sandbox tried to reach over its network.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// The queue of the flows of one sandbox ([`crate::Network::Egress`]). It is bounded: a flow that does not fit is counted.
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
    /// The name that was meant, if known. The text is from the sandbox: escape it before printing.
    pub name: Option<String>,
    /// The address and port that the program used. `None` if it only asked for the name.
    pub wanted: Option<SocketAddr>,
    /// The address outside, if one was connected to.
    pub connected: Option<SocketAddr>,
    /// False if a proxy resolved the name, so that the address was not checked.
    pub address_checked: bool,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// The method and path of a refused request inside of an inspected connection. The text is from the sandbox, as for `name`.
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
        /// The grant that would allow the flow, if there is one.
        missing: Option<String>,
    },
}
