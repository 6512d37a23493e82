//! Asks the user of a client to approve an intent: one field with two choices.

use crate::caller::Caller;
use agentd_core::escape;
use rmcp::{
    RoleServer,
    model::{
        ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema, EnumSchema, InputRequest,
        InputRequests, InputResponses, ProtocolVersion,
    },
    service::RequestContext,
};
use serde_json::Value;

/// The name of the request for an approval, and of its only field.
const REQUEST: &str = "approval";
const FIELD: &str = "decision";
const APPROVE: &str = "approve";
const DENY: &str = "deny";

/// The longest text that a user reads, in bytes.
const MAX_TEXT: usize = 8 << 10;

/// How a call gets its approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApprovalWay {
    /// The server asks the client while the call waits: revisions with `initialize`, on standard input and output.
    Ask,
    /// The result asks the client, which repeats the call: revision 2026-07-28.
    InputRequired,
    /// The user approves with `agentd approve`.
    Handle,
}

/// Returns how a call gets its approval. Only the client of the user who runs agentd may answer for that user: any other caller
/// would approve its own request.
pub(super) fn way(context: &RequestContext<RoleServer>, caller: &Caller, is_connected: bool) -> ApprovalWay {
    let capabilities = context.client_capabilities();
    let elicitation = capabilities.as_ref().and_then(|capabilities| capabilities.elicitation.as_ref());
    // A client that states no mode has forms.
    let has_forms = elicitation.is_some_and(|modes| modes.form.is_some() || modes.url.is_none());
    let is_modern = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
    match (caller.is_operator && has_forms, is_modern) {
        (true, true) => ApprovalWay::InputRequired,
        (true, false) if is_connected => ApprovalWay::Ask,
        _ => ApprovalWay::Handle,
    }
}

/// Returns the question for an intent. `text` describes the intent, and contains text of the caller.
pub(super) fn question(text: &str) -> Result<ElicitRequestParams, &'static str> {
    let lines: Vec<String> = text.lines().map(|line| escape::text(line).to_string()).collect();
    let mut message = lines.join("\n");
    if message.len() > MAX_TEXT {
        message.truncate(message.floor_char_boundary(MAX_TEXT));
        message.push_str("\n[…] The text is longer: `agentd approvals show` prints all of it.");
    }
    let choices = EnumSchema::builder(vec![DENY.to_owned(), APPROVE.to_owned()])
        .enum_titles(vec!["Deny".to_owned(), "Approve".to_owned()])
        .map_err(|_| "two titles for two values")?
        .build();
    let requested_schema = ElicitationSchema::builder().required_enum_schema(FIELD, choices).build()?;
    Ok(ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema })
}

/// Returns the question as the inputs that a result requires.
pub(super) fn input_requests(question: ElicitRequestParams) -> InputRequests {
    InputRequests::from([(REQUEST.to_owned(), InputRequest::Elicitation(ElicitRequest::new(question)))])
}

/// Returns the decision of a user; `None` if the user has not decided.
pub(super) fn decision(answer: &ElicitResult) -> Option<bool> {
    match answer.action {
        ElicitationAction::Accept => match answer.content.as_ref()?.get(FIELD).and_then(Value::as_str)? {
            APPROVE => Some(true),
            DENY => Some(false),
            _ => None,
        },
        ElicitationAction::Decline => Some(false),
        _ => None,
    }
}

/// Returns the decision in the inputs of a repeated call.
pub(super) fn decision_in(responses: Option<&InputResponses>) -> Option<bool> {
    let answer = responses?.get(REQUEST)?;
    decision(&serde_json::from_value(answer.clone()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(value: Value) -> Option<bool> {
        decision(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn only_an_explicit_answer_is_a_decision() {
        assert_eq!(answer(json!({ "action": "accept", "content": { "decision": "approve" } })), Some(true));
        assert_eq!(answer(json!({ "action": "accept", "content": { "decision": "deny" } })), Some(false));
        assert_eq!(answer(json!({ "action": "decline" })), Some(false));
        for undecided in [
            json!({ "action": "cancel" }),
            json!({ "action": "accept" }),
            json!({ "action": "accept", "content": {} }),
            json!({ "action": "accept", "content": { "decision": true } }),
            json!({ "action": "accept", "content": { "decision": "Approve" } }),
            json!({ "action": "decline?" }),
        ] {
            let read = serde_json::from_value::<ElicitResult>(undecided.clone());
            assert_eq!(read.ok().and_then(|answer| decision(&answer)), None, "{undecided}");
        }
    }

    #[test]
    fn question_has_one_field_and_no_escape_sequence() {
        let question = serde_json::to_value(question("a\x1b[2J\nb").unwrap()).unwrap();
        assert_eq!(question["message"], "a\\x1b[2J\nb");
        assert_eq!(question["requestedSchema"]["properties"].as_object().unwrap().len(), 1);
        assert_eq!(question["requestedSchema"]["required"], json!(["decision"]));
    }

    #[test]
    fn long_question_is_cut_with_a_mark() {
        let question = serde_json::to_value(question(&"é\n".repeat(10_000)).unwrap()).unwrap();
        let message = question["message"].as_str().unwrap();
        assert!(message.len() < MAX_TEXT + 100 && message.contains("agentd approvals"));
    }
}
