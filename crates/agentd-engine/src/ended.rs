//! Intents that have ended, as the caller sees them.

use crate::{
    error::EngineError,
    intent_records::{RecordedDecision, RecordedIntent},
};
use agentd_log::measure::CountedFact;
use agentd_records::{
    ContentDigest, Label,
    json::{self, JsonError},
};
use agentd_state::{IntentId, MAX_OUTCOME};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// An intent that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedIntent {
    /// The JSON object (`docs/json.md`). It contains text from the sandbox.
    pub object: Value,
    /// The receipt; `None` for a duplicate if the store has none, because agentd was killed before the receipt was stored, or
    /// because the receipt was too long.
    pub receipt: Option<String>,
    /// The document that the receipt's digest `intent` identifies; `None` for a duplicate.
    pub document: Option<String>,
}

/// The members of the object that describe the end of an intent.
pub(crate) struct EndedMembers {
    pub status: &'static str,
    pub reason: String,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub result: Option<Value>,
    pub error: Option<Value>,
    pub sandbox: Option<Value>,
}

impl EndedIntent {
    pub(crate) fn new(recorded: &RecordedIntent, decision: Value, members: EndedMembers, receipt: String) -> Self {
        let EndedMembers { status, reason, exit_code, signal, result, error, sandbox } = members;
        CountedFact::Outcome { reason: &reason }.emit();
        let object = json!({
            "intent": String::from(recorded.id.clone()),
            "digest": recorded.digest,
            "capability": recorded.capability,
            "status": status,
            "duplicate": false,
            "reason": reason,
            "exit_code": exit_code,
            "signal": signal,
            "result": result,
            "result_sha256": null,
            "error": error,
            "decision": decision,
            "sandbox": sandbox,
        });
        Self { object, receipt: Some(receipt), document: Some(recorded.document.clone()) }
    }

    /// Returns an intent that was not executed.
    pub(crate) fn refused(recorded: &RecordedIntent, decision: Value, error: Value, receipt: String) -> Self {
        let reason = error["code"].as_str().unwrap_or("refused").to_owned();
        let members = EndedMembers {
            status: "refused",
            reason,
            exit_code: None,
            signal: None,
            result: None,
            error: Some(error),
            sandbox: None,
        };
        Self::new(recorded, decision, members, receipt)
    }

    /// Returns the intent as the store keeps it. A result that is too long is replaced by its digest. Nobody can ask again for
    /// the result of an intent without a key, so the store does not contain that result.
    ///
    /// # Errors
    /// None: the object has a JSON form.
    pub(crate) fn stored(&self, has_key: bool) -> Result<Vec<u8>, JsonError> {
        let mut kept = json!({ "object": self.object, "receipt": self.receipt });
        if !has_key {
            kept["object"]["result"] = Value::Null;
            kept["object"]["error"] = Value::Null;
        }
        let mut text = kept.to_string();
        // A result that is nested too deeply could not be read again.
        if text.len() > MAX_OUTCOME || json::parse::<Map<String, Value>>(text.as_bytes()).is_err() {
            let digest = ContentDigest::of(json::canonical_of_any(&self.object["result"])?.as_bytes());
            kept["object"]["result"] = Value::Null;
            kept["object"]["result_sha256"] = json!(digest);
            text = kept.to_string();
        }
        if text.len() > MAX_OUTCOME {
            // A receipt with many flows may be this long. The audit log has its digest.
            kept["receipt"] = Value::Null;
            text = kept.to_string();
        }
        if text.len() > MAX_OUTCOME {
            // Its text comes from the sandbox.
            let code = self.object["error"]["code"].clone();
            kept["object"]["error"] = json!({ "code": code, "message": "the message of the error was too long to be kept" });
            text = kept.to_string();
        }
        Ok(text.into_bytes())
    }

    /// Returns a duplicate of an intent that the store keeps.
    ///
    /// # Errors
    /// [`EngineError::Json`] if the stored outcome is damaged.
    pub(crate) fn replayed(id: IntentId, outcome: &[u8]) -> Result<Self, EngineError> {
        CountedFact::Outcome { reason: "duplicate" }.emit();
        let mut kept: Map<String, Value> = json::parse(outcome)?;
        let object = kept.remove("object").unwrap_or_default();
        let mut object: Map<String, Value> = serde_json::from_value(object).map_err(JsonError::from)?;
        object.insert("intent".to_owned(), id.to_string().into());
        object.insert("duplicate".to_owned(), true.into());
        let receipt = kept.get("receipt").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { object: Value::Object(object), receipt, document: None })
    }
}

/// Returns a decision as a JSON object. `shadow` is the decision of the shadow policies, if it differs.
pub(crate) fn decision_object(decision: &RecordedDecision, shadow: Option<Value>) -> Value {
    let RecordedDecision { allowed, policies, policy_set, obligations } = decision;
    let obligations: BTreeMap<String, &Label> = obligations.iter().map(|(name, value)| (name.clone().into(), value)).collect();
    json!({ "allowed": allowed, "policies": policies, "policy_set": policy_set, "obligations": obligations, "shadow": shadow })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_records::Timestamp;

    fn ended(result: Value, error: Value, receipt: String) -> EndedIntent {
        let recorded = RecordedIntent {
            id: "7".try_into().unwrap(),
            principal: "user:uid:7".try_into().unwrap(),
            source: "command-line".try_into().unwrap(),
            capability: "shell.exec.v1".try_into().unwrap(),
            digest: ContentDigest::of(b"intent"),
            document: String::new(),
            key: None,
            received: Timestamp::now(),
        };
        let members = EndedMembers {
            status: "finished",
            reason: "exited".to_owned(),
            exit_code: Some(0),
            signal: None,
            result: Some(result),
            error: Some(error),
            sandbox: None,
        };
        EndedIntent::new(&recorded, Value::Null, members, receipt)
    }

    /// Stores an intent, and reads it as a duplicate does.
    fn replayed(ended: &EndedIntent) -> EndedIntent {
        let stored = ended.stored(true).unwrap();
        assert!(stored.len() <= MAX_OUTCOME, "{} bytes", stored.len());
        EndedIntent::replayed("0123456789abcdef0123456789abcdef".parse().unwrap(), &stored).unwrap()
    }

    fn digest(result: &Value) -> Value {
        json!(ContentDigest::of(json::canonical_of_any(result).unwrap().as_bytes()))
    }

    #[test]
    fn result_that_is_nested_too_deeply_is_replaced_by_its_digest() {
        // Each level of the result is one more in the stored object. A parser of JSON limits the depth.
        let nested = (0..126).fold(json!("inside"), |inside, _| json!([inside]));
        let ended = ended(nested.clone(), Value::Null, "{}".to_owned());
        assert!(json::parse::<Value>(nested.to_string().as_bytes()).is_ok(), "the result alone can be read");
        let again = replayed(&ended);
        assert_eq!((&again.object["result"], &again.object["result_sha256"]), (&Value::Null, &digest(&nested)));
        assert_eq!(again.receipt.as_deref(), Some("{}"));
        let flat = json!({ "stdout": "text" });
        let again = replayed(&self::ended(flat.clone(), Value::Null, "{}".to_owned()));
        assert_eq!((&again.object["result"], &again.object["result_sha256"]), (&flat, &Value::Null));
    }

    #[test]
    fn long_result_receipt_and_error_are_left_out_in_this_order() {
        let long = "é".repeat(MAX_OUTCOME);
        let error = |message: &str| json!({ "code": "session-lost", "message": message });
        let again = replayed(&ended(json!(long), error("short"), "{}".to_owned()));
        assert_eq!((&again.object["result_sha256"], &again.object["error"]), (&digest(&json!(long)), &error("short")));
        assert_eq!(again.receipt.as_deref(), Some("{}"));
        let again = replayed(&ended(json!("short"), error("short"), long.clone()));
        assert_eq!((&again.object["error"], again.receipt), (&error("short"), None));
        let again = replayed(&ended(json!("short"), error(&long), "{}".to_owned()));
        assert_eq!(again.object["error"], error("the message of the error was too long to be kept"));
        assert_eq!((&again.object["status"], &again.object["exit_code"]), (&json!("finished"), &json!(0)));
    }
}
