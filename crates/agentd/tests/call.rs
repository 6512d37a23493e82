//! `agentd call` and `agentd capability`, as a user runs them: validation, idempotency, policies, approvals, records and crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use json_document::is_documented;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;

#[path = "call/ends.rs"]
mod ends;
#[path = "support/json_document.rs"]
mod json_document;
#[path = "call/obligations.rs"]
mod obligations;
#[path = "call/quotas.rs"]
mod quotas;
#[path = "call/refusals.rs"]
mod refusals;

/// A user with a workspace, without any intents.
struct User(TempDir);

impl User {
    fn new() -> Self {
        let user = Self(tempfile::tempdir().unwrap());
        fs::create_dir(user.path("work")).unwrap();
        user
    }

    /// A user with these policies.
    fn with_policies(text: &str) -> Self {
        let user = Self::new();
        user.write("data/policy/enforced/test.cedar", text);
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that nobody else may change.
    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for above in path.parent().unwrap().ancestors().take_while(|above| above.starts_with(self.0.path())) {
            fs::set_permissions(above, fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
        command.args(args).current_dir(self.path("work")).env("AGENTD_DATA_DIR", self.path("data")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Calls a capability. Returns the exit code and the object.
    fn call(&self, capability: &str, parameters: &Value, options: &[&str]) -> (i32, Value) {
        let parameters = parameters.to_string();
        let output = self.run(&[&["call", capability, "--params", &parameters, "--json"], options].concat());
        (output.status.code().unwrap(), object(&output))
    }

    fn shell(&self, script: &str, options: &[&str]) -> (i32, Value) {
        self.call("shell.exec.v1", &json!({ "command": script }), options)
    }

    /// Returns the last leaves of the audit log.
    fn leaves(&self, count: u32) -> Vec<Value> {
        let text = self.good(&["audit", "tail", "--json", "-n", &count.to_string()]);
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["leaf"]["event"].clone()).collect()
    }

    fn receipt(&self) -> String {
        self.path("receipt").display().to_string()
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).map_or(0, |text| text.lines().count())
    }

    fn start(&self, script: &str, options: &[&str]) -> Child {
        let parameters = json!({ "command": script }).to_string();
        let mut command = self.command(&[&["call", "shell.exec.v1", "--params", &parameters, "--json"], options].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until the command of a call has written a file.
    fn wait_for(&self, name: &str) {
        while !self.path(name).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Returns the SHA-256 digest of a file, as `sha256sum` prints it.
fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn kinds(leaves: &[Value]) -> Vec<&str> {
    leaves.iter().map(|leaf| leaf.as_object().unwrap().keys().next().unwrap().as_str()).collect()
}

#[test]
fn call_returns_the_result_and_records_request_decision_and_outcome() {
    let user = User::new();
    let (code, object) = user.shell("printf out; printf err >&2; exit 3 # canary", &["--receipt", &user.receipt()]);
    assert_eq!((code, &object["status"], &object["duplicate"]), (3, &json!("finished"), &json!(false)), "{object:#}");
    assert_eq!(object["result"]["stdout"]["text"], "out");
    assert_eq!((&object["result"]["stderr"]["text"], &object["exit_code"]), (&json!("err"), &json!(3)));
    assert_eq!(object["decision"]["policies"], json!(["local"]));
    let leaves = user.leaves(3);
    assert_eq!(kinds(&leaves), ["intent", "decision", "outcome"]);
    let [intent, decision, outcome] =
        ["intent", "decision", "outcome"].map(|kind| leaves.iter().find_map(|leaf| leaf.get(kind)).unwrap());
    for leaf in [intent, decision, outcome] {
        assert_eq!((&leaf["id"], &leaf["intent"]), (&object["intent"], &object["digest"]));
    }
    assert_eq!(object["digest"], sha256(&user.path("receipt.intent")));
    assert_eq!(outcome["receipt"], sha256(&user.path("receipt")));
    assert_eq!((&decision["allowed"], &decision["policies"]), (&json!(true), &json!(["local"])));
    let words = user.good(&["receipt", "verify", "../receipt"]);
    assert!(words.contains("used shell.exec.v1") && words.contains("allowed, by local"), "{words}");
    assert!(words.contains("control seccomp: enforced") && words.contains("\nended: exited, exit code 3\n"), "{words}");
    let found = Command::new("grep").args(["-rl", "canary"]).arg(user.0.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the parameters are recorded");
}

#[test]
fn text_form_is_the_output_of_the_command() {
    let user = User::new();
    let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"argv":["printf","%s","a b; $(id)"]}"#]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"a b; $(id)"[..]), "{output:?}");
    let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"argv":["no-such-program"]}"#]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    user.write("work/p", r#"{"language":"bash","source":"echo $1; cat","args":["-x"]}"#);
    assert_eq!(user.good(&["call", "code.run.v1", "--params", "@p"]), "-x\n");
}

#[test]
fn invalid_parameters_are_refused_at_once_and_recorded() {
    let user = User::new();
    let parameters = json!({ "argv": [1], "cwd": "", "x": 1 });
    let (code, object) = user.call("shell.exec.v1", &parameters, &["--receipt", &user.receipt()]);
    assert_eq!((code, &object["status"], &object["reason"]), (77, &json!("refused"), &json!("invalid-parameters")));
    let violations = object["error"]["violations"].as_array().unwrap();
    let pointers: Vec<_> = violations.iter().map(|violation| violation["pointer"].as_str().unwrap()).collect();
    assert!(["/argv/0", "/cwd", ""].iter().all(|pointer| pointers.contains(pointer)), "{violations:?}");
    let leaves = user.leaves(3);
    assert_eq!(kinds(&leaves), ["intent", "decision", "outcome"]);
    assert_eq!(leaves[1]["decision"]["allowed"], false);
    let words = user.good(&["receipt", "verify", "../receipt"]);
    assert!(words.contains("decision: denied") && words.contains("\nended: invalid-parameters\n"), "{words}");
    assert_eq!(user.call("no.such.v1", &json!({}), &[]).0, 77);
}

#[test]
fn parameters_that_are_no_unambiguous_object_are_refused_before_anything_else() {
    let user = User::new();
    let deep = format!("{{\"command\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
    for parameters in ["[]", "{", r#"{"command":"id","command":"true"}"#, "@missing", &deep] {
        let output = user.run(&["call", "shell.exec.v1", "--params", parameters]);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(125), &b""[..]), "{parameters}");
    }
    assert!(!user.path("data").exists(), "nothing was recorded");
}

#[test]
fn repeated_key_returns_the_first_outcome_and_other_content_is_a_conflict() {
    let user = User::new();
    let (code, first) = user.shell("echo run >> count; echo $$; exit 4", &["--key", "k"]);
    let (again, second) = user.shell("echo run >> count; echo $$; exit 4", &["--key", "k"]);
    assert_eq!((code, again, user.lines("work/count")), (4, 4, 1));
    assert_eq!((&second["duplicate"], &second["intent"]), (&json!(true), &first["intent"]));
    assert_eq!((&second["result"], &second["receipt"]), (&first["result"], &first["receipt"]));
    let (code, other) = user.shell("echo other >> count", &["--key", "k"]);
    assert_eq!((code, &other["reason"]), (77, &json!("key-conflict")), "{other:#}");
    let less = user.shell("echo run >> count; echo $$; exit 4", &["--key", "k", "--timeout", "1m"]);
    assert_eq!(less.1["reason"], "key-conflict", "the confinement is a part of the intent");
    assert_eq!(user.lines("work/count"), 1);
    // A request that was refused did not use up its key.
    assert_eq!(user.shell("true", &["--key", "r", "--backend", "host-direct"]).0, 77);
    assert_eq!(user.shell("true", &["--key", "r"]).0, 0);
}

#[test]
fn concurrent_duplicates_are_executed_once() {
    let user = User::new();
    let script = "echo run >> count; until [ -e go ]; do sleep 0.01; done; echo done";
    let calls: Vec<_> = (0..6).map(|_| user.start(script, &["--key", "k"])).collect();
    user.wait_for("work/count");
    fs::write(user.path("work/go"), "").unwrap();
    let objects: Vec<_> = calls.into_iter().map(|call| object(&call.wait_with_output().unwrap())).collect();
    assert_eq!(user.lines("work/count"), 1);
    assert_eq!(objects.iter().filter(|object| object["duplicate"] == false).count(), 1);
    assert!(
        objects.iter().all(|object| object["intent"] == objects[0]["intent"] && object["result"]["stdout"]["text"] == "done\n")
    );
}

#[test]
fn intent_of_a_killed_agentd_ends_as_interrupted_and_is_not_executed_again() {
    let user = User::new();
    let script = "echo run >> count; sleep 1000";
    let mut call = user.start(script, &["--key", "k"]);
    user.wait_for("work/count");
    call.kill().unwrap();
    call.wait().unwrap();
    let (code, object) = user.shell(script, &["--key", "k"]);
    assert_eq!((code, &object["status"], &object["duplicate"]), (125, &json!("interrupted"), &json!(true)), "{object:#}");
    assert_eq!(user.shell(script, &["--key", "k"]).1["status"], "interrupted");
    assert_eq!(user.lines("work/count"), 1);
    let leaves = user.leaves(3);
    assert_eq!(kinds(&leaves), ["intent", "decision", "outcome"], "one outcome");
    assert_eq!((&leaves[2]["outcome"]["reason"], &leaves[2]["outcome"]["id"]), (&json!("interrupted"), &object["intent"]));
    user.good(&["state", "check"]);
}

#[test]
fn sandbox_of_an_intent_has_the_obligations_of_its_policies() {
    let socket = "python3 -c 'import socket; socket.socket(socket.AF_UNIX); print(\"made\")'";
    let files = "ulimit -n; ulimit -n 100 2>/dev/null && echo raised";
    let user = User::new();
    assert_eq!(user.shell(socket, &[]).1["result"]["stdout"]["text"], "made\n", "the default profile allows it");
    assert!(user.shell(files, &[]).1["result"]["stdout"]["text"].as_str().unwrap().ends_with("raised\n"));
    let user = User::with_policies(
        r#"@id("strict") @profile("strict") @timeout("2s") @open_files("64") permit (principal, action, resource);"#,
    );
    let (code, object) = user.shell(socket, &[]);
    assert_ne!(code, 0, "{object:#}");
    assert_eq!(object["sandbox"]["profile"], "strict");
    assert_eq!(user.shell(files, &[]).1["result"]["stdout"]["text"], "64\n");
    let (code, object) = user.shell("setsid sleep 1000 & trap '' TERM; sleep 1000", &[]);
    assert_eq!((code, &object["reason"]), (124, &json!("wall-deadline")), "{object:#}");
}

#[test]
fn capability_reaches_no_listener_of_the_host() {
    let user = User::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('reached')");
    let outside = Command::new("python3").args(["-c", &connect]).output().unwrap();
    assert_eq!(outside.stdout, b"reached\n", "{outside:?}");
    let (code, object) = user.call("code.run.v1", &json!({ "language": "python", "source": connect }), &[]);
    assert_eq!((code, &object["result"]["stdout"]["text"]), (1, &json!("")), "{object:#}");
}

#[test]
fn caller_cannot_widen_the_sandbox() {
    let user = User::with_policies(
        r#"@id("ci") @profile("strict") @timeout("30s") @open_files("64") permit (principal, action, resource);"#,
    );
    for options in [
        &["--profile", "default"][..],
        &["--timeout", "31s"],
        &["--open-files", "65"],
        &["--net", "host"],
        &["--net", "allow=a.example"],
        &["--backend", "host-direct"],
        &["--backend", "none"],
    ] {
        let (code, object) = user.shell("echo started > started", options);
        assert_eq!((code, &object["reason"]), (77, &json!("exceeds-policy")), "{options:?}: {object:#}");
    }
    let (code, object) = user.call("shell.exec.v1", &json!({ "command": "echo > started", "timeout_ms": 30_001 }), &[]);
    assert_eq!((code, &object["reason"]), (77, &json!("exceeds-policy")));
    assert!(!user.path("work/started").exists());
    assert_eq!(user.shell("true", &["--timeout", "20s", "--open-files", "32", "--net", "off"]).0, 0);
}

#[test]
fn policies_decide_about_the_workspace_and_its_access() {
    let user = User::new();
    let work = user.path("work").canonicalize().unwrap();
    let text =
        format!(r#"@id("read") permit (principal, action, resource in Path::"{}") when {{ !resource.write }};"#, work.display());
    user.write("data/policy/enforced/test.cedar", &text);
    let (code, object) = user.shell("echo > written", &[]);
    assert_eq!((code, &object["reason"]), (77, &json!("denied")), "{object:#}");
    let (code, object) = user.shell("echo > written", &["--workspace-ro"]);
    assert!(code != 0 && object["status"] == "finished", "{object:#}");
    assert!(!user.path("work/written").exists());
    fs::create_dir(user.path("other")).unwrap();
    assert_eq!(user.shell("true", &["--workspace", "../other", "--workspace-ro"]).0, 77);
    assert_eq!(user.shell("true", &["--workspace", "none"]).0, 77);
}

#[test]
fn nothing_is_executed_if_the_policies_are_lost_invalid_or_not_private() {
    let user = User::with_policies(r#"@id("all") permit (principal, action, resource);"#);
    assert_eq!(user.shell("true", &[]).0, 0);
    let file = user.path("data/policy/enforced/test.cedar");
    let refused = |cause: &str| {
        let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"command":"echo > started"}"#]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(cause), "{output:?}");
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
    refused("chmod go-w");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "permit").unwrap();
    refused("policies are refused");
    fs::remove_file(&file).unwrap();
    refused("read policies");
    assert!(!user.path("work/started").exists());
}

const ASK: &str = r#"@id("ask") @approval("ask the owner") permit (principal, action, resource);"#;

#[test]
fn approval_holds_an_intent_until_a_user_decides() {
    for (word, code, reason, files) in [("approve", 0, "exited", 1), ("deny", 77, "not-approved", 0)] {
        let user = User::with_policies(ASK);
        let call = user.start("echo run >> count", &[]);
        let id = loop {
            let pending: Value = serde_json::from_str(&user.good(&["approvals", "--json"])).unwrap();
            if let Some(id) = pending[0]["id"].as_str() {
                assert!(pending[0]["text"].as_str().unwrap().contains("ask the owner"), "{pending:#}");
                break id.to_owned();
            }
        };
        assert_eq!(user.lines("work/count"), 0, "nothing is executed before the decision");
        user.good(&[word, &id]);
        let output = call.wait_with_output().unwrap();
        let object = object(&output);
        assert_eq!((output.status.code(), &object["reason"]), (Some(code), &json!(reason)), "{object:#}");
        assert_eq!(user.lines("work/count"), files);
        let leaves = user.leaves(4);
        assert_eq!(kinds(&leaves), ["intent", "decision", "approval", "outcome"]);
        assert_eq!(leaves[2]["approval"]["approved"], word == "approve");
        assert!(leaves.iter().all(|leaf| leaf.as_object().unwrap().values().all(|leaf| leaf["intent"] == object["digest"])));
    }
}

#[test]
fn signal_ends_the_wait_for_an_approval_and_the_intent() {
    let user = User::with_policies(ASK);
    let call = user.start("echo run >> count", &["--key", "k"]);
    while user.good(&["approvals", "--json"]) == "[]\n" {}
    let killed = Command::new("kill").args(["-INT", &call.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = call.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &object(&output)["reason"]), (Some(77), &json!("cancelled")));
    assert_eq!(user.good(&["approvals", "--json"]), "[]\n");
    assert_eq!(
        (user.shell("echo run >> count", &["--key", "k"]).1["reason"].clone(), user.lines("work/count")),
        (json!("cancelled"), 0)
    );
}

const MANIFEST: &str = r#"
name = "text.count"
version = 1
description = "Counts words."
[annotations]
read_only = true
[sandbox]
workspace = "read-only"
[run]
argv = ["wc", "-w", { parameter = "file" }]
[parameters]
type = "object"
additionalProperties = false
required = ["file"]
properties.file = { type = "string" }
"#;

#[test]
fn operators_manifest_adds_a_capability_without_a_shell() {
    let user = User::new();
    user.write("data/capabilities/count.toml", MANIFEST);
    let name = "a b; touch x $(touch y)";
    fs::write(user.path("work").join(name), "one two\n").unwrap();
    let (code, object) = user.call("text.count.v1", &json!({ "file": name }), &[]);
    assert_eq!((code, &object["result"]["stdout"]["text"]), (0, &json!(format!("2 {name}\n"))), "{object:#}");
    assert_eq!(fs::read_dir(user.path("work")).unwrap().count(), 1);
    let (code, object) = user.call("text.count.v1", &json!({ "file": "--help" }), &[]);
    assert_eq!((code, &object["error"]["violations"][0]["pointer"]), (77, &json!("/file")));
    assert!(user.good(&["capability", "ls"]).contains("text.count.v1"));
    user.good(&["policy", "schema"]).find("text.count.v1").expect("policies may name it");
    let file = user.path("data/capabilities/count.toml");
    for (mode, text) in [(0o602, MANIFEST.to_owned()), (0o600, MANIFEST.replace("version = 1", "version = 1\nshell = true"))] {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(user.run(&["call", "shell.exec.v1", "--params", r#"{"command":"true"}"#]).status.code(), Some(125));
    }
}

#[test]
fn operations_on_files_return_exact_bytes_and_errors() {
    let user = User::new();
    let text = "line 'one' $HOME\n\u{0}\\n";
    let (code, object) = user.call("fs.write.v1", &json!({ "path": "f", "content": text }), &[]);
    assert_eq!((code, object["error"].is_null()), (0, true), "{object:#}");
    assert_eq!(fs::read_to_string(user.path("work/f")).unwrap(), text);
    let (code, object) = user.call("fs.read.v1", &json!({ "path": "f" }), &[]);
    assert_eq!((code, &object["result"]["content"]), (0, &json!(text)), "{object:#}");
    let (code, object) = user.call("fs.read.v1", &json!({ "path": "missing" }), &[]);
    assert_eq!((code, &object["error"]["code"], &object["reason"]), (1, &json!("not-found"), &json!("not-found")), "{object:#}");
    // A file outside of the workspace that belongs to this user.
    fs::write(user.path("secret"), "canary").unwrap();
    let (code, object) = user.call("fs.read.v1", &json!({ "path": user.path("secret") }), &[]);
    assert!(code != 0 && !object.to_string().contains("canary"), "{object:#}");
    let (code, _) = user.call("fs.read.v1", &json!({ "path": "--help" }), &[]);
    assert_eq!(code, 1, "a path is no option");
}

#[test]
fn watch_returns_the_changes_of_other_programs_in_the_workspace() {
    let user = User::new();
    fs::create_dir_all(user.path("work/src")).unwrap();
    fs::create_dir(user.path("outside")).unwrap();
    std::os::unix::fs::symlink(user.path("outside"), user.path("work/link")).unwrap();
    let parameters = json!({ "path": ".", "glob": ["*.rs"], "max_events": 2, "time_ms": 600_000 }).to_string();
    let mut command = user.command(&["call", "fs.watch.v1", "--params", &parameters, "--json"]);
    let mut call = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nothing says when the watch begins, so the changes are repeated until it has seen them.
    while call.try_wait().unwrap().is_none() {
        for name in ["outside/secret.rs", "work/src/other", "work/src/a.rs"] {
            fs::write(user.path(name), "x").unwrap();
            fs::remove_file(user.path(name)).unwrap();
        }
    }
    let object = object(&call.wait_with_output().unwrap());
    let events = object["result"]["events"].as_array().unwrap_or_else(|| panic!("{object:#}"));
    assert!(events.len() == 2 && events.iter().all(|event| event["path"] == "src/a.rs"), "{object:#}");
    assert_eq!((&object["result"]["ended"], &object["result"]["directories"]), (&json!("count"), &json!(2)));
    let (code, object) = user.call("fs.watch.v1", &json!({ "path": "src", "time_ms": 1 }), &[]);
    assert_eq!((code, &object["result"]["ended"], &object["result"]["events"]), (0, &json!("time"), &json!([])), "{object:#}");
    for path in ["link", "..", "/etc"] {
        let (code, object) = user.call("fs.watch.v1", &json!({ "path": path, "time_ms": 1 }), &[]);
        assert_eq!((code, &object["error"]["code"]), (1, &json!("outside")), "{path}: {object:#}");
    }
    let (code, object) = user.call("fs.watch.v1", &json!({ "path": "." }), &["--workspace", "none"]);
    assert_eq!((code, &object["reason"]), (77, &json!("invalid-parameters")), "{object:#}");
}

#[test]
fn json_objects_have_the_documented_keys() {
    let user = User::new();
    let done = user.shell("true", &[]).1;
    let refused = user.call("shell.exec.v1", &json!({ "x": 1 }), &[]).1;
    is_documented("`agentd call --json`", 0, &[&done, &refused]);
    let all: Value = serde_json::from_str(&user.good(&["capability", "ls", "--json"])).unwrap();
    assert!(all.as_array().unwrap().len() > 10);
    is_documented("`agentd capability`", 0, &[&all[0]]);
    let shown: Value = serde_json::from_str(&user.good(&["capability", "show", "--json", "fs.read.v1"])).unwrap();
    is_documented("`agentd capability`", 1, &[&shown]);
    assert!(user.good(&["capability", "show", "shell.exec.v1"]).contains("destructive, open-world"));
}

/// Limits of memory need a control group.
mod as_root {
    use super::*;

    #[test]
    fn memory_obligation_holds_in_the_sandbox() {
        let allocate = json!({ "language": "python", "source": "a = bytearray(256 << 20); print('allocated')" });
        let user = User::new();
        assert_eq!(user.call("code.run.v1", &allocate, &[]).1["result"]["stdout"]["text"], "allocated\n");
        let user = User::with_policies(r#"@id("small") @memory("64M") permit (principal, action, resource);"#);
        let (code, object) = user.call("code.run.v1", &allocate, &[]);
        assert_eq!((code, &object["result"]["stdout"]["text"]), (137, &json!("")), "{object:#}");
        assert_eq!(object["sandbox"]["limits"]["memory_bytes"], 64 << 20);
    }
}
