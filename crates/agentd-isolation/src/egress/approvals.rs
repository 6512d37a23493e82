//! The requests of a gateway for approvals, in the form that callers of a sandbox use.

use agentd_core::{HostApprovalRequest, HostDecision, NetworkApprovals};
use agentd_egress::approval::HostApprovals;
use async_trait::async_trait;

/// The requests of a gateway, as [`NetworkApprovals`].
#[derive(Debug)]
pub(super) struct GatewayApprovals(pub(super) HostApprovals);

#[async_trait]
impl NetworkApprovals for GatewayApprovals {
    async fn next(&self) -> Option<HostApprovalRequest> {
        self.0.next().await
    }

    async fn withdrawn(&self, id: u64) {
        self.0.withdrawn(id).await;
    }

    fn decide(&self, id: u64, decision: HostDecision) {
        self.0.decide(id, decision);
    }
}
