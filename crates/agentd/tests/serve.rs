//! `agentd serve`, as its clients see it: REST by curl, gRPC by the Rust client, signals, and a killed daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use agentd_client::{Client, ExecutionEvent, request};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
};
use tempfile::TempDir;

/// A user with a workspace, whose daemon runs.
struct Served {
    root: TempDir,
    daemon: Child,
    messages: BufReader<std::process::ChildStderr>,
}

fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

impl Served {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("work")).unwrap();
        let (daemon, messages) = Self::start(&root, &[]);
        Self { root, daemon, messages }
    }

    fn start(root: &TempDir, options: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
        let mut command = Command::new(program());
        command.arg("serve").args(options).current_dir(root.path()).env("AGENTD_DATA_DIR", root.path().join("data"));
        let mut daemon = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut messages = BufReader::new(daemon.stderr.take().unwrap());
        let mut line = String::new();
        messages.read_line(&mut line).unwrap();
        assert!(line.contains("serving on "), "{line}");
        (daemon, messages)
    }

    fn restart(&mut self, options: &[&str]) {
        (self.daemon, self.messages) = Self::start(&self.root, options);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("data/serve/agentd.sock")
    }

    fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-buffer", "--unix-socket"]).arg(self.socket()).args(arguments);
        command
    }

    fn get(&self, path: &str) -> (String, String) {
        answer(&self.curl(&["--write-out", "\n%{http_code}", &format!("http://localhost{path}")]).output().unwrap())
    }

    fn post(&self, body: &Value, options: &[&str]) -> Command {
        let (body, json) = (body.to_string(), "Content-Type: application/json");
        let mut command = self.curl(&["--write-out", "\n%{http_code}", "--header", json, "--data-binary", &body]);
        command.args(options).arg("http://localhost/v1/intents").stdout(Stdio::piped());
        command
    }

    fn shell(&self, script: &str, options: &[&str]) -> Command {
        let workspace = json!({ "path": self.path("work") });
        self.post(&json!({ "capability": "shell.exec.v1", "parameters": { "command": script }, "workspace": workspace }), options)
    }

    /// Waits until a command has created a file in the workspace.
    fn wait_for(&self, name: &str) {
        while !self.path("work").join(name).exists() {
            std::thread::yield_now();
        }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.daemon.id().to_string()]).status().unwrap().success());
    }

    fn message(&mut self) -> String {
        let mut line = String::new();
        self.messages.read_line(&mut line).unwrap();
        line
    }

    fn outcomes(&self) -> Vec<Value> {
        let mut command = Command::new(program());
        command.args(["audit", "tail", "--json", "-n", "100"]).env("AGENTD_DATA_DIR", self.path("data"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let leaves = String::from_utf8(output.stdout).unwrap();
        let events = leaves.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["leaf"]["event"].clone());
        events.filter_map(|event| event.get("outcome").cloned()).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Returns body and status of a response.
fn answer(output: &Output) -> (String, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (body.to_owned(), status.to_owned())
}

fn object(output: &Output) -> Value {
    let (body, status) = answer(output);
    assert_eq!(status, "200", "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Returns true if a process of the host has this text in its command line.
fn runs(text: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
}

/// A marker in command lines, which no other test uses.
fn marker() -> String {
    let bytes = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("marker-{}", bytes.trim())
}

#[test]
fn capabilities_are_listed_by_pages_and_executed() {
    let served = Served::new();
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let (page, status) = served.get(&format!("/v1/capabilities?limit=3{cursor}"));
        assert_eq!(status, "200", "{page}");
        let page: Value = serde_json::from_str(&page).unwrap();
        names.extend(page["capabilities"].as_array().unwrap().iter().map(|one| one["capability"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(names.is_sorted() && names.contains(&"shell.exec.v1".to_owned()) && names.len() > 12, "{names:?}");
    let object = object(&served.shell("echo out; echo err >&2; exit 3", &[]).output().unwrap());
    assert_eq!((&object["status"], &object["exit_code"]), (&json!("finished"), &json!(3)));
    assert_eq!((&object["result"]["stdout"]["text"], &object["result"]["stderr"]["text"]), (&json!("out\n"), &json!("err\n")));
    assert!(object["receipt"]["payload"].is_string());
    for (path, status) in [("/healthz", "200"), ("/readyz", "200"), ("/openapi.json", "200"), ("/v2", "404")] {
        assert_eq!(served.get(path).1, status, "{path}");
    }
    assert!(served.get("/metrics").0.contains("agentd_"));
}

#[test]
fn refused_requests_are_problems() {
    let served = Served::new();
    for (body, status, code) in [
        (json!({ "capability": "nope.v1" }), "404", "unknown-capability"),
        (json!({ "capability": "shell.exec.v1", "parameters": { "bad": 1 } }), "422", "invalid-parameters"),
        (json!({ "capability": "shell.exec.v1", "more": 1 }), "400", "invalid-request"),
        (json!({ "capability": "fs.read.v1", "workspace": { "path": "../x" } }), "400", "invalid-request"),
        (json!([]), "400", "invalid-request"),
    ] {
        let (problem, answered) = answer(&served.post(&body, &[]).output().unwrap());
        let problem: Value = serde_json::from_str(&problem).unwrap();
        assert_eq!((answered.as_str(), &problem["code"]), (status, &json!(code)), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(" — "), "{problem}");
    }
    let (twice, status) = answer(
        &served
            .curl(&[
                "--write-out",
                "\n%{http_code}",
                "--header",
                "Content-Type: application/json",
                "--data-binary",
                r#"{"capability":"a.v1","capability":"shell.exec.v1"}"#,
                "http://localhost/v1/intents",
            ])
            .output()
            .unwrap(),
    );
    assert_eq!(status, "400", "{twice}");
    let long = served.path("long");
    fs::write(&long, vec![b' '; 18 << 20]).unwrap();
    let data = format!("@{}", long.display());
    let json = "Content-Type: application/json";
    let (_, status) = answer(
        &served
            .curl(&["--write-out", "\n%{http_code}", "--header", json, "--data-binary", &data, "http://localhost/v1/intents"])
            .output()
            .unwrap(),
    );
    assert_eq!(status, "413");
    let (_, status) = answer(
        &served
            .curl(&[
                "--write-out",
                "\n%{http_code}",
                "--header",
                json,
                "--header",
                "Transfer-Encoding: chunked",
                "--data-binary",
                &data,
                "http://localhost/v1/intents",
            ])
            .output()
            .unwrap(),
    );
    assert_eq!(status, "413");
}

#[test]
fn command_never_reads_the_input_of_the_daemon() {
    let root = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command.arg("serve").current_dir(root.path()).env("AGENTD_DATA_DIR", root.path().join("data"));
    let mut daemon = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = daemon.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"canary\n").unwrap();
    let mut messages = BufReader::new(daemon.stderr.take().unwrap());
    messages.read_line(&mut String::new()).unwrap();
    fs::create_dir(root.path().join("work")).unwrap();
    let served = Served { root, daemon, messages };
    for accept in ["application/json", "text/event-stream"] {
        let body = json!({ "capability": "shell.exec.v1", "parameters": { "command": "head -n1", "stdin_stream": true } });
        let output = served.post(&body, &["--header", &format!("Accept: {accept}")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("stdin_stream: the transport sends no input") && !text.contains("canary"), "{text}");
    }
    drop(stdin);
}

#[test]
fn cell_of_a_client_that_does_not_read_ends_when_it_is_cancelled() {
    let served = Served::new();
    let source = "print('begun', flush=True)\nwhile True: print('x' * 10000)";
    let parameters = json!({ "language": "python", "source": source, "session": "new" });
    let body = json!({ "capability": "code.run.v1", "parameters": parameters });
    let mut client = served.post(&body, &["--header", "Accept: text/event-stream"]).spawn().unwrap();
    let mut events = BufReader::new(client.stdout.take().unwrap());
    let (name, begun) = next_event(&mut events);
    assert_eq!(name, "begun", "{begun}");
    assert_eq!(next_event(&mut events).0, "stdout");
    let url = format!("http://localhost/v1/intents/{}", begun["intent"].as_str().unwrap());
    let deleted = answer(&served.curl(&["--write-out", "\n%{http_code}", "--request", "DELETE", &url]).output().unwrap()).1;
    assert_eq!(deleted, "204");
    // Without a reader, curl and the daemon keep what fits into their buffers.
    while served.outcomes().is_empty() {
        std::thread::yield_now();
    }
    client.kill().unwrap();
    client.wait().unwrap();
}

/// Reads the next event of a stream.
fn next_event(events: &mut BufReader<ChildStdout>) -> (String, Value) {
    let mut event = (String::new(), Value::Null);
    loop {
        let mut line = String::new();
        assert!(events.read_line(&mut line).unwrap() > 0, "the stream has ended");
        match line.trim_end().split_once(": ") {
            Some(("event", name)) => event.0 = name.to_owned(),
            Some(("data", data)) => event.1 = serde_json::from_str(data).unwrap(),
            _ if !event.0.is_empty() => return event,
            _ => {}
        }
    }
}

#[test]
fn events_arrive_while_the_command_runs_and_their_end_is_the_outcome() {
    let served = Served::new();
    let script = "echo first; until [ -e go ]; do sleep 0.01; done; printf '\\377'";
    let mut client = served.shell(script, &["--header", "Accept: text/event-stream"]).spawn().unwrap();
    let mut events = BufReader::new(client.stdout.take().unwrap());
    assert_eq!(next_event(&mut events).0, "begun");
    assert_eq!(next_event(&mut events), ("stdout".to_owned(), json!({ "text": "first\n" })));
    fs::write(served.path("work/go"), "").unwrap();
    assert_eq!(next_event(&mut events), ("stdout".to_owned(), json!({ "base64": "/w==" })));
    let (name, ended) = next_event(&mut events);
    assert_eq!((name.as_str(), &ended["exit_code"]), ("ended", &json!(0)));
    assert!(client.wait().unwrap().success());
}

#[test]
fn client_that_leaves_ends_its_command_and_the_end_is_recorded() {
    let served = Served::new();
    for options in [&[][..], &["--header", "Accept: text/event-stream"]] {
        let marker = marker();
        let script = format!("touch started; sleep 1000 # {marker}");
        let mut client = served.shell(&script, options).spawn().unwrap();
        served.wait_for("started");
        assert!(runs(&marker));
        client.kill().unwrap();
        client.wait().unwrap();
        while runs(&marker) {
            std::thread::yield_now();
        }
        fs::remove_file(served.path("work/started")).unwrap();
    }
    while served.outcomes().len() < 2 {
        std::thread::yield_now();
    }
    assert!(served.outcomes().iter().all(|outcome| outcome["reason"] == "cancelled"), "{:?}", served.outcomes());
}

#[test]
fn running_intent_can_be_cancelled_and_an_unknown_one_cannot() {
    let served = Served::new();
    let mut client = served.shell("sleep 1000", &["--header", "Accept: text/event-stream"]).spawn().unwrap();
    let mut events = BufReader::new(client.stdout.take().unwrap());
    let (_, begun) = next_event(&mut events);
    let delete = |intent: &str| {
        let url = format!("http://localhost/v1/intents/{intent}");
        answer(&served.curl(&["--write-out", "\n%{http_code}", "--request", "DELETE", &url]).output().unwrap()).1
    };
    assert_eq!(delete("00000000000000000000000000000000"), "404");
    assert_eq!(delete("x"), "404");
    assert_eq!(delete(begun["intent"].as_str().unwrap()), "204");
    let (name, ended) = next_event(&mut events);
    assert_eq!((name.as_str(), &ended["reason"]), ("ended", &json!("cancelled")));
    client.wait().unwrap();
}

#[test]
fn stopped_daemon_lets_a_command_finish_and_accepts_no_other() {
    let mut served = Served::new();
    let script = "touch started; until [ -e go ]; do sleep 0.01; done; echo done";
    let client = served.shell(script, &[]).spawn().unwrap();
    served.wait_for("started");
    served.signal("TERM");
    assert!(served.message().contains("stopping"));
    while served.socket().exists() {
        std::thread::yield_now();
    }
    assert!(!served.curl(&["http://localhost/healthz"]).output().unwrap().status.success());
    fs::write(served.path("work/go"), "").unwrap();
    let object = object(&client.wait_with_output().unwrap());
    assert_eq!(object["result"]["stdout"]["text"], "done\n");
    assert!(served.daemon.wait().unwrap().success());
    served.restart(&[]);
}

#[test]
fn intents_that_outlast_the_drain_are_cancelled_and_recorded() {
    let mut served = Served::new();
    served.signal("TERM");
    assert!(served.daemon.wait().unwrap().success());
    served.restart(&["--drain", "1ms"]);
    let marker = marker();
    let client = served.shell(&format!("touch started; sleep 1000 # {marker}"), &[]).spawn().unwrap();
    served.wait_for("started");
    served.signal("TERM");
    let object = object(&client.wait_with_output().unwrap());
    assert_eq!(object["reason"], "cancelled");
    assert!(served.daemon.wait().unwrap().success());
    assert!(!runs(&marker));
}

#[test]
fn killed_daemon_leaves_nothing_and_its_intent_is_interrupted_and_not_repeated() {
    let mut served = Served::new();
    let marker = marker();
    let script = format!("echo x >> count; touch started; sleep 1000 # {marker}");
    let key = ["--header", "Idempotency-Key: once"];
    let mut client = served.shell(&script, &key).spawn().unwrap();
    served.wait_for("started");
    served.daemon.kill().unwrap();
    served.daemon.wait().unwrap();
    client.wait().unwrap();
    while runs(&marker) {
        std::thread::yield_now();
    }
    served.restart(&[]);
    assert_eq!(served.outcomes().iter().map(|outcome| &outcome["reason"]).collect::<Vec<_>>(), ["interrupted"]);
    let object = object(&served.shell(&script, &key).output().unwrap());
    assert_eq!((&object["status"], &object["duplicate"]), (&json!("interrupted"), &json!(true)));
    assert_eq!(fs::read_to_string(served.path("work/count")).unwrap(), "x\n");
}

#[test]
fn reload_changes_the_decision_and_invalid_policies_stay_out() {
    let mut served = Served::new();
    let run = |served: &Served| answer(&served.shell("true", &[]).output().unwrap()).1;
    assert_eq!(run(&served), "200");
    let folder = served.path("data/policy/enforced");
    write_private(&folder, "@id(\"nothing\") forbid (principal, action, resource);");
    served.signal("HUP");
    let messages = [served.message(), served.message()];
    assert!(messages[0].contains("policies loaded") && messages[1].contains("quotas loaded"), "{messages:?}");
    assert_eq!(run(&served), "403");
    write_private(&folder, "permit (");
    served.signal("HUP");
    let message = served.message();
    assert!(message.contains("policies not loaded"), "{message}");
    assert_eq!(run(&served), "403");
}

fn write_private(folder: &std::path::Path, text: &str) {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).unwrap();
    let file = folder.join("test.cedar");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn second_daemon_and_an_open_directory_are_refused() {
    let served = Served::new();
    let start = |options: &[&str]| {
        let mut command = Command::new(program());
        command.arg("serve").args(options).env("AGENTD_DATA_DIR", served.path("data")).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(start(&[]).contains("another agentd listens there"));
    fs::create_dir(served.path("open")).unwrap();
    let open = served.path("open/agentd.sock").display().to_string();
    assert!(start(&["--socket", &open]).contains("listen: "));
}

#[test]
fn command_in_a_sandbox_cannot_use_the_socket() {
    let served = Served::new();
    let socket = served.socket().display().to_string();
    let script = format!(
        "python3 -c 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(\"reached\")' {socket}"
    );
    let object = object(&served.shell(&script, &[]).output().unwrap());
    assert_ne!(object["exit_code"], 0, "{object}");
    assert!(!object["result"]["stdout"]["text"].as_str().unwrap().contains("reached"));
    // The directory that contains the socket is never shown.
    let workspace = json!({ "path": served.path("data") });
    let body = json!({ "capability": "shell.exec.v1", "parameters": { "command": "ls" }, "workspace": workspace });
    let (refused, _) = answer(&served.post(&body, &[]).output().unwrap());
    let refused: Value = serde_json::from_str(&refused).unwrap();
    assert_eq!(refused["status"], "failed", "{refused}");
}

#[test]
fn model_names_only_workspaces_with_which_the_daemon_was_started() {
    let mut served = Served::new();
    served.signal("TERM");
    served.daemon.wait().unwrap();
    write_private(&served.path("data/policy/enforced"), "@id(\"all\") permit (principal, action, resource);");
    for name in ["listed", "other"] {
        fs::create_dir(served.path(name)).unwrap();
    }
    std::os::unix::fs::symlink(served.path("other"), served.path("listed/link")).unwrap();
    let listed = served.path("listed").display().to_string();
    served.restart(&["--workspace", &listed]);
    for (path, expected) in [("listed", true), ("other", false), ("listed/link", false), ("listed/missing", false)] {
        let arguments = json!({ "command": "pwd", "_workspace": served.path(path) });
        let params = json!({ "name": "shell_exec_v1", "arguments": arguments, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        } });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
        let headers = [
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            "MCP-Protocol-Version: 2026-07-28",
            "Mcp-Method: tools/call",
            "Mcp-Name: shell_exec_v1",
        ];
        let mut client = served.curl(&["--data-binary", &body, "http://localhost/mcp"]);
        client.args(headers.iter().flat_map(|header| ["--header", header]));
        let text = String::from_utf8(client.output().unwrap().stdout).unwrap();
        assert_eq!(text.contains("\"isError\":false") && text.contains(&format!("{listed}\\n")), expected, "{path}: {text}");
        assert_eq!(text.contains("--workspace DIR"), path.ends_with("link") || path == "other", "{path}: {text}");
    }
}

#[test]
fn client_in_another_pid_namespace_is_not_authenticated() {
    let served = Served::new();
    let url = "http://localhost/v1/capabilities";
    let curl = served.curl(&["--write-out", "\n%{http_code}", url]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork"]).arg(curl.get_program()).args(curl.get_args());
    let output = command.output().unwrap();
    let (body, status) = answer(&output);
    assert_eq!(status, "401", "{body}");
    assert!(body.contains("unauthenticated"), "{body}");
    assert_eq!(served.get("/v1/capabilities").1, "200");
}

#[test]
fn slow_and_silent_clients_do_not_keep_others_out() {
    let mut served = Served::new();
    served.signal("TERM");
    served.daemon.wait().unwrap();
    served.restart(&["--max-connections", "64"]);
    let open = || std::os::unix::net::UnixStream::connect(served.socket()).unwrap();
    let silent: Vec<_> = (0..60).map(|_| open()).collect();
    assert_eq!(served.get("/readyz").1, "200");
    drop(silent);
    // A head without end.
    let mut endless = open();
    endless.set_read_timeout(None).unwrap();
    let flood = std::thread::spawn(move || {
        use std::io::Write as _;
        let _ = endless.write_all(b"GET / HTTP/1.1\r\n");
        while endless.write_all(b"X-Header: 0123456789012345678901234567890123456789\r\n").is_ok() {}
        let mut rest = Vec::new();
        let _ = endless.read_to_end(&mut rest);
    });
    flood.join().unwrap();
    assert_eq!(served.get("/readyz").1, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_does_not_read_its_input_holds_up_no_other_call_of_the_connection() {
    let served = Served::new();
    let client = Client::connect(served.socket()).await.unwrap();
    let parameters = json!({ "command": "echo deaf; sleep 1000", "stdin_stream": true });
    let mut deaf = client.execute_stream(request("shell.exec.v1", &parameters).unwrap()).await.unwrap();
    let input = deaf.take_input().unwrap();
    while !matches!(deaf.next().await.unwrap(), Some(ExecutionEvent::Stdout(_))) {}
    let sender = tokio::spawn(async move { while input.stdin(vec![0; 64 << 10].into()).await.is_ok() {} });
    for _ in 0..5 {
        let outcome = client.execute(request("shell.exec.v1", &json!({ "command": "true" })).unwrap()).await.unwrap();
        assert_eq!(outcome.exit_code, Some(0));
    }
    drop(deaf);
    while !served.outcomes().iter().any(|outcome| outcome["reason"] == "cancelled") {
        tokio::task::yield_now().await;
    }
    sender.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_client_streams_input_and_output_by_grpc() {
    let served = Served::new();
    let client = Client::connect(served.socket()).await.unwrap();
    assert!(client.capabilities().await.unwrap().iter().any(|capability| capability.name == "shell.exec.v1"));
    let parameters = json!({ "command": "cat", "stdin_stream": true });
    let mut execution = client.execute_stream(request("shell.exec.v1", &parameters).unwrap()).await.unwrap();
    let input = execution.take_input().unwrap();
    input.stdin("hello".into()).await.unwrap();
    let mut output = Vec::new();
    let mut input = Some(input);
    let outcome = loop {
        match execution.next().await.unwrap().unwrap() {
            ExecutionEvent::Stdout(bytes) => {
                output.extend(bytes);
                if output == b"hello" {
                    // The end of the input ends the command.
                    input = None;
                }
            }
            ExecutionEvent::Ended(outcome) => break outcome,
            _ => {}
        }
    };
    assert!(input.is_none());
    assert_eq!((output.as_slice(), outcome.exit_code), (&b"hello"[..], Some(0)));
}
