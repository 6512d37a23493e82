//! The end of an intent as a message.

use crate::service::ServedIntent;
use agentd_proto::v1;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Returns the outcome of an intent.
pub(super) fn outcome(served: ServedIntent) -> v1::Outcome {
    let ServedIntent { ended, notices } = served;
    let object = &ended.object;
    let integer = |name: &str| object[name].as_i64().and_then(|number| i32::try_from(number).ok());
    v1::Outcome {
        intent: text(&object["intent"]),
        intent_sha256: text(&object["digest"]),
        capability: text(&object["capability"]),
        status: status(&object["status"]).into(),
        duplicate: object["duplicate"].as_bool().unwrap_or_default(),
        reason: text(&object["reason"]),
        exit_code: integer("exit_code"),
        signal: integer("signal"),
        result_json: json_text(&object["result"]),
        result_sha256: optional_text(&object["result_sha256"]),
        error: object["error"].as_object().map(error),
        decision: object["decision"].as_object().map(decision),
        sandbox: object["sandbox"].as_object().map(sandbox),
        receipt: ended.receipt,
        intent_document: ended.document,
        notices,
    }
}

fn status(word: &Value) -> v1::IntentStatus {
    match word.as_str() {
        Some("finished") => v1::IntentStatus::Finished,
        Some("failed") => v1::IntentStatus::Failed,
        Some("refused") => v1::IntentStatus::Refused,
        Some("interrupted") => v1::IntentStatus::Interrupted,
        _ => v1::IntentStatus::Unspecified,
    }
}

fn error(error: &Map<String, Value>) -> v1::OutcomeError {
    let member = |name: &str| error.get(name).unwrap_or(&Value::Null);
    let violation =
        |violation: &Value| v1::Violation { pointer: text(&violation["pointer"]), message: text(&violation["message"]) };
    v1::OutcomeError {
        code: text(member("code")),
        message: text(member("message")),
        violations: member("violations").as_array().into_iter().flatten().map(violation).collect(),
        retry_after_ms: member("retry_after_ms").as_u64(),
        path: optional_text(member("path")),
        errno: member("errno").as_i64().and_then(|number| i32::try_from(number).ok()),
    }
}

fn decision(decision: &Map<String, Value>) -> v1::Decision {
    let member = |name: &str| decision.get(name).unwrap_or(&Value::Null);
    let obligations = member("obligations").as_object().into_iter().flatten();
    v1::Decision {
        allowed: member("allowed").as_bool().unwrap_or_default(),
        policies: member("policies").as_array().into_iter().flatten().map(text).collect(),
        policy_set: optional_text(member("policy_set")),
        obligations: obligations.map(|(name, value)| (name.clone(), text(value))).collect(),
        shadow_json: json_text(member("shadow")),
    }
}

fn sandbox(sandbox: &Map<String, Value>) -> v1::Sandbox {
    let member = |name: &str| sandbox.get(name).unwrap_or(&Value::Null);
    let profile = match member("profile").as_str() {
        Some("strict") => v1::Profile::Strict,
        Some("default") => v1::Profile::Default,
        Some("permissive") => v1::Profile::Permissive,
        _ => v1::Profile::Unspecified,
    };
    v1::Sandbox {
        backend: text(member("backend")),
        profile: profile.into(),
        limits: numbers(member("limits")),
        usage: numbers(member("usage")),
    }
}

fn numbers(value: &Value) -> HashMap<String, u64> {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(name, number)| Some((name.clone(), number.as_u64()?))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn optional_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn json_text(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| value.to_string())
}
