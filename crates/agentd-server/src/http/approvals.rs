//! `/v1/approvals`: the intents that wait for a decision of the user who runs the daemon.

use super::{body, problem::Problem, state::HttpState};
use crate::caller::Caller;
use agentd_state::{Approval, IntentId};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

/// An intent that waits for an approval.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct PendingApproval {
    /// The identifier of the intent.
    intent: String,
    /// The principal who requests.
    principal: String,
    /// What is requested. The text contains text of the requester.
    text: String,
    /// The SHA-256 digest of the intent, as records contain it.
    intent_sha256: String,
    /// When the approval was requested (RFC 3339).
    requested: String,
    /// When the intent ends without a decision (RFC 3339).
    expires: String,
}

/// The intents that wait.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct PendingApprovals {
    /// The approvals, oldest first.
    approvals: Vec<PendingApproval>,
}

/// A decision.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Decision {
    /// The intent is executed.
    Approve,
    /// The intent is refused.
    Deny,
}

/// A decision about an intent.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionBody {
    /// The decision.
    decision: Decision,
}

/// Lists the intents that wait. Only the user who runs the daemon sees those of others.
#[utoipa::path(
    get,
    path = "/v1/approvals",
    responses(
        (status = OK, body = PendingApprovals, description = "The intents that wait"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<PendingApprovals>, Problem> {
    let own = caller.principal.id();
    let mut pending = state.service().engine().pending_approvals().await?;
    pending.retain(|approval| caller.is_operator || approval.principal.to_string() == own);
    pending.sort_by_key(|approval| approval.requested);
    Ok(Json(PendingApprovals { approvals: pending.into_iter().map(described).collect() }))
}

fn described(approval: Approval) -> PendingApproval {
    let Approval { intent, principal, digest, text, requested, expires, .. } = approval;
    PendingApproval {
        intent: intent.to_string(),
        principal: principal.to_string(),
        text,
        intent_sha256: digest.to_string(),
        requested: requested.to_string(),
        expires: expires.to_string(),
    }
}

/// Approves or denies an intent.
#[utoipa::path(
    post,
    path = "/v1/approvals/{intent}",
    params(("intent" = String, Path, description = "The identifier of the intent")),
    request_body = DecisionBody,
    responses(
        (status = NO_CONTENT, description = "The decision is recorded"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(super) async fn decide(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    intent: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    // First, so that another caller does not learn which intents wait.
    if !caller.is_operator {
        let text = "only the user who runs the daemon approves and denies — ask that user";
        return Err(Problem::new("not-an-approver", text));
    }
    let DecisionBody { decision } = body::received(&state, &headers, body).await?;
    let unknown =
        || Problem::new("no-approval", "no intent with this identifier waits for an approval — GET /v1/approvals lists them");
    let intent: IntentId = intent.parse().map_err(|_| unknown())?;
    let by = caller.principal.id();
    let by =
        by.try_into().map_err(|error| Problem::new("not-an-approver", format!("the principal cannot be recorded: {error}")))?;
    let approve = matches!(decision, Decision::Approve);
    state.service().engine().decide_approval(intent, approve, by).await?;
    Ok(StatusCode::NO_CONTENT)
}
