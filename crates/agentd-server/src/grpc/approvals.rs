//! `ListApprovals` and `DecideApproval`.

use super::{
    agentd::intent_id,
    failure::{failure, invalid, of_engine},
    page::page,
};
use crate::caller::Caller;
use agentd_engine::Engine;
use agentd_proto::v1;
use agentd_state::Approval;
use tonic::Status;

/// Returns a page of the intents that wait. Only the operator sees those of others.
pub(super) async fn list(
    engine: &Engine,
    caller: &Caller,
    request: &v1::ListApprovalsRequest,
) -> Result<v1::ListApprovalsResponse, Status> {
    let own = caller.principal.id();
    let mut pending = engine.pending_approvals().await.map_err(|error| of_engine(&error))?;
    pending.retain(|approval| caller.is_operator || approval.principal.to_string() == own);
    let mut sorted: Vec<_> = pending.into_iter().map(|approval| (approval.intent.to_string(), approval)).collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    let (approvals, next_page_token) = page(sorted.into_iter(), (request.page_size, &request.page_token), message)?;
    Ok(v1::ListApprovalsResponse { approvals, next_page_token })
}

fn message(approval: Approval) -> (v1::Approval, usize) {
    let Approval { intent, principal, digest, text, requested, expires, .. } = approval;
    let length = text.len();
    let approval = v1::Approval {
        intent: intent.to_string(),
        principal: principal.to_string(),
        intent_sha256: digest.to_string(),
        text,
        requested: requested.to_string(),
        expires: expires.to_string(),
    };
    (approval, length)
}

/// Records the decision of the operator.
pub(super) async fn decide(
    engine: &Engine,
    caller: &Caller,
    request: &v1::DecideApprovalRequest,
) -> Result<v1::DecideApprovalResponse, Status> {
    // First, so that another caller does not learn which intents wait.
    if !caller.is_operator {
        let message = "only the user who runs the daemon approves and denies, by its Unix socket — ask that user";
        return Err(failure("not-an-approver", message));
    }
    let intent = intent_id(&request.intent)?;
    let approve = match v1::ApprovalDecision::try_from(request.decision) {
        Ok(v1::ApprovalDecision::Approve) => true,
        Ok(v1::ApprovalDecision::Deny) => false,
        _ => return Err(invalid("decision", format!("decision: {} — approve or deny", request.decision))),
    };
    let by = caller.principal.id();
    let by = by.try_into().map_err(|error| invalid("decision", format!("the principal cannot be recorded: {error}")))?;
    engine.decide_approval(intent, approve, by).await.map_err(|error| of_engine(&error))?;
    Ok(v1::DecideApprovalResponse {})
}
