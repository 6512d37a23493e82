//! MCP by HTTP: requests without sessions, both eras, headers, handles of other principals, and responses that the client closes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod client;
mod server;

use client::{Answer, NEW, OLD, call, post, request};
use serde_json::{Value, json};
use server::{ALL, Server};
use std::{fs, path::Path};

const ASK: &str = r#"@id("ask") @approval("ask the owner") permit (principal, action, resource);"#;

fn shell(script: &str) -> Value {
    json!({ "name": "shell_exec_v1", "arguments": { "command": script } })
}

async fn wait_for(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn requests_of_both_eras_need_no_session() {
    let server = Server::start(ALL).await;
    for version in [OLD, NEW] {
        let listed = request(&server, "a", version, "tools/list", json!({})).await;
        assert!(listed["tools"].as_array().unwrap().len() > 10, "{listed:#}");
        let called = request(&server, "a", version, "tools/call", shell("echo $((40 + 2))")).await;
        assert_eq!(called["structuredContent"]["result"]["stdout"]["text"], "42\n");
    }
    let info = json!({ "name": "test", "version": "1" });
    let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info });
    let answer = call(&server, "a", OLD, "initialize", params, &[("mcp-protocol-version", "2025-06-18")]).await;
    assert_eq!(answer.body["result"]["protocolVersion"], "2025-06-18");
    assert!(!answer.headers.contains("mcp-session-id"), "{}", answer.headers);
    let found = request(&server, "a", NEW, "server/discover", json!({})).await;
    assert!(found["supportedVersions"].to_string().contains(NEW), "{found:#}");
}

#[tokio::test]
async fn request_without_a_caller_is_not_served() {
    let server = Server::start(ALL).await;
    let answer = call(&server, "", NEW, "tools/call", shell("true"), &[]).await;
    assert!(answer.body["error"]["message"].as_str().unwrap().contains("not authenticated"), "{}", answer.body);
}

#[tokio::test]
async fn pages_of_other_origins_and_hosts_are_refused() {
    let server = Server::start(ALL).await;
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("host", "evil.example")] {
        let answer = call(&server, "a", NEW, "tools/list", json!({}), &[(name, value)]).await;
        assert_eq!(answer.status, 403, "{name}: {value}");
    }
}

#[tokio::test]
async fn headers_must_match_the_request() {
    let server = Server::start(ALL).await;
    let other = call(&server, "a", NEW, "tools/list", json!({}), &[("mcp-method", "tools/call")]).await;
    assert_eq!((other.status, &other.body["error"]["code"]), (400, &json!(-32020)), "{}", other.body);
    let name = call(&server, "a", NEW, "tools/call", shell("true"), &[("mcp-name", "fs_read_v1")]).await;
    assert_eq!((name.status, &name.body["error"]["code"]), (400, &json!(-32020)), "{}", name.body);
    let unknown = call(&server, "a", "2099-01-01", "tools/list", json!({}), &[]).await;
    assert_eq!((unknown.status, &unknown.body["error"]["code"]), (400, &json!(-32022)), "{}", unknown.body);
    let method = call(&server, "a", NEW, "no/such", json!({}), &[]).await;
    assert_eq!((method.status, &method.body["error"]["code"]), (404, &json!(-32601)), "{}", method.body);
}

#[tokio::test]
async fn malformed_and_oversized_bodies_are_refused() {
    let server = Server::start(ALL).await;
    let deep = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{}", "[".repeat(100_000));
    for body in ["", "{", "[]", "null", deep.as_str(), "\0"] {
        let Answer { status, .. } = post(&server, "a", body.to_owned(), &[]).await;
        assert!((400..500).contains(&status), "{status}: {body:.20}");
    }
    let oversized = post(&server, "a", "x".repeat(18 << 20), &[]).await;
    assert_eq!(oversized.status, 413);
    let get =
        client::raw(&server, "GET /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept: text/event-stream\r\n\r\n")
            .await;
    assert!(get.starts_with("HTTP/1.1 405"), "{get}");
}

#[tokio::test]
async fn closed_response_kills_the_command() {
    let server = Server::start(ALL).await;
    for version in [OLD, NEW] {
        let (begun, pid) = (server.shared().join("begun"), server.shared().join("pid"));
        let script = format!("echo $$ > {0}; touch {1}; exec sleep 100000", pid.display(), begun.display());
        let connection = client::begin(&server, "a", version, "tools/call", shell(&script), &[]).await;
        wait_for(&begun).await;
        let process = format!("/proc/{}", fs::read_to_string(&pid).unwrap().trim());
        assert!(Path::new(&process).exists());
        drop(connection);
        while fs::read_to_string(format!("{process}/cmdline")).is_ok_and(|line| line.contains("sleep")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        fs::remove_file(begun).unwrap();
    }
}

#[tokio::test]
async fn workspace_is_an_argument_below_a_named_directory_even_for_the_operator() {
    let server = Server::start(ALL).await;
    let named = |path: &Path| json!({ "name": "shell_exec_v1", "arguments": { "command": "pwd", "_workspace": path } });
    for caller in ["operator", "a"] {
        let listed = request(&server, caller, NEW, "tools/call", named(&server.shared())).await;
        let text = listed["structuredContent"]["result"]["stdout"]["text"].as_str().unwrap();
        assert_eq!(text.trim(), server.shared().to_str().unwrap());
        for other in [Path::new("/etc"), server.folder.path()] {
            let refused = request(&server, caller, NEW, "tools/call", named(other)).await;
            assert_eq!(refused["isError"], true);
            assert!(refused.to_string().contains("not in a directory that callers may name"), "{refused:#}");
        }
    }
}

#[tokio::test]
async fn handles_of_another_principal_do_not_exist() {
    let server = Server::start(ALL).await;
    let long = request(&server, "a", NEW, "tools/call", shell("seq 1 20000")).await;
    let handle = long["structuredContent"]["cut"][0]["handle"].clone();
    let read = |caller: &'static str| {
        let params = json!({ "name": "output_read", "arguments": { "handle": handle } });
        request(&server, caller, NEW, "tools/call", params)
    };
    assert_eq!(read("a").await["structuredContent"]["cursor"], 0);
    let other = read("b").await;
    assert_eq!((&other["isError"], &other["structuredContent"]["reason"]), (&json!(true), &json!("unknown-handle")));
}

#[tokio::test]
async fn remote_agent_cannot_approve_its_own_call() {
    let server = Server::start(ASK).await;
    let done = server.shared().join("done");
    let script = format!("touch {}", done.display());
    // The agent claims to have forms.
    let waiting = request(&server, "a", NEW, "tools/call", shell(&script)).await;
    assert_eq!(waiting["structuredContent"]["status"], "waiting", "{waiting:#}");
    let mut again = shell(&script);
    again["requestState"] = waiting["structuredContent"]["handle"].clone();
    again["inputResponses"] = json!({ "approval": { "action": "accept", "content": { "decision": "approve" } } });
    let still = request(&server, "a", NEW, "tools/call", again.clone()).await;
    assert_eq!(still["structuredContent"]["status"], "waiting", "{still:#}");
    again["requestState"] = still["structuredContent"]["handle"].clone();
    let other = request(&server, "b", NEW, "tools/call", again).await;
    assert_eq!(other["structuredContent"]["reason"], "unknown-handle", "{other:#}");
    assert!(!done.exists());
}

#[tokio::test]
async fn operator_is_asked_over_http_in_the_new_era() {
    let server = Server::start(ASK).await;
    let done = server.shared().join("done");
    let script = format!("touch {}", done.display());
    let asked = request(&server, "operator", NEW, "tools/call", shell(&script)).await;
    assert_eq!(asked["resultType"], "input_required", "{asked:#}");
    let mut again = shell(&script);
    again["requestState"] = asked["requestState"].clone();
    again["inputResponses"] = json!({ "approval": { "action": "accept", "content": { "decision": "approve" } } });
    let stolen = request(&server, "b", NEW, "tools/call", again.clone()).await;
    assert_eq!(stolen["structuredContent"]["reason"], "unknown-handle", "{stolen:#}");
    assert!(!done.exists());
    let ended = request(&server, "operator", NEW, "tools/call", again).await;
    assert_eq!(ended["structuredContent"]["status"], "finished", "{ended:#}");
    assert!(done.exists());
    let old = request(&server, "operator", OLD, "tools/call", shell(&script)).await;
    assert_eq!(old["structuredContent"]["status"], "waiting", "the old era cannot be asked over HTTP: {old:#}");
}
