//! MCP by TCP.

use crate::place::{Remote, answer};
use serde_json::{Value, json};

/// Lists the tools. Returns their names, and the status.
fn tools(remote: &Remote, key: &str, options: &[&str]) -> (Vec<String>, String) {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
    });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } });
    let headers = [
        "--header",
        "Accept: application/json, text/event-stream",
        "--header",
        "MCP-Protocol-Version: 2026-07-28",
        "--header",
        "Mcp-Method: tools/list",
    ];
    let (text, status) = answer(&remote.post(key, "/mcp", &body, &[&headers, options].concat()).output().unwrap());
    let line = text.lines().rev().find_map(|line| line.strip_prefix("data: ").or(line.starts_with('{').then_some(line)));
    let reply: Value = line.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let names = reply["result"]["tools"].as_array().cloned().unwrap_or_default();
    (names.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect(), status)
}

#[test]
fn restricted_key_sees_its_own_tools_only() {
    let remote = Remote::new();
    let (all, one) = (remote.key("ci", &[]), remote.key("reader", &["--capability", "fs.read.v1"]));
    assert!(tools(&remote, &all, &[]).0.contains(&"shell_exec_v1".to_owned()));
    assert_eq!(tools(&remote, &one, &[]).0, ["call_cancel", "call_wait", "fs_read_v1", "output_read"]);
}

#[test]
fn any_name_of_the_host_is_accepted_with_a_key_and_web_pages_never() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    let name = ["--header", "Host: agentd.example:7411"];
    assert_eq!(tools(&remote, &key, &name).1, "200");
    assert_eq!(tools(&remote, &key, &["--header", "Origin: https://evil.example"]).1, "403");
    let socket = remote.path("data/serve/agentd.sock").display().to_string();
    let local = ["--unix-socket", &socket];
    assert_eq!(tools(&remote, &key, &[&local[..], &name].concat()).1, "403", "without an address, only names of this host");
}
