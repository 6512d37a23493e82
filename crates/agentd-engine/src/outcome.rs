//! Translates the result of an execution into the result that the caller gets.

use crate::{
    capability::{Capability, CommandLine, OutputForm, Run},
    error::EngineError,
    valid_intent::Operation,
};
use agentd_core::{Captured, IsolationError, Outcome, Usage};
use agentd_records::{
    ContentDigest, Label, json,
    receipt::{RecordedOutcome, Subject, recorded_outcome, recorded_usage, recorded_wall},
};
use agentd_tool::call::{CallError, CallOutput};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// The number of characters of a program's standard error that its error contains.
const MAX_STDERR: usize = 4096;

/// The result that an execution returned.
#[derive(Debug)]
pub enum RunResult {
    /// A command was executed, or could not be executed. The digests are those of its whole standard output and standard error.
    Command(Result<Outcome, IsolationError>, [ContentDigest; 2]),
    /// An operation of agentd's own program.
    Tool(Result<CallOutput, CallError>),
    /// A cell was executed in a session.
    Cell(Box<CellResult>),
    /// An operation on named sandboxes.
    Sandbox(Result<Value, SandboxFailure>),
}

/// The reason why an operation on a named sandbox failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFailure {
    /// The code of the error.
    pub code: &'static str,
    /// What failed, and what to do.
    pub message: String,
}

/// The result of a cell.
#[derive(Debug)]
pub struct CellResult {
    /// How the cell ended, and the kept parts of its output.
    pub outcome: Outcome,
    /// The digests of its whole standard output, of its whole standard error, and of all its reports.
    pub digests: [ContentDigest; 3],
    /// The members of the result that describe the session: text from the sandbox, within limits.
    pub session: Map<String, Value>,
    /// The reason why the state of the session is lost, if it is.
    pub lost: Option<String>,
}

/// The result of an execution.
#[derive(Debug)]
pub(crate) struct ExecutionResult {
    pub result: Option<Value>,
    pub error: Option<Value>,
    pub outcome: RecordedOutcome,
    /// The usage, as far as it is known.
    pub usage: BTreeMap<Label, u64>,
    /// The processor time to charge; `None` if it is unknown, because something was started and returned no usage.
    pub cpu: Option<Duration>,
    pub subjects: Vec<Subject>,
}

impl ExecutionResult {
    /// Returns the result. Everything from the sandbox is compared with the schema of the result.
    pub fn new(ran: &RunResult, operation: &Operation, capability: &Capability) -> Result<Self, EngineError> {
        match (ran, operation) {
            (RunResult::Command(ran, digests), operation) => {
                let terminal = matches!(operation, Operation::Command(CommandLine { pty: Some(_), .. }));
                command(ran.as_ref(), *digests, terminal, capability)
            }
            (RunResult::Cell(cell), _) => cell_result(cell),
            (RunResult::Tool(ran), Operation::Tool(call)) => {
                let usage = match ran {
                    Ok(output) => Some(output.usage),
                    Err(CallError::Tool(_, usage)) => Some(*usage),
                    Err(_) => None,
                };
                let result = match ran {
                    Ok(output) => call
                        .result(output.response.clone(), output.content.clone())
                        .map_err(|error| failure("invalid-result", &error.to_string())),
                    Err(error) => Err(tool_failure(error)),
                };
                let result = result.and_then(|result| checked(result, capability));
                finished(result, usage, cpu(usage.as_ref(), false))
            }
            (RunResult::Sandbox(ran), _) => {
                let result = ran.clone().map_err(|error| failure(error.code, &error.message));
                let result = result.and_then(|result| checked(result, capability));
                finished(result, None, Some(Duration::ZERO))
            }
            (RunResult::Tool(_), Operation::Command(_) | Operation::Cell(_) | Operation::Sandbox(_)) => {
                finished(Err(failure("failed", "the operation is a command")), None, None)
            }
        }
    }
}

fn failure(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

/// Returns the error of an operation on files. Its texts come from the sandbox.
fn tool_failure(error: &CallError) -> Value {
    match error {
        CallError::Tool(tool, _) => {
            let code = serde_json::to_value(tool.code).ok();
            let code = code.as_ref().and_then(Value::as_str).unwrap_or("failed").replace('_', "-");
            json!({ "code": code, "message": tool.message, "path": tool.path, "errno": tool.errno })
        }
        CallError::Ended { reason, .. } => failure(&agentd_records::receipt::end_reason(*reason), &error.to_string()),
        other => failure("failed", &other.to_string()),
    }
}

/// Returns the result if it matches its schema.
fn checked(result: Value, capability: &Capability) -> Result<Value, Value> {
    match capability.result.as_ref().map_or(Ok(()), |schema| schema.validate(&result)) {
        Ok(()) => Ok(result),
        Err(violations) => Err(failure("invalid-result", &format!("the result violates its schema: {violations}"))),
    }
}

/// Returns the processor time to charge.
fn cpu(usage: Option<&Usage>, is_unstarted: bool) -> Option<Duration> {
    let used = usage.map(|usage| usage.cpu_user.saturating_add(usage.cpu_system));
    used.or_else(|| is_unstarted.then_some(Duration::ZERO))
}

fn finished(result: Result<Value, Value>, usage: Option<Usage>, cpu: Option<Duration>) -> Result<ExecutionResult, EngineError> {
    let reason = result.as_ref().err().map_or("exited", |error| error["code"].as_str().unwrap_or("failed"));
    let outcome = RecordedOutcome { reason: reason.try_into()?, exit_code: Some(i32::from(result.is_err())), signal: None };
    let digested = json::canonical_of_any(result.as_ref().unwrap_or_else(|error| error))?;
    let subjects = vec![Subject::new("result", ContentDigest::of(digested.as_bytes()))];
    let (result, error) = match result {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    let usage = usage.map(recorded_usage).transpose()?.unwrap_or_default();
    Ok(ExecutionResult { result, error, outcome, usage, cpu, subjects })
}

fn cell_result(cell: &CellResult) -> Result<ExecutionResult, EngineError> {
    let CellResult { outcome, digests, session, lost } = cell;
    let mut result = session.clone();
    result.insert("exit_code".to_owned(), outcome.exit_code.into());
    result.insert("signal".to_owned(), outcome.signal.into());
    result.insert("stdout".to_owned(), stream(&outcome.stdout));
    result.insert("stderr".to_owned(), stream(&outcome.stderr));
    let names = ["stdout", "stderr", "reports"];
    Ok(ExecutionResult {
        result: Some(Value::Object(result)),
        error: lost.as_ref().map(|cause| failure("session-lost", cause)),
        outcome: recorded_outcome(Ok(outcome))?,
        usage: recorded_wall(outcome.usage.wall)?,
        // The kernel counts the processor time of a process when it ends, and a session continues after a cell.
        cpu: None,
        subjects: names.iter().zip(digests).map(|(name, digest)| Subject::new(name, *digest)).collect(),
    })
}

fn command(
    ran: Result<&Outcome, &IsolationError>,
    digests: [ContentDigest; 2],
    terminal: bool,
    capability: &Capability,
) -> Result<ExecutionResult, EngineError> {
    let outcome = recorded_outcome(ran)?;
    // A terminal has one stream.
    let names: &[&str] = if terminal { &["terminal"] } else { &["stdout", "stderr"] };
    let subjects = names.iter().zip(digests).map(|(name, digest)| Subject::new(name, digest)).collect();
    let usage = ran.map_or(Ok(BTreeMap::new()), |outcome| recorded_usage(outcome.usage))?;
    let form = match &capability.run {
        Run::Command(template) => template.output,
        Run::Tool(_) | Run::Sandbox(_) => OutputForm::Streams,
    };
    let (result, error) = match (ran, form) {
        (Err(error), _) => {
            let mut object = failure(&String::from(outcome.reason.clone()), &error.to_string());
            if let IsolationError::Spawn { errno, .. } = error {
                object["errno"] = (*errno).into();
            }
            (None, Some(object))
        }
        (Ok(ended), OutputForm::Json) if ended.exit_code == Some(0) => match json_output(&ended.stdout, capability) {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        },
        (Ok(ended), OutputForm::Json) => {
            let stderr = ended.stderr.to_bytes();
            let shown: String = String::from_utf8_lossy(&stderr).chars().take(MAX_STDERR).collect();
            let message = format!("the program failed: {shown}");
            (None, Some(failure("program-failed", &message)))
        }
        (Ok(ended), OutputForm::Streams) if terminal => {
            let result = json!({
                "exit_code": ended.exit_code,
                "signal": ended.signal,
                "terminal": stream(&ended.stdout),
            });
            (Some(result), None)
        }
        (Ok(ended), OutputForm::Streams) => {
            let result = json!({
                "exit_code": ended.exit_code,
                "signal": ended.signal,
                "stdout": stream(&ended.stdout),
                "stderr": stream(&ended.stderr),
            });
            (Some(result), None)
        }
    };
    let cpu = cpu(ran.ok().map(|outcome| &outcome.usage), matches!(ran, Err(IsolationError::Spawn { .. })));
    Ok(ExecutionResult { result, error, outcome, usage, cpu, subjects })
}

fn json_output(output: &Captured, capability: &Capability) -> Result<Value, Value> {
    if output.omitted > 0 {
        return Err(failure("invalid-result", "the result is longer than the output that agentd keeps — return less"));
    }
    match json::parse(&output.to_bytes()) {
        Ok(result) => checked(result, capability),
        Err(error) => {
            Err(failure("invalid-result", &format!("the output is not JSON: {error} — correct the program of the manifest")))
        }
    }
}

fn stream(captured: &Captured) -> Value {
    let bytes = captured.to_bytes();
    json!({
        "text": String::from_utf8_lossy(&bytes),
        "utf8": std::str::from_utf8(&bytes).is_ok(),
        "bytes": captured.total(),
        "omitted": captured.omitted,
    })
}
