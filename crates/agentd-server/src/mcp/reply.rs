//! Turns the end of an intent into the result of a tool: structured content, and the same as text.

use super::shape::{Cut, Shaped, shape};
use crate::service::ServedIntent;
use agentd_engine::Capability;
use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};

/// The most messages about a run in one result.
const MAX_NOTICES: usize = 20;

/// What a model should do about a refusal or a failure, by its code.
const ADVICE: [(&str, &str); 20] = [
    (
        "denied",
        "A policy of this machine forbids this. Do not try to reach the same in another way. Tell the user, who can change the policy: `agentd policy explain` states what would have to change.",
    ),
    ("outside-scope", "The API key of this client does not permit this tool. Use another tool, or tell the user."),
    ("exceeds-policy", "Ask for less: leave out `_network` and other options, or tell the user which permission is missing."),
    ("invalid-parameters", "Correct the arguments as `error` states, and call the tool again."),
    ("invalid-network", "Correct the hosts in `_network` as `error` states, and call the tool again."),
    ("unknown-capability", "List the tools again: this one does not exist any more."),
    ("quota-exceeded", "Wait as long as `error` states, and call the tool again."),
    ("not-approved", "The user has refused. Do not repeat the call: ask the user what to do instead."),
    ("approval-expired", "Nobody approved the call in time. Ask the user, and call the tool again when the user is ready."),
    (
        "wall-deadline",
        "The command was killed at its time limit. Call the tool again with a larger `timeout_ms`, or do less at a time.",
    ),
    ("out-of-memory", "The command was killed at its memory limit. Use less memory."),
    ("output-limit", "The command was killed because it wrote too much. Redirect its output to a file, or filter it."),
    ("process-limit", "The command reached the limit of processes. Start fewer at a time."),
    ("interrupted", "It is unknown how much was executed. Look at the state before you repeat the call."),
    ("unknown-sandbox", "List the sandboxes with `sandbox_list_v1`, or create one with `sandbox_create_v1`."),
    ("sandbox-exists", "Use this sandbox, or choose another name."),
    ("too-many-sandboxes", "Terminate a sandbox that is not needed any more with `sandbox_terminate_v1`."),
    ("unknown-snapshot", "`sandbox_get_v1` lists the snapshots."),
    (
        "sandbox-lost",
        "The processes of the sandbox were lost, and its files were kept. Look at the files, and call the tool again.",
    ),
    ("cancelled", "The call was cancelled. Its processes were killed; files that it had changed remain changed."),
];

/// Returns the result for a call that has ended. `keep` stores the whole of a text that is cut.
pub(super) fn ended(
    served: &Result<ServedIntent, String>,
    capability: Option<&Capability>,
    keep: &mut dyn FnMut(String) -> Option<String>,
) -> CallToolResult {
    let served = match served {
        Ok(served) => served,
        Err(message) => return failed("failed", message),
    };
    let object = &served.ended.object;
    let Shaped { value, cuts } = shaped(&object["result"], capability, keep);
    let cuts: Vec<Value> = cuts.iter().map(cut).collect();
    let is_error = is_error(object);
    let code = object["error"]["code"].as_str().or(object["reason"].as_str()).unwrap_or_default();
    let structured = json!({
        "status": object["status"],
        "reason": object["reason"],
        "intent": object["intent"],
        "result": value,
        "error": object["error"],
        "advice": if is_error { advice(code) } else { None },
        "notices": served.notices.iter().take(MAX_NOTICES).collect::<Vec<_>>(),
        "cut": cuts,
        "handle": null,
    });
    result(structured, is_error)
}

/// Returns the result for a call that a user must approve first.
pub(super) fn waiting(intent: &str, expires: &str, handle: &str) -> CallToolResult {
    let advice = format!(
        "A user must approve this call until {expires}. Ask the user to run `agentd approve {intent}` (or `agentd deny {intent}`) \
         in a terminal, then call `call_wait` with the handle {handle:?}. Do not make the same call again."
    );
    let structured = json!({
        "status": "waiting",
        "reason": "needs-approval",
        "intent": intent,
        "result": null,
        "error": null,
        "advice": advice,
        "notices": [],
        "cut": [],
        "handle": handle,
    });
    result(structured, false)
}

/// Returns the result for a call that agentd could not submit. The message states what to do.
pub(super) fn failed(reason: &str, message: &str) -> CallToolResult {
    let structured = json!({
        "status": "failed",
        "reason": reason,
        "intent": null,
        "result": null,
        "error": { "code": reason, "message": message },
        "advice": advice(reason),
        "notices": [],
        "cut": [],
        "handle": null,
    });
    result(structured, true)
}

/// Returns a result with structured content, and the same as a text.
pub(super) fn result(structured: Value, is_error: bool) -> CallToolResult {
    let text = vec![ContentBlock::text(structured.to_string())];
    let mut result = if is_error { CallToolResult::error(text) } else { CallToolResult::success(text) };
    result.structured_content = Some(structured);
    result
}

/// Returns the result within the budget of a model. Cutting may make it violate its schema; then it is left out as a whole.
fn shaped(value: &Value, capability: Option<&Capability>, keep: &mut dyn FnMut(String) -> Option<String>) -> Shaped {
    let shaped = shape(value, keep);
    let schema = capability.and_then(|capability| capability.result.as_ref());
    if shaped.cuts.is_empty() || shaped.value.is_null() || schema.is_none_or(|schema| schema.validate(&shaped.value).is_ok()) {
        return shaped;
    }
    let whole = format!("{value:#}");
    let (bytes, handle) = (whole.len(), keep(whole));
    Shaped { value: Value::Null, cuts: vec![Cut { pointer: String::new(), bytes, cursor: 0, handle }] }
}

fn cut(cut: &Cut) -> Value {
    let Cut { pointer, bytes, cursor, handle } = cut;
    json!({ "path": format!("/result{pointer}"), "bytes": bytes, "cursor": cursor, "handle": handle })
}

/// Returns true if the operation did not succeed. A command with an exit code other than 0 has failed.
fn is_error(object: &Value) -> bool {
    let code = object["exit_code"].as_i64();
    object["status"] != "finished"
        || !object["error"].is_null()
        || object["reason"] != "exited"
        || code.is_some_and(|code| code != 0)
}

fn advice(code: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(known, _)| *known == code).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_engine::{CapabilityRegistry, EndedIntent};

    fn served(object: Value) -> Result<ServedIntent, String> {
        Ok(ServedIntent { ended: EndedIntent { object, receipt: None, document: None }, notices: vec!["a notice".to_owned()] })
    }

    fn of(object: Value) -> (Value, bool) {
        let result = ended(&served(object), None, &mut |_| Some("h".to_owned()));
        let structured = result.structured_content.clone().unwrap();
        let serialized = serde_json::to_value(&result).unwrap();
        let text = serialized["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), structured, "the text is the structured content");
        (structured, result.is_error == Some(true))
    }

    fn finished(exit_code: i32) -> Value {
        json!({
            "intent": "1", "status": "finished", "reason": "exited", "exit_code": exit_code, "error": null,
            "result": { "exit_code": exit_code, "stdout": { "text": "out", "bytes": 3 } },
        })
    }

    #[test]
    fn success_and_failure_of_a_command_differ() {
        let (content, is_error) = of(finished(0));
        assert!(!is_error && content["result"]["stdout"]["text"] == "out" && content["advice"].is_null());
        assert_eq!(content["notices"], json!(["a notice"]));
        assert!(of(finished(1)).1);
        assert!(of(json!({ "status": "finished", "reason": "wall-deadline", "result": {}, "error": null })).1);
    }

    #[test]
    fn refusal_tells_the_model_what_to_do() {
        let refused = |code: &str| json!({ "status": "refused", "reason": code, "result": null, "error": { "code": code, "message": "m" } });
        for (code, _) in ADVICE {
            let (content, is_error) = of(refused(code));
            assert!(is_error && content["advice"].as_str().is_some_and(|advice| advice.ends_with('.')), "{code}");
        }
    }

    #[test]
    fn cut_result_matches_its_schema_or_is_left_out() {
        let registry = CapabilityRegistry::built_in().unwrap();
        let read = registry.find("fs.read.v1").unwrap();
        let value = json!({ "size": 1, "offset": 0, "length": 1, "encoding": "text", "content": "x".repeat(100_000) });
        let shaped = shaped(&value, Some(read), &mut |_| Some("h".to_owned()));
        assert!(!shaped.cuts.is_empty());
        assert!(shaped.value.is_null() || read.result.as_ref().unwrap().validate(&shaped.value).is_ok());
    }

    #[test]
    fn waiting_call_names_the_command_of_the_approver() {
        let content = waiting("abcd", "2026-01-01T00:00:00Z", "h1").structured_content.unwrap();
        let advice = content["advice"].as_str().unwrap();
        assert!(advice.contains("`agentd approve abcd`") && advice.contains("\"h1\""), "{advice}");
    }
}
