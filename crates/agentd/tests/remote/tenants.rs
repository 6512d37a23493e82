//! Two services with keys of their own: neither can see, use or end what belongs to the other.

use crate::place::{Remote, answer, object};
use agentd_client::{Client, ClientError, v1};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader},
};

#[tokio::test(flavor = "multi_thread")]
async fn running_intent_cannot_be_seen_or_cancelled_by_another_service() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    let script = "touch started; until [ -e go ]; do sleep 0.01; done; echo done";
    let mut running = remote.shell(&alice, script, &["--header", "Accept: text/event-stream"]).spawn().unwrap();
    let mut events = BufReader::new(running.stdout.take().unwrap()).lines().map_while(Result::ok);
    let begun: Value = events.find_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).unwrap();
    let intent = begun["intent"].as_str().unwrap().to_owned();
    remote.wait_for("started");
    let unknown = "0123456789abcdef0123456789abcdef";
    let delete = |key: &str, intent: &str| remote.get(Some(key), &format!("/v1/intents/{intent}"), &["--request", "DELETE"]);
    let theirs = delete(&bob, &intent);
    assert_eq!(theirs, delete(&bob, unknown), "the same answer as for an intent that does not exist");
    assert_eq!(theirs.1, "404");
    let client = Client::builder(&remote.url).api_key(&bob).unwrap().connect().await.unwrap();
    let cancelled = |error: Result<(), ClientError>| match error.unwrap_err() {
        ClientError::Call(error) => error.message,
        other => panic!("{other:?}"),
    };
    let theirs = cancelled(client.cancel(&intent).await);
    assert_eq!(theirs.replace(&intent, unknown), cancelled(client.cancel(unknown).await));
    fs::write(remote.path("work/go"), "").unwrap();
    assert!(events.any(|line| line.contains("done\\n")), "nobody has ended it");
    assert!(running.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_of_one_service_are_hidden_from_others_and_decided_by_the_operator_only() {
    let remote = Remote::new();
    let (asks, bob) = (remote.key("asks", &[]), remote.key("bob", &[]));
    let waiting = remote.shell(&asks, "echo approved", &[]).spawn().unwrap();
    let list = |key: &str| -> Vec<Value> {
        let (body, status) = remote.get(Some(key), "/v1/approvals", &[]);
        assert_eq!(status, "200", "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["approvals"].as_array().unwrap().clone()
    };
    let approval = loop {
        if let Some(approval) = list(&asks).pop() {
            break approval;
        }
    };
    assert_eq!(approval["principal"], "service:asks");
    assert_eq!(list(&bob), [Value::Null; 0]);
    let intent = approval["intent"].as_str().unwrap();
    let unknown = "0123456789abcdef0123456789abcdef";
    for key in [&bob, &asks] {
        let decide = |intent: &str| {
            let body = json!({ "decision": "approve" });
            answer(&remote.post(key, &format!("/v1/approvals/{intent}"), &body, &[]).output().unwrap())
        };
        assert_eq!(decide(intent).1, "403");
        assert_eq!(decide(intent), decide(unknown));
        let client = Client::builder(&remote.url).api_key(key).unwrap().connect().await.unwrap();
        assert_eq!(client.approvals().await.unwrap().len(), usize::from(key == &asks));
        assert!(client.decide(intent, v1::ApprovalDecision::Approve).await.is_err());
    }
    remote.good(&["approve", intent]);
    let object = object(&waiting.wait_with_output().unwrap());
    assert_eq!(object["result"]["stdout"]["text"], "approved\n");
}

#[test]
fn handles_of_one_service_are_unknown_to_another() {
    let remote = Remote::new();
    let (alice, bob, asks) = (remote.key("alice", &[]), remote.key("bob", &[]), remote.key("asks", &[]));
    let output = remote.tool(&alice, "shell_exec_v1", &json!({ "command": "seq 1 20000" }));
    let handle = output["cut"][0]["handle"].as_str().unwrap_or_else(|| panic!("{output}")).to_owned();
    assert!(remote.tool(&alice, "output_read", &json!({ "handle": handle }))["text"].as_str().unwrap().starts_with("1\n2\n"));
    let unknown = remote.tool(&bob, "output_read", &json!({ "handle": "0".repeat(32) }));
    assert_eq!(remote.tool(&bob, "output_read", &json!({ "handle": handle })), unknown);
    let waiting = remote.tool(&asks, "shell_exec_v1", &json!({ "command": "echo waited" }));
    assert_eq!(waiting["status"], "waiting", "{waiting}");
    let call = waiting["handle"].as_str().unwrap();
    for tool in ["call_wait", "call_cancel"] {
        let theirs = remote.tool(&bob, tool, &json!({ "handle": call }));
        assert_eq!(theirs, remote.tool(&bob, tool, &json!({ "handle": "0".repeat(32) })));
        assert_eq!(theirs["reason"], "unknown-handle", "{theirs}");
    }
    remote.good(&["approve", waiting["intent"].as_str().unwrap()]);
    let ended = remote.tool(&asks, "call_wait", &json!({ "handle": call }));
    assert_eq!(ended["result"]["stdout"]["text"], "waited\n", "{ended}");
}

#[test]
fn idempotency_keys_of_services_are_apart() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    let run = |key: &str| object(&remote.shell(key, "echo x >> count", &["--header", "Idempotency-Key: once"]).output().unwrap());
    let (first, other) = (run(&alice), run(&bob));
    assert_eq!((&first["duplicate"], &other["duplicate"]), (&json!(false), &json!(false)));
    assert_eq!(run(&alice)["duplicate"], true);
    assert_eq!(fs::read_to_string(remote.path("work/count")).unwrap(), "x\nx\n");
    // A second key of the same service continues its work.
    assert_eq!(run(&remote.key("alice", &[]))["duplicate"], true);
}

#[test]
fn session_of_one_service_is_unknown_to_another() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    let cell = |key: &str, source: &str, session: &str| {
        let parameters = json!({ "language": "python", "source": source, "session": session });
        let body = json!({ "capability": "code.run.v1", "parameters": parameters });
        answer(&remote.post(key, "/v1/intents", &body, &[]).output().unwrap()).0
    };
    let first: Value = serde_json::from_str(&cell(&alice, "secret = 'alice-owns-this'", "new")).unwrap();
    let session = first["result"]["session"]["handle"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned();
    assert!(cell(&alice, "print(secret)", &session).contains("alice-owns-this"));
    let theirs = cell(&bob, "print(secret)", &session);
    assert!(!theirs.contains("alice-owns-this"), "{theirs}");
    remote.good(&["daemon", "stop"]);
}

#[test]
fn holder_of_a_key_names_listed_workspaces_only() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    let root = remote.root.path().canonicalize().unwrap();
    std::os::unix::fs::symlink(root.join("other"), root.join("work/link")).unwrap();
    let run = |path: &std::path::Path| {
        let body = json!({ "capability": "shell.exec.v1", "parameters": { "command": "pwd" }, "workspace": { "path": path } });
        answer(&remote.post(&key, "/v1/intents", &body, &[]).output().unwrap())
    };
    assert_eq!(run(&root.join("work")).1, "200");
    for name in ["other", "work/link", "data", "missing", "work/../other"] {
        let (problem, status) = run(&root.join(name));
        assert!(status == "400" && !problem.contains("No such file"), "{name}: {problem}");
    }
}

#[test]
fn default_policy_permits_nothing_to_services() {
    let root = crate::place::folder();
    fs::remove_dir_all(root.path().join("data/policy")).unwrap();
    let remote = Remote::with(root, &[], "off");
    let key = remote.key("ci", &[]);
    let (problem, status) = answer(&remote.shell(&key, "true", &[]).output().unwrap());
    assert!(status == "403" && problem.contains("\"denied\""), "{problem}");
}
