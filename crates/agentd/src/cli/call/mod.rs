//! `agentd call`: uses a capability.

mod intent;
mod place;
mod sandbox;

pub(super) use place::{registry, words};

use super::{
    args::CallArgs,
    failure::{CANNOT, Failure},
    receipt_file::{INTENT, ReceiptFile},
    request, run,
    stops::Stops,
    stream, writer,
};
use agentd_core::{Captured, EndReason, Outcome, Usage, escape};
use agentd_engine::{EndedIntent, Execution, Held, Submitted};
use serde_json::Value;
use std::io::Write as _;

/// Exit code: the intent was refused (`EX_NOPERM` of `sysexits.h`).
const REFUSED: u8 = 77;

/// Submits an intent, executes it if it is admitted, and prints its result. Returns the exit code.
pub(crate) async fn call(args: CallArgs) -> Result<u8, Failure> {
    // Opened first: a capability that writes into this directory cannot exchange it.
    let receipt = args.receipt.as_deref().map(|path| ReceiptFile::at(path, request::followed(false))).transpose()?;
    let intent = intent::of(&args)?;
    let engine = place::engine().await?;
    let mut stops = Stops::new()?;
    let submitted = tokio::select! {
        biased;
        // An intent that was recorded before the signal is not executed. The next call ends it as interrupted.
        signal = stops.next() => return Ok(run::stopped_by(signal)),
        submitted = engine.submit(intent) => submitted?,
    };
    let backend = args.backend.as_deref().filter(|name| !["auto", ""].contains(name));
    let ended = match submitted {
        Submitted::Ended(ended) => ended,
        Submitted::Execute(execution) => sandbox::execute(*execution, backend, &mut stops).await?,
        Submitted::Hold(held) => match approved(*held, &mut stops).await? {
            Ok(execution) => sandbox::execute(execution, backend, &mut stops).await?,
            Err(ended) => ended,
        },
    };
    if let Some(file) = receipt {
        write_receipt(&file, &ended)?;
    }
    print(&ended, args.json)
}

/// Waits for the approval of an intent. A signal ends the wait and the intent.
async fn approved<'e>(held: Held<'e>, stops: &mut Stops) -> Result<Result<Execution<'e>, EndedIntent>, Failure> {
    writer::message(format_args!(
        "intent {} waits for an approval until {} — approve it with `agentd approve {0}`",
        held.id(),
        held.expires()
    ));
    let state = tokio::select! {
        biased;
        _ = stops.next() => return Ok(Err(held.cancel().await?)),
        state = held.decided() => state?,
    };
    Ok(held.resolve(&state).await?)
}

fn write_receipt(file: &ReceiptFile, ended: &EndedIntent) -> Result<(), Failure> {
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

/// Prints the result of an intent. Returns the exit code.
fn print(ended: &EndedIntent, json: bool) -> Result<u8, Failure> {
    let object = &ended.object;
    if json {
        let mut object = object.clone();
        object["receipt"] = ended.receipt.as_deref().and_then(|receipt| serde_json::from_str(receipt).ok()).unwrap_or_default();
        writeln!(std::io::stdout(), "{}", escape::json(&format!("{object:#}")))?;
        return Ok(code(&ended.object));
    }
    if object["duplicate"] == true {
        writer::message(format_args!("this is the outcome of the intent {}, which has the same key", text(&object["intent"])));
    }
    let streams = ["stdout", "stderr"].map(|stream| object["result"][stream]["text"].as_str());
    match (&object["result"], streams) {
        (Value::Null, _) => {}
        (_, [Some(out), Some(error)]) => {
            std::io::stdout().write_all(out.as_bytes())?;
            std::io::stderr().write_all(error.as_bytes())?;
        }
        (result, _) => writeln!(std::io::stdout(), "{}", escape::json(&format!("{result:#}")))?,
    }
    if let Some(digest) = object["result_sha256"].as_str() {
        writer::message(format_args!("the result was too long to be kept for duplicates: sha256 {digest}"));
    }
    if let Some(message) = object["error"]["message"].as_str() {
        writer::message(format_args!("{}: {message}", text(&object["capability"])));
    }
    if let Some(message) = end_reason(object).and_then(stream::end_message) {
        writer::message(format_args!("{message}"));
    }
    Ok(code(object))
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
