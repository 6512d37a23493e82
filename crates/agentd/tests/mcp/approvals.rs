//! Approvals by the user of the client, in both ways of the protocol, and by `agentd approve`.

use crate::client::{Client, Era, User};
use serde_json::{Value, json};

const ASK: &str = r#"@id("ask") @approval("ask the owner") permit (principal, action, resource);"#;

const SCRIPT: &str = "touch done";

fn forms() -> Value {
    json!({ "elicitation": { "form": {} } })
}

fn params() -> Value {
    json!({ "name": "shell_exec_v1", "arguments": { "command": SCRIPT } })
}

fn is_question(request: &Value) {
    assert!(request["message"].as_str().unwrap().contains(SCRIPT), "the user sees what is approved: {request:#}");
    let fields = request["requestedSchema"]["properties"].as_object().unwrap();
    assert_eq!(fields.len(), 1);
    assert_eq!(fields["decision"]["type"], "string");
}

#[test]
fn old_client_is_asked_while_the_call_waits() {
    for (answer, runs) in [
        (json!({ "action": "accept", "content": { "decision": "approve" } }), true),
        (json!({ "action": "accept", "content": { "decision": "deny" } }), false),
        (json!({ "action": "decline" }), false),
    ] {
        let user = User::with_policies(ASK);
        let mut client = Client::with(&user, Era::Old("2025-06-18"), forms(), &[]);
        let id = client.begin("tools/call", params());
        let question = client.receive();
        assert_eq!(question["method"], "elicitation/create");
        is_question(&question["params"]);
        assert!(!user.path("work/done").exists());
        client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": answer }));
        let (answer, _) = client.answer(id);
        let status = if runs { "finished" } else { "refused" };
        assert_eq!(answer["result"]["structuredContent"]["status"], status, "{answer:#}");
        assert_eq!(user.path("work/done").exists(), runs);
        client.close();
        let log = user.good(&["audit", "tail", "--json", "-n", "4"]);
        assert!(log.contains("\"approval\""), "{log}");
    }
}

#[test]
fn new_client_repeats_the_call_with_the_answer() {
    for (decision, runs) in [("approve", true), ("deny", false)] {
        let user = User::with_policies(ASK);
        let mut client = Client::with(&user, Era::New, forms(), &[]);
        let first = client.request("tools/call", params());
        assert_eq!(first["resultType"], "input_required", "{first:#}");
        let (name, request) = first["inputRequests"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(request["method"], "elicitation/create");
        is_question(&request["params"]);
        let mut again = params();
        again["requestState"] = first["requestState"].clone();
        again["inputResponses"] = json!({ name: { "action": "accept", "content": { "decision": decision } } });
        let second = client.request("tools/call", again.clone());
        let status = if runs { "finished" } else { "refused" };
        assert_eq!(second["structuredContent"]["status"], status, "{second:#}");
        assert_eq!(user.path("work/done").exists(), runs);
        let third = client.request("tools/call", again);
        assert_eq!(third["isError"], true, "a state is used once: {third:#}");
    }
}

#[test]
fn answer_without_a_decision_approves_nothing() {
    for answer in [
        json!({ "action": "accept", "content": {} }),
        json!({ "action": "cancel" }),
        json!({ "action": "accept", "content": { "decision": true } }),
    ] {
        let user = User::with_policies(ASK);
        let mut client = Client::with(&user, Era::New, forms(), &[]);
        let first = client.request("tools/call", params());
        let mut again = params();
        again["requestState"] = first["requestState"].clone();
        again["inputResponses"] = json!({ "approval": answer });
        let second = client.request("tools/call", again);
        assert_eq!(second["structuredContent"]["status"], "waiting", "{second:#}");
        assert!(!user.path("work/done").exists());
    }
}

#[test]
fn client_without_forms_gets_a_handle_and_the_user_decides_elsewhere() {
    for era in [Era::Old("2025-11-25"), Era::New] {
        for (word, status) in [("approve", "finished"), ("deny", "refused")] {
            let user = User::with_policies(ASK);
            let mut client = Client::start(&user, era);
            let waiting = client.call("shell_exec_v1", json!({ "command": SCRIPT }));
            let content = &waiting["structuredContent"];
            assert_eq!((&content["status"], &waiting["isError"]), (&json!("waiting"), &json!(false)), "{waiting:#}");
            let intent = content["intent"].as_str().unwrap().to_owned();
            assert!(content["advice"].as_str().unwrap().contains(&format!("agentd approve {intent}")), "{content:#}");
            let handle = content["handle"].clone();
            let still = client.call("call_wait", json!({ "handle": handle, "timeout_ms": 10 }));
            assert_eq!(still["structuredContent"]["status"], "waiting", "{still:#}");
            assert!(!user.path("work/done").exists());
            user.good(&[word, &intent]);
            let ended = client.call("call_wait", json!({ "handle": handle }));
            assert_eq!(ended["structuredContent"]["status"], status, "{ended:#}");
            assert_eq!(user.path("work/done").exists(), word == "approve");
            let gone = client.call("call_wait", json!({ "handle": handle }));
            assert_eq!(gone["isError"], true);
        }
    }
}

#[test]
fn approval_elsewhere_ends_the_question_to_an_old_client() {
    let user = User::with_policies(ASK);
    let mut client = Client::with(&user, Era::Old("2025-11-25"), forms(), &[]);
    let id = client.begin("tools/call", params());
    assert_eq!(client.receive()["method"], "elicitation/create");
    user.good(&["approve", &user.pending()]);
    let (answer, _) = client.answer(id);
    assert_eq!(answer["result"]["structuredContent"]["status"], "finished", "{answer:#}");
}

#[test]
fn waiting_call_can_be_cancelled() {
    let user = User::with_policies(ASK);
    let mut client = Client::start(&user, Era::New);
    let waiting = client.call("shell_exec_v1", json!({ "command": SCRIPT }));
    let handle = waiting["structuredContent"]["handle"].clone();
    let cancelled = client.call("call_cancel", json!({ "handle": handle }));
    assert_eq!(cancelled["structuredContent"]["status"], "refused", "{cancelled:#}");
    assert_eq!(user.good(&["approvals", "--json"]), "[]\n");
    assert!(!user.path("work/done").exists());
}

#[test]
fn end_of_the_connection_ends_calls_that_wait() {
    let user = User::with_policies(ASK);
    let mut client = Client::start(&user, Era::New);
    client.call("shell_exec_v1", json!({ "command": SCRIPT }));
    assert_ne!(user.good(&["approvals", "--json"]), "[]\n");
    client.close();
    assert_eq!(user.good(&["approvals", "--json"]), "[]\n");
}

#[test]
fn states_of_other_tools_and_invented_ones_are_refused() {
    let user = User::with_policies(ASK);
    let mut client = Client::with(&user, Era::New, forms(), &[]);
    let first = client.request("tools/call", params());
    let approve = json!({ "approval": { "action": "accept", "content": { "decision": "approve" } } });
    let other = json!({
        "name": "fs_read_v1",
        "arguments": { "path": "a" },
        "requestState": first["requestState"],
        "inputResponses": approve,
    });
    client.error("tools/call", other);
    let mut invented = params();
    invented["requestState"] = "0".repeat(32).into();
    invented["inputResponses"] = approve;
    assert_eq!(client.request("tools/call", invented)["isError"], true);
    assert!(!user.path("work/done").exists());
}
