//! The hosts of a sandbox that need an approval before a connection.

use async_trait::async_trait;
use std::time::Duration;

/// A destination to which a connection of a sandbox waits for an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostApprovalRequest {
    /// The number of the request. No other request of this sandbox has the number.
    pub id: u64,
    /// The destination, as HOST:PORT. The host is a normalized name or an address, so the text has no control character.
    pub to: String,
    /// The network grant.
    pub rule: String,
    /// The time after which the connection is refused without a decision.
    pub wait: Duration,
}

/// The decision about a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostDecision {
    /// The sandbox may connect to the destination, now and later.
    Approved {
        /// The user who decided. The text appears in the record of each connection.
        by: String,
    },
    /// The sandbox may not connect to the destination.
    Denied {
        /// The user who decided. The text appears in the record of each connection.
        by: String,
    },
    /// Nobody could be asked. A later connection is a new request.
    Failed {
        /// The cause.
        reason: String,
    },
}

/// The requests for approvals of one sandbox ([`crate::Network::Egress`]). A sandbox has at most one request for each destination
/// at a time. The number of requests is bounded.
#[async_trait]
pub trait NetworkApprovals: Send + Sync {
    /// Waits for the next request. Returns `None` if the sandbox has ended.
    async fn next(&self) -> Option<HostApprovalRequest>;
    /// Waits until no connection needs a decision about the request with this number any more, because its network grant was
    /// revoked, a later request has replaced it, or the sandbox has ended.
    async fn withdrawn(&self, id: u64);
    /// Decides about the request with this number. The first decision is final. A decision after the time of the request applies
    /// to later connections.
    fn decide(&self, id: u64, decision: HostDecision);
}
