//! `agentd call`: uses a capability.

mod intent;
mod place;
mod text;

pub(super) use place::{engine, registry, words};

use super::{
    args::CallArgs,
    execution::{ExecutedIntent, ExecutionOptions, LiveCaller, execute},
    failure::{CANNOT, Failure},
    output_file::{INTENT, OutputFile, OutputKind},
    request, run,
    stops::{StopSource, Stops},
    stream,
    telemetry::{self, Telemetry},
    writer,
};
use agentd_core::{Captured, EndReason, Outcome, Usage, escape};
use agentd_engine::{CapabilityRegistry, EndedIntent, Execution, HeldIntent, Operation, Submitted, WorkspaceAccess};
use agentd_log::measure::Stage;
use agentd_server::SandboxReach;
use agentd_telemetry::{IntentTrace, record_end};
use serde_json::Value;
use std::{io::Write as _, path::Path};
use tracing::Instrument as _;

/// Exit code: the intent was refused (`EX_NOPERM` of `sysexits.h`).
const REFUSED: u8 = 77;

/// Submits an intent, executes it if it is admitted, and prints its result. Returns the exit code.
pub(crate) async fn call(args: CallArgs, telemetry: Option<Telemetry>) -> Result<u8, Failure> {
    // Opened first: a capability that writes into these directories cannot exchange them.
    let open = |kind, path: &Path| OutputFile::at(kind, path, request::followed(false));
    let receipt = args.receipt.as_deref().map(|path| open(OutputKind::Receipt, path)).transpose()?;
    let metrics = args.metrics.as_deref().map(|path| open(OutputKind::Metrics, path)).transpose()?;
    let trace = telemetry::trace_of(&args);
    let called = submit(&args, receipt, &trace).instrument(trace.span()).await;
    if let Some(telemetry) = telemetry {
        telemetry.finish(metrics).await;
    }
    called
}

async fn submit(args: &CallArgs, receipt: Option<OutputFile>, trace: &IntentTrace) -> Result<u8, Failure> {
    let intent = intent::of(args)?;
    let engine = place::engine().await?;
    refuse_unused_workspace(args, engine.capabilities())?;
    let mut stops = Stops::new()?;
    let submitted = tokio::select! {
        biased;
        // An intent that was recorded before the signal is not executed. The next call ends it as interrupted.
        signal = stops.next() => return Ok(run::stopped_by(signal)),
        submitted = engine.submit(intent) => submitted?,
    };
    let called = match submitted {
        Submitted::Ended(ended) => Called::unexecuted(ended),
        Submitted::Execute(execution) => execute_here(*execution, args).await?,
        Submitted::Hold(held) => match approved(*held, &mut stops).await? {
            Ok(execution) => execute_here(execution, args).await?,
            Err(ended) => Called::unexecuted(ended),
        },
    };
    record_end(&called.ended.object);
    // The result is printed whether its receipt can be written or not, and the receipt is written if nobody reads the result.
    let printed = print(&called, args.json.then_some(trace));
    if let Some(file) = receipt {
        write_receipt(&file, &called.ended)?;
    }
    printed
}

/// Refuses options about a workspace if the capability has none: they would have no effect.
fn refuse_unused_workspace(args: &CallArgs, capabilities: &CapabilityRegistry) -> Result<(), Failure> {
    let named = args.less.workspace.as_deref().is_some_and(|path| path != Path::new("none"));
    // Admission refuses a capability that does not exist.
    let has_none = capabilities.find(&args.capability).is_ok_and(|found| found.bounds.workspace == WorkspaceAccess::None);
    if has_none && (named || args.less.workspace_ro) {
        let text = format!(
            "workspace: the capability {} works in no directory of the host — leave out --workspace and --workspace-ro",
            args.capability
        );
        return Err(text.into());
    }
    Ok(())
}

/// The end of a call.
struct Called {
    ended: EndedIntent,
    /// True if the output was printed while it was written.
    was_live: bool,
    /// The first signal that asked agentd to stop the execution.
    stopped: Option<i32>,
}

impl Called {
    fn unexecuted(ended: EndedIntent) -> Self {
        Self { ended, was_live: false, stopped: None }
    }
}

/// Executes an intent.
async fn execute_here(execution: Execution<'_>, args: &CallArgs) -> Result<Called, Failure> {
    if matches!(&execution.valid().operation, Operation::Command(line) if line.stream_stdin && args.params == "-") {
        let text = "stdin_stream: standard input has the parameters — write the parameters into a file, and name it by @FILE";
        return Ok(Called::unexecuted(execution.fail(text).await?));
    }
    let options = ExecutionOptions {
        backend: args.backend.as_deref().filter(|name| !["auto", ""].contains(name)),
        secrets: &args.less.secret,
        caller: LiveCaller::CommandLine { json: args.json },
        input: None,
        stops: StopSource::Signals,
        reach: SandboxReach::All,
    };
    let ExecutedIntent { ended, was_live, notices, stopped } = execute(execution, options).await?;
    notices.iter().for_each(|line| writer::message(format_args!("{line}")));
    Ok(Called { ended, was_live, stopped })
}

/// Waits for the approval of an intent. A signal ends the wait and the intent.
async fn approved<'e>(held: HeldIntent<'e>, stops: &mut Stops) -> Result<Result<Execution<'e>, EndedIntent>, Failure> {
    writer::message(format_args!(
        "intent {} waits for an approval until {} — approve it with `agentd approve {0}`",
        held.id(),
        held.expires()
    ));
    let state = tokio::select! {
        biased;
        _ = stops.next() => return Ok(Err(held.cancel().await?)),
        state = held.decided().instrument(Stage::Queue.span()) => state?,
    };
    Ok(held.resolve(&state).await?)
}

fn write_receipt(file: &OutputFile, ended: &EndedIntent) -> Result<(), Failure> {
    if let Some(document) = &ended.document {
        file.write(INTENT, document)?;
    }
    match &ended.receipt {
        Some(receipt) => file.write("", receipt),
        None => Err(
            "receipt: agentd was killed before it signed one, or the receipt was too long to be kept — see `agentd audit tail`"
                .into(),
        ),
    }
}

/// Prints the result of an intent, as JSON with the span of the call, or in words without the output that was printed before.
/// Returns the exit code.
fn print(called: &Called, json: Option<&IntentTrace>) -> Result<u8, Failure> {
    let Called { ended, was_live, stopped } = called;
    let object = &ended.object;
    let stopped = stopped.filter(|_| is_stopped(object));
    let code = stopped.map_or_else(|| code(object), run::stopped_by);
    if let Some(trace) = json {
        let mut object = object.clone();
        telemetry::add_trace(&mut object, trace);
        object["receipt"] = ended.receipt.as_deref().and_then(|receipt| serde_json::from_str(receipt).ok()).unwrap_or_default();
        writeln!(std::io::stdout(), "{}", escape::json(&format!("{object:#}")))?;
        return Ok(code);
    }
    if object["duplicate"] == true {
        writer::message(format_args!("this is the outcome of the intent {}, which has the same key", text(&object["intent"])));
    }
    text::print(&object["result"], *was_live)?;
    if let Some(digest) = object["result_sha256"].as_str() {
        writer::message(format_args!("the result was too long to be kept for duplicates: sha256 {digest}"));
    }
    if let Some(message) = object["error"]["message"].as_str() {
        writer::message(format_args!("{}: {message}", text(&object["capability"])));
    }
    match (end_reason(object).and_then(stream::end_message), stopped) {
        (Some(message), _) => writer::message(format_args!("{message}")),
        (None, Some(signal)) if object["error"].is_null() => {
            writer::message(format_args!("command stopped: agentd received signal {signal}"));
        }
        _ => {}
    }
    Ok(code)
}

/// Returns true if the end of an intent is that of a call which a signal has stopped.
fn is_stopped(object: &Value) -> bool {
    object["status"] == "failed" || end_reason(object) == Some(EndReason::Cancelled)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

fn end_reason(object: &Value) -> Option<EndReason> {
    serde_json::from_value(object["reason"].clone()).ok()
}

/// Returns the exit code for the object of an intent.
fn code(object: &Value) -> u8 {
    let number = |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok());
    match (object["status"].as_str(), end_reason(object)) {
        (Some("refused"), _) => REFUSED,
        (Some("finished"), Some(reason)) => {
            let outcome = Outcome {
                reason,
                exit_code: number(&object["exit_code"]),
                signal: number(&object["signal"]),
                usage: Usage::default(),
                stdout: Captured::default(),
                stderr: Captured::default(),
            };
            match outcome.shell_code() {
                0 if !object["error"].is_null() => 1,
                code => code,
            }
        }
        (Some("finished"), None) => match object["error"]["code"].as_str() {
            Some("not-executed") if object["error"]["errno"] == libc::ENOENT => 127,
            Some("not-executed") => 126,
            _ => 1,
        },
        _ => CANNOT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn exit_code_is_that_of_the_command_and_tells_refusals_from_failures() {
        for (object, expected) in [
            (json!({ "status": "finished", "reason": "exited", "exit_code": 0 }), 0),
            (json!({ "status": "finished", "reason": "exited", "exit_code": 3 }), 3),
            (json!({ "status": "finished", "reason": "exited", "exit_code": 0, "error": {} }), 1),
            (json!({ "status": "finished", "reason": "signalled", "signal": 9 }), 137),
            (json!({ "status": "finished", "reason": "wall-deadline", "signal": 9 }), 124),
            (json!({ "status": "finished", "reason": "not-executed", "error": { "code": "not-executed", "errno": 2 } }), 127),
            (json!({ "status": "finished", "reason": "not-executed", "error": { "code": "not-executed", "errno": 13 } }), 126),
            (json!({ "status": "finished", "reason": "not-found", "exit_code": 1, "error": { "code": "not-found" } }), 1),
            (json!({ "status": "refused", "reason": "denied" }), 77),
            (json!({ "status": "interrupted", "reason": "interrupted" }), 125),
            (json!({ "status": "failed", "reason": "failed" }), 125),
        ] {
            assert_eq!(code(&object), expected, "{object}");
        }
    }
}
