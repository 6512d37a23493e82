//! Answers the requests of a client.

use super::{
    approval::{self, ApprovalWay},
    arguments,
    catalog::{Catalog, McpWorkspace, ToolAction},
    outputs::OutputStore,
    own_tools::{MAX_WAIT_MS, OwnTool, USUAL_WAIT_MS},
    parked::{ParkedCall, ParkedCalls},
    reply,
    running::{CallState, RunningCall},
    slots::{CallSlots, MAX_CALLS},
};
use crate::{caller::Caller, service::Service};
use agentd_log::LogFailure as _;
use agentd_telemetry::TraceContext;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, Implementation, InputRequiredResult,
        ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion, ServerCapabilities, ServerConfig,
        Tool,
    },
    service::RequestContext,
};
use serde_json::{Map, Value, json};
use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

/// The revisions that this server speaks.
const VERSIONS: [ProtocolVersion; 3] =
    [ProtocolVersion::V_2025_06_18, ProtocolVersion::V_2025_11_25, ProtocolVersion::V_2026_07_28];

/// The time for which a client may use the list of tools again. It changes only when agentd starts again.
const TOOLS_TTL_MS: u64 = 5 * 60 * 1000;

/// The time between two messages about the progress of a call.
const PROGRESS: Duration = Duration::from_secs(1);

const INSTRUCTIONS: &str = "agentd runs commands and file operations in sandboxes, as policies of this machine permit. A result \
    has `status`, `result`, `error` and `advice`: follow the advice. Long texts are cut; `cut` names each, and `output_read` \
    returns the rest. A call with the status `waiting` needs the approval of a user; `call_wait` continues it.";

/// Answers the requests of a client. Clones share all state.
#[derive(Clone)]
pub struct McpHandler {
    shared: Arc<Shared>,
    /// The caller, if the whole connection has one; otherwise each request has its own.
    caller: Option<Caller>,
}

struct Shared {
    service: Service,
    catalog: Catalog,
    workspace: McpWorkspace,
    outputs: OutputStore,
    parked: Arc<ParkedCalls>,
    slots: Arc<CallSlots>,
}

/// One request to call a tool.
struct ToolRequest<'r> {
    context: &'r RequestContext<RoleServer>,
    caller: Caller,
    owner: String,
}

impl McpHandler {
    /// Returns a handler. `caller` is the caller of all requests of a connection; without one, each request must have a [`Caller`]
    /// in the extensions of its HTTP request.
    pub fn new(service: Service, workspace: McpWorkspace, caller: Option<Caller>) -> Self {
        let catalog = Catalog::new(service.capabilities(), &workspace);
        let (outputs, parked, slots) = Default::default();
        Self { shared: Arc::new(Shared { service, catalog, workspace, outputs, parked, slots }), caller }
    }

    fn caller(&self, context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
        let of_request = || context.extensions.get::<http::request::Parts>()?.extensions.get::<Caller>().cloned();
        self.caller.clone().or_else(of_request).ok_or_else(|| ErrorData::internal_error("the request is not authenticated", None))
    }

    /// Begins a call of a capability's tool, or continues one that waits for its approval, and returns its result.
    async fn capability(
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
            Err(refused) => return Ok(refused.into()),
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

    fn begun(
        &self,
        request: &ToolRequest<'_>,
        capability: &str,
        arguments: Map<String, Value>,
    ) -> Result<RunningCall, CallToolResult> {
        let Shared { service, workspace, slots, .. } = &*self.shared;
        let found =
            service.capabilities().find(capability).map_err(|error| reply::failed("unknown-capability", &error.to_string()))?;
        let execute = arguments::request(found, arguments, workspace)
            .map_err(|error| reply::failed("invalid-parameters", &error.to_string()))?;
        let slot = slots.take(&request.owner).ok_or_else(|| {
            let message = format!(
                "{MAX_CALLS} calls of this client run or wait already — wait until one has ended, and call the tool again"
            );
            reply::failed("too-many-calls", &message)
        })?;
        // A model writes the arguments, so they name no directory that only the user of the daemon may name.
        let caller = match workspace {
            McpWorkspace::Fixed(_) => request.caller.clone(),
            McpWorkspace::Argument => Caller { is_operator: false, ..request.caller.clone() },
        };
        let parent = parent(request.context);
        Ok(RunningCall::begin(service, &caller, execute, slot, parent.as_ref()))
    }

    /// Gets the approval for a call that waits: from the user of the client, or later.
    async fn approved(
        &self,
        request: &ToolRequest<'_>,
        call: RunningCall,
        intent: &str,
        expires: &str,
    ) -> Result<CallToolResponse, ErrorData> {
        let way = approval::way(request.context, &request.caller, self.caller.is_some());
        if way == ApprovalWay::Handle {
            return self.parked(request, call, intent, expires);
        }
        let id = intent.parse().map_err(|_| ErrorData::internal_error("the identifier of an intent cannot be read", None))?;
        let engine = self.shared.service.engine();
        let Ok(text) = engine.approval(id).await.map(|approval| approval.text) else {
            // Another user has just decided.
            return self.rest(request, call).await;
        };
        let question = approval::question(&text).map_err(|error| ErrorData::internal_error(error, None))?;
        if way == ApprovalWay::InputRequired {
            let handle = new_handle()?;
            let parked = ParkedCall { owner: request.owner.clone(), call };
            if !self.shared.parked.park(handle.clone(), parked) {
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
    async fn continued(
        &self,
        request: &ToolRequest<'_>,
        handle: String,
        decision: Option<bool>,
        capability: &str,
    ) -> Result<CallToolResponse, ErrorData> {
        let parked = self.shared.parked.take(&request.owner, &handle);
        let Some(ParkedCall { call, owner }) = parked else { return Ok(unknown_call().into()) };
        if call.capability != capability {
            self.shared.parked.park(handle, ParkedCall { owner, call });
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

    async fn decide(&self, request: &ToolRequest<'_>, intent: &str, approve: bool) {
        let Ok(intent) = intent.parse() else { return };
        let Ok(by) = request.caller.principal.id().try_into() else { return };
        // An approval that was decided or has expired meanwhile ends the wait, too.
        self.shared
            .service
            .engine()
            .decide_approval(intent, approve, by)
            .await
            .or_warn("record the decision of", "the user of a client");
    }

    /// Waits for the end of a call that has been decided.
    async fn rest(&self, request: &ToolRequest<'_>, call: RunningCall) -> Result<CallToolResponse, ErrorData> {
        let state = tokio::select! {
            state = self.followed(request, &call, true) => state,
            () = request.context.ct.cancelled() => return Ok(self.cancelled(request, call).await.into()),
        };
        Ok(self.reply(request, &call, state).into())
    }

    fn parked(
        &self,
        request: &ToolRequest<'_>,
        call: RunningCall,
        intent: &str,
        expires: &str,
    ) -> Result<CallToolResponse, ErrorData> {
        let handle = new_handle()?;
        let parked = ParkedCall { owner: request.owner.clone(), call };
        Ok(if self.shared.parked.park(handle.clone(), parked) {
            reply::waiting(intent, expires, &handle).into()
        } else {
            too_many_waiting().into()
        })
    }

    /// Kills the processes of a call, and waits for its end.
    async fn cancelled(&self, request: &ToolRequest<'_>, call: RunningCall) -> CallToolResult {
        call.cancel();
        let state = call.settled(true).await;
        self.reply(request, &call, state)
    }

    /// Waits until a call has ended or needs a decision. Tells the client meanwhile how far the call is, if the client asked for it.
    async fn followed(&self, request: &ToolRequest<'_>, call: &RunningCall, is_decided: bool) -> CallState {
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

    fn reply(&self, request: &ToolRequest<'_>, call: &RunningCall, state: CallState) -> CallToolResult {
        let CallState::Ended(served) = state else {
            return reply::failed("failed", "the call has not ended — report this as a bug of agentd");
        };
        let Shared { service, outputs, .. } = &*self.shared;
        let mut keep = |text: String| outputs.keep(&request.owner, new_handle().ok()?, text, Instant::now());
        let mut result = reply::ended(&served, service.capabilities().find(&call.capability).ok(), &mut keep);
        let mut meta = rmcp::model::MetaObject::new();
        meta.set_traceparent(call.trace.to_string());
        if let Some(state) = call.trace.state() {
            meta.set_tracestate(state);
        }
        result.meta = Some(meta);
        result
    }

    async fn own(&self, request: &ToolRequest<'_>, tool: OwnTool, arguments: &Map<String, Value>) -> CallToolResult {
        let Some(handle) = arguments.get("handle").and_then(Value::as_str) else {
            return reply::failed(
                "invalid-parameters",
                "handle: missing, or not a string — write the handle from an earlier result",
            );
        };
        match tool {
            OwnTool::OutputRead => self.output_read(request, handle, arguments.get("cursor")),
            OwnTool::CallWait => self.call_wait(request, handle, arguments.get("timeout_ms")).await,
            OwnTool::CallCancel => match self.shared.parked.take(&request.owner, handle) {
                Some(parked) => self.cancelled(request, parked.call).await,
                None => unknown_call(),
            },
        }
    }

    fn output_read(&self, request: &ToolRequest<'_>, handle: &str, cursor: Option<&Value>) -> CallToolResult {
        let cursor = match cursor {
            None => Some(0),
            Some(cursor) => cursor.as_u64().and_then(|cursor| usize::try_from(cursor).ok()),
        };
        let Some(cursor) = cursor else {
            return reply::failed(
                "invalid-parameters",
                "cursor: not a number of bytes — write 0, or the cursor of an earlier result",
            );
        };
        match self.shared.outputs.read(&request.owner, handle, cursor, Instant::now()) {
            Some(part) => {
                let structured =
                    json!({ "text": part.text, "cursor": part.cursor, "next_cursor": part.next, "bytes": part.bytes });
                reply::result(structured, false)
            }
            None => reply::failed(
                "unknown-handle",
                "handle: no such text is kept any more — run the command again, and write its output to a file if it is long",
            ),
        }
    }

    async fn call_wait(&self, request: &ToolRequest<'_>, handle: &str, timeout: Option<&Value>) -> CallToolResult {
        let timeout = timeout.map_or(Some(USUAL_WAIT_MS), Value::as_u64).filter(|timeout| *timeout <= MAX_WAIT_MS);
        let Some(timeout) = timeout else {
            return reply::failed("invalid-parameters", "timeout_ms: write a number from 0 to 300000");
        };
        let Some(ParkedCall { call, owner }) = self.shared.parked.take(&request.owner, handle) else { return unknown_call() };
        let ended = tokio::select! {
            biased;
            state = self.followed(request, &call, true) => Some(state),
            () = tokio::time::sleep(Duration::from_millis(timeout)) => None,
            // The client waits no longer. The call goes on.
            () = request.context.ct.cancelled() => None,
        };
        if let Some(state) = ended {
            return self.reply(request, &call, state);
        }
        let state = call.progress().state;
        if !self.shared.parked.park(handle.to_owned(), ParkedCall { call, owner }) {
            return too_many_waiting();
        }
        match state {
            CallState::Waiting { intent, expires } => reply::waiting(&intent, &expires, handle),
            _ => reply::result(
                json!({
                    "status": "waiting",
                    "reason": "running",
                    "intent": null,
                    "result": null,
                    "error": null,
                    "advice": format!("The call runs. Call `call_wait` with the handle {handle:?} again."),
                    "notices": [],
                    "cut": [],
                    "handle": handle,
                }),
                false,
            ),
        }
    }
}

/// Returns a handle that cannot be guessed.
fn new_handle() -> Result<String, ErrorData> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| ErrorData::internal_error(format!("random bytes: {errno} — check that getrandom(2) works"), None))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// Returns the span of the client. An invalid one is ignored, as the specification requires.
fn parent(context: &RequestContext<RoleServer>) -> Option<TraceContext> {
    let parent: TraceContext = context.meta.get_traceparent()?.parse().ok()?;
    Some(match context.meta.get_tracestate() {
        Some(state) => parent.with_state(state),
        None => parent,
    })
}

fn unknown_call() -> CallToolResult {
    reply::failed(
        "unknown-handle",
        "handle: no such call waits — it may have ended, or another request waits for it: call the tool itself again if you have no result",
    )
}

fn too_many_waiting() -> CallToolResult {
    reply::failed(
        "too-many-calls",
        "too many calls wait for an approval — ask the user to decide about those first, and call the tool again",
    )
}

impl ServerHandler for McpHandler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("agentd", env!("CARGO_PKG_VERSION")).with_title("agentd"))
            .with_instructions(INSTRUCTIONS)
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(&VERSIONS)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params("cursor: the list of tools has one page only", None));
        }
        let mut result = ListToolsResult::with_all_items(self.shared.catalog.tools());
        // The tools are the same for all callers.
        result.ttl_ms = Some(TOOLS_TTL_MS);
        result.cache_scope = Some(CacheScope::Public);
        Ok(result)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared.catalog.find(name).map(|entry| entry.tool.clone())
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = self.caller(&context)?;
        let owner = caller.principal.id();
        let Some(entry) = self.shared.catalog.find(&params.name) else {
            let name: String = params.name.chars().take(128).collect();
            return Err(ErrorData::invalid_params(format!("unknown tool {name:?} — `tools/list` lists the tools"), None));
        };
        let request = ToolRequest { context: &context, caller, owner };
        match &entry.action {
            ToolAction::Capability(capability) => self.capability(&request, capability, params).await,
            ToolAction::Own(tool) => Ok(self.own(&request, *tool, &params.arguments.unwrap_or_default()).await.into()),
        }
    }
}
