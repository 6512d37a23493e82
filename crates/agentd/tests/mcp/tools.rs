//! The tools: what they are, and what they do in a workspace.

use crate::client::{Client, Era, User};
use serde_json::{Value, json};
use std::fs;

#[test]
fn tools_have_schemas_annotations_and_a_stable_order() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let tools = client.request("tools/list", json!({}));
    assert_eq!(tools, client.request("tools/list", json!({})));
    for tool in tools["tools"].as_array().unwrap() {
        let input = tool["inputSchema"].as_object().unwrap();
        assert_eq!(input["type"], "object");
        assert!(["oneOf", "anyOf", "allOf", "not"].iter().all(|keyword| !input.contains_key(*keyword)), "{tool:#}");
        assert!(input["properties"].get("_workspace").is_none(), "the user has fixed the workspace");
        for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
            assert!(tool["annotations"][hint].is_boolean(), "{tool:#}");
        }
        assert!(!tool["description"].as_str().unwrap().is_empty());
    }
    let error = client.error("tools/list", json!({ "cursor": "next" }));
    assert_eq!(error["code"], -32602);
}

#[test]
fn files_of_the_workspace_are_read_changed_and_removed() {
    let user = User::new();
    fs::write(user.path("work/a.txt"), "one\ntwo\n").unwrap();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let mut result = |tool: &str, arguments: Value| {
        let result = client.call(tool, arguments);
        assert_ne!(result["isError"], true, "{result:#}");
        result["structuredContent"]["result"].clone()
    };
    assert_eq!(result("fs_read_v1", json!({ "path": "a.txt" }))["content"], "one\ntwo\n");
    result("fs_edit_v1", json!({ "path": "a.txt", "edits": [{ "literal": { "old": "two", "new": "2" } }] }));
    result("fs_write_v1", json!({ "path": "b.txt", "content": "new" }));
    let listed = result("fs_list_v1", json!({ "path": "." }));
    assert!(listed["entries"].to_string().contains("b.txt"), "{listed:#}");
    assert_eq!(result("shell_exec_v1", json!({ "argv": ["cat", "a.txt", "b.txt"] }))["stdout"]["text"], "one\n2\nnew");
    result("fs_remove_v1", json!({ "path": "b.txt" }));
    assert_eq!(fs::read_to_string(user.path("work/a.txt")).unwrap(), "one\n2\n");
    assert!(!user.path("work/b.txt").exists());
}

#[test]
fn command_sees_the_workspace_and_nothing_else_of_the_user() {
    let user = User::new();
    fs::write(user.path("secret"), "planted").unwrap();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let secret = user.path("secret");
    let content = client.shell(&format!("touch made; cat {}", secret.display()));
    assert_eq!(content["result"]["stdout"]["text"], "");
    assert!(user.path("work/made").exists());
}

#[test]
fn workspace_none_shows_no_directory_of_the_host() {
    let user = User::new();
    fs::write(user.path("work/a.txt"), "planted").unwrap();
    let mut client = Client::with(&user, Era::Old("2025-11-25"), json!({}), &["--workspace", "none"]);
    let content = client.shell(&format!("cat {}", user.path("work/a.txt").display()));
    assert!(!content.to_string().contains("planted"), "{content:#}");
}

#[test]
fn model_cannot_choose_another_workspace() {
    let user = User::new();
    fs::write(user.path("secret"), "planted").unwrap();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let arguments = json!({ "command": "cat ../secret secret", "_workspace": user.path("") });
    let result = client.call("shell_exec_v1", arguments);
    assert_eq!(result["isError"], true);
    assert!(!result.to_string().contains("planted") && result.to_string().contains("leave the argument out"), "{result:#}");
}

#[test]
fn failure_of_a_tool_is_no_error_of_the_protocol() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let failed = client.call("shell_exec_v1", json!({ "command": "echo why >&2; exit 3" }));
    assert_eq!((&failed["isError"], &failed["structuredContent"]["result"]["exit_code"]), (&json!(true), &json!(3)));
    assert_eq!(failed["structuredContent"]["result"]["stderr"]["text"], "why\n");
    let missing = client.call("fs_read_v1", json!({ "path": "missing" }));
    assert_eq!(missing["isError"], true);
    assert!(missing["structuredContent"]["error"]["code"].is_string(), "{missing:#}");
    let late = client.call("shell_exec_v1", json!({ "command": "sleep 1000", "timeout_ms": 50 }));
    assert_eq!(late["structuredContent"]["reason"], "wall-deadline");
    assert!(late["structuredContent"]["advice"].as_str().unwrap().contains("timeout_ms"), "{late:#}");
}

#[test]
fn refusal_tells_the_model_what_to_do() {
    let user = User::with_policies(r#"@id("files") permit (principal, action == Action::"fs.read.v1", resource);"#);
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let denied = client.call("shell_exec_v1", json!({ "command": "true" }));
    assert_eq!((&denied["isError"], &denied["structuredContent"]["status"]), (&json!(true), &json!("refused")));
    assert!(denied["structuredContent"]["advice"].as_str().unwrap().contains("Do not try"), "{denied:#}");
    let invalid = client.call("fs_read_v1", json!({ "paths": "a" }));
    assert_eq!(invalid["structuredContent"]["reason"], "invalid-parameters");
    assert!(invalid["structuredContent"]["error"]["violations"].is_array(), "{invalid:#}");
    let both = client.call("shell_exec_v1", json!({ "command": "a", "argv": ["b"] }));
    assert_eq!(both["structuredContent"]["reason"], "invalid-parameters", "rules that the tool's schema does not state hold");
}

#[test]
fn call_is_in_the_audit_log_with_its_transport() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let content = client.shell("true");
    client.close();
    let log = user.good(&["audit", "tail", "--json", "-n", "3"]);
    assert!(log.contains(content["intent"].as_str().unwrap()) && log.contains("mcp-stdio"), "{log}");
}

#[test]
fn files_of_the_workspace_are_resources() {
    let user = User::new();
    fs::write(user.path("work/a b.txt"), "content").unwrap();
    fs::write(user.path("work/bytes"), b"\xff\0").unwrap();
    fs::write(user.path("secret"), "planted").unwrap();
    std::os::unix::fs::symlink("../secret", user.path("work/link")).unwrap();
    for era in [Era::Old("2025-11-25"), Era::New] {
        let mut client = Client::start(&user, era);
        let templates = client.request("resources/templates/list", json!({}));
        assert_eq!(templates["resourceTemplates"][0]["uriTemplate"], "workspace:///{+path}");
        let mut read = |uri: &str| client.request("resources/read", json!({ "uri": uri }))["contents"][0].clone();
        assert_eq!(read("workspace:///a%20b.txt")["text"], "content");
        assert_eq!(read("workspace:///bytes")["blob"], "/wA=");
        for uri in ["workspace:///missing", "workspace:///link", "workspace:///../secret", "file:///etc/passwd", "x"] {
            let error = client.error("resources/read", json!({ "uri": uri }));
            assert!(!error.to_string().contains("planted"), "{error:#}");
        }
    }
    let mut client = Client::with(&user, Era::New, json!({}), &["--workspace", "none"]);
    client.request("tools/list", json!({}));
    assert_eq!(client.error("resources/read", json!({ "uri": "workspace:///a" }))["code"], -32602);
}
