//! Executes admitted intents: in a new sandbox, in a named one, or in an interpreter session. `agentd call` and the daemon share this code.

mod advice;
mod command;
mod live;
mod named;
mod sandbox;
mod session;

pub(super) use live::LiveCaller;

use super::stops::{StopSource, Stops};
use agentd_engine::{EndedIntent, EngineError, Execution, Operation};
use agentd_server::{CallInput, SandboxReach};
use std::ffi::OsString;
use tokio::sync::mpsc;

/// How an intent is executed, in addition to its terms.
pub(super) struct ExecutionOptions<'a> {
    /// The backend that the caller names.
    pub backend: Option<&'a str>,
    /// The options `--secret`. Their destinations are a part of the terms.
    pub secrets: &'a [OsString],
    /// The caller, who may read the output while it is written.
    pub caller: LiveCaller,
    /// The input of a caller of the daemon.
    pub input: Option<mpsc::Receiver<CallInput>>,
    /// Where requests to stop come from.
    pub stops: StopSource,
    /// The named sandboxes that the caller may use.
    pub reach: SandboxReach,
}

/// An intent that was executed.
pub(super) struct ExecutedIntent {
    /// Its end.
    pub ended: EndedIntent,
    /// True if the caller got the output while it was written.
    pub was_live: bool,
    /// Lines about refused destinations and changed protected paths.
    pub notices: Vec<String>,
    /// The first request to stop that arrived.
    pub stopped: Option<i32>,
}

impl ExecutedIntent {
    fn not_begun(ended: EndedIntent) -> Self {
        Self { ended, was_live: false, notices: Vec::new(), stopped: None }
    }
}

/// Records the end of an intent that was stopped before its command started.
async fn end_cancelled(execution: Execution<'_>) -> Result<EndedIntent, EngineError> {
    execution.fail_with("cancelled", "the intent was cancelled before its command started").await
}

/// Executes an intent, and records its end. A request to stop ends the intent.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(super) async fn execute(execution: Execution<'_>, options: ExecutionOptions<'_>) -> Result<ExecutedIntent, EngineError> {
    let mut stops = match Stops::of(&options.stops) {
        Ok(stops) => stops,
        Err(error) => {
            let text = format!("receive signals: {error} — check the limit of open files (ulimit -n)");
            return Ok(ExecutedIntent::not_begun(execution.fail(&text).await?));
        }
    };
    let executed = match &execution.valid().operation {
        Operation::Cell(_) if !options.secrets.is_empty() => {
            let text = "session: secrets cannot be used in a session — remove --secret, or the parameter session";
            Ok(ExecutedIntent::not_begun(execution.fail(text).await?))
        }
        Operation::Cell(cell) => {
            let cell = cell.clone();
            session::execute(execution, cell, &options.caller, &mut stops).await
        }
        Operation::Sandbox(call) => {
            let call = call.clone();
            named::execute(execution, call, options.reach).await
        }
        Operation::Command(line) if let Some(name) = execution.valid().intent.sandbox.clone() => {
            let line = line.clone();
            named::execute_command(execution, (&name, &line), options, &mut stops).await
        }
        Operation::Command(_) | Operation::Tool(_) => sandbox::execute(execution, options, &mut stops).await,
    };
    let executed = executed?;
    let notices = executed.notices.iter().map(|line| advice::of_call(line)).collect();
    Ok(ExecutedIntent { stopped: executed.stopped.or(stops.first), notices, ..executed })
}
