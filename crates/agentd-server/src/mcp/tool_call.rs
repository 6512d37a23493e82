//! Calls of the tools of capabilities.

use super::{
    approval, arguments, reply,
    running::{CallState, RunningCall},
    slots::MAX_CALLS,
    state::{McpState, ToolRequest, new_handle},
};
use crate::caller::Caller;
use agentd_telemetry::TraceContext;
use rmcp::{
    ErrorData, RoleServer,
    model::{CallToolRequestParams, CallToolResponse, CallToolResult, MetaObject, ProgressNotificationParam},
    service::RequestContext,
};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// The time between two messages about the progress of a call.
const PROGRESS: Duration = Duration::from_secs(1);

impl McpState {
    /// Begins a call of a capability's tool, or continues one that waits for its approval, and returns its result.
    pub(super) async fn capability(
        &self,
        request: &ToolRequest<'_>,
        capability: &str,
        params: CallToolRequestParams,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = params.arguments.unwrap_or_default();
        if let Some(handle) = params.request_state {
            let decision = approval::decision_in(params.input_responses.as_ref());
            return self.continued(request, handle, decision, capability).await;
        }
        let call = match self.begun(request, capability, arguments) {
            Ok(call) => call,
            Err(refused) => return Ok((*refused).into()),
        };
        let state = tokio::select! {
            state = self.followed(request, &call, false) => state,
            () = request.context.ct.cancelled() => return Ok(self.cancelled(request, call).await.into()),
        };
        match state {
            CallState::Waiting { intent, expires } => self.approved(request, call, &intent, &expires).await,
            state => Ok(self.reply(request, &call, state).into()),
        }
    }

    pub(super) fn begun(
        &self,
        request: &ToolRequest<'_>,
        capability: &str,
        arguments: Map<String, Value>,
    ) -> Result<RunningCall, Box<CallToolResult>> {
        let McpState { service, workspace, slots, live, .. } = self;
        let refused = |reason: &str, message: &str| Box::new(reply::failed(reason, message));
        let found = service.capabilities().find(capability).map_err(|error| refused("unknown-capability", &error.to_string()))?;
        let execute =
            arguments::request(found, arguments, workspace).map_err(|error| refused("invalid-parameters", &error.to_string()))?;
        let slot = slots.take(&request.owner).ok_or_else(|| {
            let message = format!(
                "{MAX_CALLS} calls of this client run or wait already — wait until one has ended, and call the tool again"
            );
            refused("too-many-calls", &message)
        })?;
        // A model writes the arguments, so they name no directory or sandbox that only the user of the daemon may name.
        let caller = Caller { is_operator: false, ..request.caller.clone() };
        let parent = parent(request.context);
        Ok(RunningCall::begin(service, &caller, execute, slot, (parent.as_ref(), live)))
    }

    /// Waits for the end of a call that has been decided.
    pub(super) async fn rest(&self, request: &ToolRequest<'_>, call: RunningCall) -> Result<CallToolResponse, ErrorData> {
        let state = tokio::select! {
            state = self.followed(request, &call, true) => state,
            () = request.context.ct.cancelled() => return Ok(self.cancelled(request, call).await.into()),
        };
        Ok(self.reply(request, &call, state).into())
    }

    /// Kills the processes of a call, and waits for its end.
    pub(super) async fn cancelled(&self, request: &ToolRequest<'_>, call: RunningCall) -> CallToolResult {
        call.cancel();
        let state = call.settled(true).await;
        self.reply(request, &call, state)
    }

    /// Waits until a call has ended or needs a decision. Tells the client meanwhile how far the call is, if the
    /// client asked for it.
    pub(super) async fn followed(&self, request: &ToolRequest<'_>, call: &RunningCall, is_decided: bool) -> CallState {
        let Some(token) = request.context.meta.get_progress_token() else { return call.settled(is_decided).await };
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(PROGRESS);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                state = call.settled(is_decided) => return state,
                _ = ticks.tick() => {
                    let progress = call.progress();
                    let message = match progress.state {
                        CallState::Running if progress.bytes > 0 => format!("{} bytes of output; {}", progress.bytes, progress.last_line),
                        CallState::Running => "running, no output yet".to_owned(),
                        CallState::Waiting { .. } => "waiting for the approval of a user".to_owned(),
                        _ => "waiting for a place to run".to_owned(),
                    };
                    let notice = ProgressNotificationParam::new(token.clone(), begun.elapsed().as_secs_f64()).with_message(message);
                    // A client that has gone cancels the call.
                    request.context.peer.notify_progress(notice).await.ok();
                }
            }
        }
    }

    pub(super) fn reply(&self, request: &ToolRequest<'_>, call: &RunningCall, state: CallState) -> CallToolResult {
        let CallState::Ended(ended) = state else {
            return reply::failed("failed", "the call has not ended — report this as a bug of agentd");
        };
        let McpState { service, outputs, .. } = self;
        let mut keep = |text: String| outputs.keep(&request.owner, new_handle().ok()?, text, Instant::now());
        let mut result = reply::ended(&ended.served, service.capabilities().find(&call.capability).ok(), &mut keep);
        let mut meta = MetaObject::new();
        meta.set_traceparent(call.trace.to_string());
        if let Some(state) = call.trace.state() {
            meta.set_tracestate(state);
        }
        result.meta = Some(meta);
        result
    }
}

/// Returns the span of the client. An invalid one is ignored, as the specification requires.
fn parent(context: &RequestContext<RoleServer>) -> Option<TraceContext> {
    let parent: TraceContext = context.meta.get_traceparent()?.parse().ok()?;
    Some(match context.meta.get_tracestate() {
        Some(state) => parent.with_state(state),
        None => parent,
    })
}
