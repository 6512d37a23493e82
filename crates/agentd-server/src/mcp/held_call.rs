//! Calls that wait for an approval.

use super::{
    approval::{self, ApprovalWay},
    parked::ParkedCall,
    reply,
    running::{CallState, RunningCall},
    state::{McpState, ToolRequest, new_handle},
};
use agentd_log::LogFailure as _;
use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, InputRequiredResult},
};

impl McpState {
    /// Gets the approval for a call that waits: from the user of the client, or later.
    pub(super) async fn approved(
        &self,
        request: &ToolRequest<'_>,
        call: RunningCall,
        intent: &str,
        expires: &str,
    ) -> Result<CallToolResponse, ErrorData> {
        let way = approval::way(request.context, &request.caller, self.is_connected);
        if way == ApprovalWay::Handle {
            return self.parked(request, call, intent, expires);
        }
        let id = intent.parse().map_err(|_| ErrorData::internal_error("the identifier of an intent cannot be read", None))?;
        let engine = self.service.engine();
        let Ok(text) = engine.approval(id).await.map(|approval| approval.text) else {
            // Another user has just decided.
            return self.rest(request, call).await;
        };
        let question = approval::question(&text).map_err(|error| ErrorData::internal_error(error, None))?;
        if way == ApprovalWay::InputRequired {
            let handle = new_handle()?;
            let parked = ParkedCall { owner: request.owner.clone(), call };
            if !self.parked.park(handle.clone(), parked) {
                return Ok(too_many_waiting().into());
            }
            return Ok(InputRequiredResult::new(Some(approval::input_requests(question)), Some(handle)).into());
        }
        let decision = tokio::select! {
            answer = request.context.peer.create_elicitation(question) => {
                answer.ok().as_ref().and_then(approval::decision)
            }
            // Decided or expired elsewhere.
            _ = call.settled(true) => return Ok(self.reply(request, &call, call.progress().state).into()),
            () = request.context.ct.cancelled() => return Ok(self.cancelled(request, call).await.into()),
        };
        match decision {
            Some(approve) => {
                self.decide(request, intent, approve).await;
                self.rest(request, call).await
            }
            None => self.parked(request, call, intent, expires),
        }
    }

    /// Continues a call after its client has asked the user.
    pub(super) async fn continued(
        &self,
        request: &ToolRequest<'_>,
        handle: String,
        decision: Option<bool>,
        capability: &str,
    ) -> Result<CallToolResponse, ErrorData> {
        let parked = self.parked.take(&request.owner, &handle);
        let Some(ParkedCall { call, owner }) = parked else { return Ok(unknown_call().into()) };
        if call.capability != capability {
            self.parked.park(handle, ParkedCall { owner, call });
            return Err(ErrorData::invalid_params("requestState: the state of a call of another tool", None));
        }
        let CallState::Waiting { intent, expires } = call.progress().state else { return self.rest(request, call).await };
        match decision {
            Some(approve) if request.caller.is_operator => {
                self.decide(request, &intent, approve).await;
                self.rest(request, call).await
            }
            _ => self.parked(request, call, &intent, &expires),
        }
    }

    pub(super) async fn decide(&self, request: &ToolRequest<'_>, intent: &str, approve: bool) {
        let Ok(intent) = intent.parse() else { return };
        let Ok(by) = request.caller.principal.id().try_into() else { return };
        // An approval that was decided or has expired meanwhile ends the wait, too.
        self.service
            .engine()
            .decide_approval(intent, approve, by)
            .await
            .or_warn("record the decision of", "the user of a client");
    }

    pub(super) fn parked(
        &self,
        request: &ToolRequest<'_>,
        call: RunningCall,
        intent: &str,
        expires: &str,
    ) -> Result<CallToolResponse, ErrorData> {
        let handle = new_handle()?;
        let parked = ParkedCall { owner: request.owner.clone(), call };
        Ok(if self.parked.park(handle.clone(), parked) {
            reply::waiting(intent, expires, &handle).into()
        } else {
            too_many_waiting().into()
        })
    }
}

/// Returns the result for a handle of no call.
pub(super) fn unknown_call() -> CallToolResult {
    reply::failed(
        "unknown-handle",
        "handle: no such call waits — it may have ended, or another request waits for it: call the tool itself again if you have no result",
    )
}

/// Returns the result for a call that cannot wait.
pub(super) fn too_many_waiting() -> CallToolResult {
    reply::failed(
        "too-many-calls",
        "too many calls wait for an approval — ask the user to decide about those first, and call the tool again",
    )
}
