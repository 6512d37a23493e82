//! The official Python client and the command line of the inspector.

use crate::place::{Place, agentd, installed, node, python};
use serde_json::{Value, json};
use std::{fs, path::Path};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp_clients/client.py");

/// Checks what the Python client has printed.
pub fn called_all_tools(printed: &str, version: &str) {
    let object: Value = serde_json::from_str(printed).unwrap();
    assert_eq!(object["version"], version);
    let mut tools: Vec<&str> = object["tools"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let calls = object["calls"].as_array().unwrap();
    for call in calls {
        let (name, is_error, content) = (call[0].as_str().unwrap(), call[1].as_bool().unwrap(), &call[2]);
        // Without a network, and without a call that waits.
        let fails = ["http_fetch_v1", "git_clone_v1", "call_wait", "call_cancel"].contains(&name);
        assert_eq!(is_error, fails, "{name}: {content:#}");
        tools.retain(|tool| *tool != name);
    }
    assert!(tools.is_empty(), "not called: {tools:?}");
    assert!(calls.iter().any(|call| call[2]["result"]["stdout"]["text"] == "42\n"), "{calls:#?}");
    assert!(calls.iter().any(|call| call[2]["result"]["content"] == "one\ntwo\n"), "{calls:#?}");
    assert!(object["progress"].as_u64().unwrap() > 0, "progress was told");
}

#[test]
fn python_client_calls_every_tool_on_stdio_in_every_era() {
    for (mode, version) in [("legacy", "2025-11-25"), ("auto", "2026-07-28"), ("2026-07-28", "2026-07-28")] {
        let place = Place::new();
        let printed = place.good(&python(), &[CLIENT, mode, agentd().to_str().unwrap(), "mcp"]);
        called_all_tools(&printed, version);
        assert!(place.path("work/a.tgz").exists() && !place.path("work/moved.txt").exists());
    }
}

/// Runs the command line of the inspector, and returns the result that it prints.
pub fn inspect(place: &Place, server: &[&str], args: &[&str]) -> Value {
    let program = installed("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    let all = [&[program.to_str().unwrap(), "--cli"], server, args].concat();
    let printed = place.good(&node(), &all);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[test]
fn inspector_lists_and_calls_tools_on_stdio() {
    for era in ["legacy", "modern"] {
        let place = Place::new();
        fs::write(place.path("work/a"), "content of a").unwrap();
        let agentd = agentd();
        let server = [agentd.to_str().unwrap(), "mcp"];
        let run = |args: &[&str]| inspect(&place, &server, &[&["--protocol-era", era, "--format", "json"], args].concat());
        let listed = run(&["--method", "tools/list", "--strict"]);
        let tools =
            listed.pointer("/result/tools").or(listed.get("tools")).and_then(Value::as_array).cloned().unwrap_or_default();
        assert!(tools.iter().any(|tool| tool["name"] == "shell_exec_v1"), "{listed:#}");
        let arguments = json!({ "path": "a" }).to_string();
        let read = run(&["--method", "tools/call", "--tool-name", "fs_read_v1", "--tool-args-json", &arguments]);
        assert!(read.to_string().contains("content of a"), "{read:#}");
    }
}

#[test]
fn pinned_clients_are_installed() {
    for path in [python(), node(), installed("node_modules/@modelcontextprotocol/inspector"), Path::new(CLIENT).into()] {
        assert!(path.exists(), "{}: run ./test egress-clients", path.display());
    }
}
