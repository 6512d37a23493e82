//! Calls of the tools that are no capabilities.

use super::{
    held_call::{too_many_waiting, unknown_call},
    own_tools::{MAX_WAIT_MS, OwnTool, USUAL_WAIT_MS},
    parked::ParkedCall,
    reply,
    running::CallState,
    state::{McpState, ToolRequest},
};
use rmcp::model::CallToolResult;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

impl McpState {
    /// Calls a tool that is no capability, and returns its result.
    pub(super) async fn own(&self, request: &ToolRequest<'_>, tool: OwnTool, arguments: &Map<String, Value>) -> CallToolResult {
        let Some(handle) = arguments.get("handle").and_then(Value::as_str) else {
            return reply::failed(
                "invalid-parameters",
                "handle: missing, or not a string — write the handle from an earlier result",
            );
        };
        match tool {
            OwnTool::OutputRead => self.output_read(request, handle, arguments.get("cursor")),
            OwnTool::CallWait => self.call_wait(request, handle, arguments.get("timeout_ms")).await,
            OwnTool::CallCancel => match self.parked.take(&request.owner, handle) {
                Some(parked) => self.cancelled(request, parked.call).await,
                None => unknown_call(),
            },
        }
    }

    pub(super) fn output_read(&self, request: &ToolRequest<'_>, handle: &str, cursor: Option<&Value>) -> CallToolResult {
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
        match self.outputs.read(&request.owner, handle, cursor, Instant::now()) {
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

    pub(super) async fn call_wait(&self, request: &ToolRequest<'_>, handle: &str, timeout: Option<&Value>) -> CallToolResult {
        let timeout = timeout.map_or(Some(USUAL_WAIT_MS), Value::as_u64).filter(|timeout| *timeout <= MAX_WAIT_MS);
        let Some(timeout) = timeout else {
            return reply::failed("invalid-parameters", "timeout_ms: write a number from 0 to 300000");
        };
        let Some(ParkedCall { call, owner }) = self.parked.take(&request.owner, handle) else { return unknown_call() };
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
        if !self.parked.park(handle.to_owned(), ParkedCall { call, owner }) {
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
