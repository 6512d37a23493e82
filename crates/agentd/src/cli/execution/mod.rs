//! Executes admitted intents: in a new sandbox, in a named one, or in an interpreter session. `agentd call` and the daemon share
//! this code.

mod advice;
mod command;
mod executed;
mod live;
mod named;
mod options;
mod sandbox;
mod session;

pub(super) use executed::ExecutedIntent;
pub(super) use live::LiveCaller;
pub(super) use options::ExecutionOptions;

use super::stops::Stops;
use agentd_engine::{EngineError, Execution, Operation};

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
