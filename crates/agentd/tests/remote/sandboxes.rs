//! Named sandboxes of services: their life cycle by every transport, and that nobody sees those of others.

use crate::place::{Remote, answer, folder, object};
use agentd_client::{Client, ClientError, v1};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};

impl Remote {
    /// Sends a request about sandboxes. Returns the parsed body and the status.
    fn rest(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> (Value, String) {
        let text = body.unwrap_or_else(|| json!({})).to_string();
        let options = ["--request", method, "--header", "Content-Type: application/json", "--data-binary", &text];
        let options = if method == "GET" { &options[..2] } else { &options[..] };
        let (body, status) = self.get(Some(key), &format!("/v1/sandboxes{path}"), options);
        (serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")), status)
    }

    fn create(&self, key: &str, name: &str) {
        let (body, status) = self.rest(key, "POST", "", Some(json!({ "sandbox": name })));
        assert_eq!(status, "201", "{body}");
    }

    fn in_sandbox(&self, key: &str, name: &str, script: &str, options: &[&str]) -> std::process::Command {
        let body = json!({ "capability": "shell.exec.v1", "parameters": { "command": script }, "sandbox": name });
        self.post(key, "/v1/intents", &body, options)
    }

    fn output(&self, key: &str, name: &str, script: &str) -> String {
        let object = object(&self.in_sandbox(key, name, script, &[]).output().unwrap());
        object["result"]["stdout"]["text"].as_str().unwrap_or_else(|| panic!("{object}")).to_owned()
    }

    fn names(&self, key: &str) -> Vec<String> {
        let (body, status) = self.rest(key, "GET", "", None);
        assert_eq!(status, "200", "{body}");
        body["sandboxes"].as_array().unwrap().iter().map(|one| one["sandbox"].as_str().unwrap().to_owned()).collect()
    }

    /// Ends the process that keeps the sandboxes.
    fn end_sandboxes(&self) {
        self.good(&["daemon", "stop"]);
    }
}

/// Checks why a sandbox was not suspended: an ordinary user without a delegated control group cannot do so.
fn assert_lacks_freezer(message: &str) {
    assert!(message.contains("find a writable cgroup with the freezer controller"), "{message}");
    assert!(!rustix::process::geteuid().is_root(), "{message}");
}

#[test]
fn sandbox_lives_by_rest_from_its_creation_to_its_end() {
    let remote = Remote::new();
    let key = remote.key("alice", &[]);
    let work = remote.path("work").canonicalize().unwrap();
    let new = json!({ "sandbox": "dev", "workspace": { "path": work }, "limits": { "open_files": 100 }, "idle_ttl_s": 3600 });
    let (created, status) = remote.rest(&key, "POST", "", Some(new.clone()));
    assert_eq!((status.as_str(), &created["owner"], &created["backend"]), ("201", &json!("service:alice"), &json!("container")));
    assert_eq!((&created["limits"]["open_files"], &created["workspace"]["read_only"]), (&json!(100), &json!(false)));
    assert_eq!(remote.rest(&key, "POST", "", Some(new)).0["code"], "sandbox-exists");
    // Files in the root of the sandbox are kept, and so are those in the workspace.
    assert_eq!(remote.output(&key, "dev", "ulimit -n; echo one > ~/kept; echo two > shared"), "100\n");
    assert_eq!(remote.output(&key, "dev", "cat ~/kept"), "one\n");
    assert_eq!(std::fs::read_to_string(work.join("shared")).unwrap(), "two\n");
    assert_eq!(remote.rest(&key, "POST", "/dev/snapshots", Some(json!({ "snapshot": "one" }))).1, "201");
    assert_eq!(remote.rest(&key, "POST", "/dev/snapshots", Some(json!({ "snapshot": "one" }))).0["code"], "snapshot-exists");
    remote.output(&key, "dev", "rm ~/kept; echo new > ~/new");
    let changes = |query: &str| {
        let (body, status) = remote.rest(&key, "GET", &format!("/dev/diff{query}"), None);
        assert_eq!(status, "200", "{body}");
        let texts = body["changes"].as_array().unwrap().iter().map(|one| format!("{} {}", one["kind"], one["path"]));
        texts.collect::<Vec<_>>().join("\n")
    };
    let since = changes("?since=one");
    assert!(since.contains("\"removed\"") && since.contains("/kept\"") && since.contains("\"added\""), "{since}");
    assert!(!changes("").contains("/kept\""), "the file did not exist at the creation");
    let (forked, status) = remote.rest(&key, "POST", "/dev/fork", Some(json!({ "new": "copy", "snapshot": "one" })));
    assert_eq!((status.as_str(), &forked["parent"], &forked["owner"]), ("201", &json!("dev@one"), &json!("service:alice")));
    assert_eq!(remote.output(&key, "copy", "cat ~/kept; cat ~/new 2>/dev/null"), "one\n");
    assert_eq!(remote.rest(&key, "POST", "/dev/restore", Some(json!({ "snapshot": "one" }))).1, "200");
    assert_eq!(remote.output(&key, "dev", "cat ~/kept"), "one\n");
    assert_eq!(remote.rest(&key, "POST", "/dev/restore", Some(json!({ "snapshot": "none" }))).0["code"], "unknown-snapshot");
    let written = remote.rest(&key, "PUT", "/dev/file", Some(json!({ "path": "/tmp/bytes", "base64": "/wAK" })));
    assert_eq!(written.0["length"], 3, "{written:?}");
    let read = remote.rest(&key, "GET", "/dev/file?path=/tmp/bytes&offset=1", None).0;
    assert_eq!((&read["size"], &read["content"], &read["encoding"]), (&json!(3), &json!("\0\n"), &json!("text")));
    let paused = remote.rest(&key, "POST", "/dev/suspend", None).0;
    if paused["state"] == "paused" {
        assert_eq!(remote.rest(&key, "POST", "/dev/resume", None).0["state"], "live");
    } else {
        assert_lacks_freezer(&paused.to_string());
    }
    let proven = remote.rest(&key, "GET", "/dev/capabilities", None).0;
    assert_eq!((&proven["proven"], &proven["claims"]["filesystem_isolation"]), (&json!(true), &json!(true)), "{proven}");
    assert_eq!(remote.names(&key), ["copy", "dev"]);
    let page = remote.rest(&key, "GET", "?limit=1", None).0;
    assert_eq!((&page["sandboxes"][0]["sandbox"], &page["next"]), (&json!("copy"), &json!("copy")));
    let page = remote.rest(&key, "GET", "?limit=1&cursor=copy", None).0;
    assert_eq!((&page["sandboxes"][0]["sandbox"], page.get("next")), (&json!("dev"), None));
    for name in ["dev", "copy"] {
        assert_eq!(remote.rest(&key, "DELETE", &format!("/{name}"), None).1, "200");
        assert_eq!(remote.rest(&key, "GET", &format!("/{name}"), None).0["code"], "unknown-sandbox");
    }
    let gone = object(&remote.in_sandbox(&key, "dev", "echo here", &[]).output().unwrap());
    assert_eq!((&gone["status"], &gone["error"]["code"]), (&json!("failed"), &json!("unknown-sandbox")));
    // Each operation has a decision and an outcome in the audit log.
    let log = remote.good(&["audit", "tail", "--json", "-n", "200"]);
    for capability in ["sandbox.create.v1", "sandbox.fork.v1", "sandbox.restore.v1", "sandbox.terminate.v1"] {
        assert!(log.contains(capability), "{capability}");
    }
    remote.end_sandboxes();
}

#[test]
fn sandbox_of_one_service_does_not_exist_for_another() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    remote.create(&alice, "dev");
    assert_eq!(remote.names(&bob), [""; 0]);
    // The name under which the sandbox is stored is of no use either.
    let operator = remote.good(&["sandbox", "ls", "--json"]);
    let stored: Vec<Value> = serde_json::from_str(&operator).unwrap();
    let stored = stored[0]["name"].as_str().unwrap();
    assert_eq!(stored.parse::<String>().unwrap().rsplit('-').next(), Some("dev"));
    let without_ids = |(body, status): (Value, String), name: &str| {
        let text = body["detail"].as_str().unwrap_or_else(|| panic!("{body}")).replace(name, "NAME");
        (text, body["code"].clone(), status)
    };
    for name in ["dev", stored] {
        for (method, path, body) in [
            ("GET", "", None),
            ("DELETE", "", None),
            ("GET", "/capabilities", None),
            ("GET", "/diff", None),
            ("GET", "/file?path=/etc/passwd", None),
            ("POST", "/suspend", None),
            ("POST", "/resume", None),
            ("POST", "/snapshots", Some(json!({ "snapshot": "s" }))),
            ("POST", "/restore", Some(json!({ "snapshot": "created" }))),
            ("POST", "/fork", Some(json!({ "new": "mine" }))),
            ("PUT", "/file", Some(json!({ "path": "/tmp/x", "text": "x" }))),
        ] {
            let theirs = without_ids(remote.rest(&bob, method, &format!("/{name}{path}"), body.clone()), name);
            let unknown = without_ids(remote.rest(&bob, method, &format!("/nobody{path}"), body), "nobody");
            assert_eq!(theirs, unknown, "{method} {path}");
            assert_eq!(theirs.2, "404", "{method} {path}: {theirs:?}");
        }
        let exec = object(&remote.in_sandbox(&bob, name, "id", &[]).output().unwrap());
        assert_eq!(exec["error"]["code"], "unknown-sandbox", "{exec}");
    }
    // The names of two services do not collide.
    remote.create(&bob, "dev");
    remote.output(&bob, "dev", "echo bob > ~/who");
    assert_eq!(remote.output(&alice, "dev", "cat ~/who 2>/dev/null || echo nobody"), "nobody\n");
    assert_eq!(remote.rest(&bob, "DELETE", "/dev", None).1, "200");
    assert_eq!(remote.names(&alice), ["dev"]);
    // The user who runs the daemon sees the sandboxes of all.
    let socket = remote.path("data/serve/agentd.sock").display().to_string();
    let all = std::process::Command::new("curl")
        .args(["--silent", "--unix-socket", &socket, "http://localhost/v1/sandboxes"])
        .output()
        .unwrap();
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!((&all["sandboxes"][0]["sandbox"], &all["sandboxes"][0]["owner"]), (&json!(stored), &json!("service:alice")));
    remote.end_sandboxes();
}

#[test]
fn caller_gets_no_more_confinement_than_policies_grant() {
    let remote = Remote::new();
    let key = remote.key("alice", &[]);
    for (wider, code) in [
        (json!({ "sandbox": "a", "workspace": { "path": "/" } }), "invalid-request"),
        (json!({ "sandbox": "a", "workspace": { "path": remote.path("other") } }), "invalid-request"),
        (json!({ "sandbox": "a", "network": { "allow": ["example.com"] } }), "exceeds-policy"),
        (json!({ "sandbox": "a", "profile": "permissive" }), "exceeds-policy"),
    ] {
        let (body, status) = remote.rest(&key, "POST", "", Some(wider));
        assert_eq!(body["code"], code, "{status} {body}");
    }
    assert_eq!(remote.names(&key), [""; 0]);
    remote.create(&key, "dev");
    let body = json!({ "capability": "shell.exec.v1", "parameters": { "command": "id" }, "sandbox": "dev",
        "workspace": { "path": remote.path("work").canonicalize().unwrap() } });
    let (text, status) = answer(&remote.post(&key, "/v1/intents", &body, &[]).output().unwrap());
    assert!(status == "422" && text.contains("invalid-parameters"), "{text}");
    // A key for other capabilities neither creates nor uses sandboxes.
    let narrow = remote.key("alice", &["--capability", "shell.exec.v1"]);
    assert_eq!(remote.rest(&narrow, "DELETE", "/dev", None).0["code"], "outside-scope");
    assert_eq!(remote.names(&key), ["dev"]);
    remote.end_sandboxes();
}

#[test]
fn hostile_names_are_refused_and_create_nothing() {
    let remote = Remote::new();
    let key = remote.key("alice", &[]);
    let long = "x".repeat(41);
    for name in ["", ".", "..", "../dev", "a/b", "/dev", "A", "a b", "a\n", "a\u{0}", "\u{1b}[2J", "ä", &long] {
        let (body, status) = remote.rest(&key, "POST", "", Some(json!({ "sandbox": name })));
        assert_eq!((status.as_str(), &body["code"]), ("422", &json!("invalid-parameters")), "{name:?}: {body}");
    }
    for name in ["of-a", "session-a"] {
        assert_eq!(remote.rest(&key, "POST", "", Some(json!({ "sandbox": name }))).0["code"], "reserved-name");
    }
    for path in ["/..%2f..%2fetc", "/%2e%2e", "/a%00", "/a%0ab", &format!("/{}", "x".repeat(500))] {
        let (body, status) = remote.rest(&key, "GET", path, None);
        assert!(["404", "422"].contains(&status.as_str()), "{path}: {body}");
    }
    assert_eq!(remote.names(&key), [""; 0]);
}

#[test]
fn concurrent_creations_stop_at_the_limit_of_a_service() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    let creations: Vec<_> = (0..40)
        .map(|number| {
            let body = json!({ "sandbox": format!("s{number}") });
            remote.post(&alice, "/v1/sandboxes", &body, &[]).spawn().unwrap()
        })
        .collect();
    let answers: Vec<_> = creations.into_iter().map(|child| answer(&child.wait_with_output().unwrap())).collect();
    let created = answers.iter().filter(|(_, status)| status == "201").count();
    let refused = answers.iter().filter(|(body, status)| status == "429" && body.contains("too-many-sandboxes")).count();
    assert_eq!((created, refused), (32, 8), "{answers:?}");
    assert_eq!(remote.names(&alice).len(), 32);
    let (fork, _) =
        remote.rest(&alice, "POST", &format!("/{}/fork", remote.names(&alice)[0]), Some(json!({ "new": "one-more" })));
    assert_eq!(fork["code"], "too-many-sandboxes");
    // The limit is that of each service.
    remote.create(&bob, "dev");
    remote.end_sandboxes();
}

#[test]
fn termination_ends_a_running_command() {
    let remote = Remote::new();
    let key = remote.key("alice", &[]);
    remote.create(&key, "dev");
    let options = ["--header", "Accept: text/event-stream"];
    let mut running = remote.in_sandbox(&key, "dev", "echo started; exec sleep 1000", &options).spawn().unwrap();
    let mut events = BufReader::new(running.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(events.any(|line| line.contains("started")));
    assert_eq!(remote.rest(&key, "GET", "/dev", None).0["commands"], 1);
    let (body, status) = remote.rest(&key, "DELETE", "/dev", None);
    assert_eq!(status, "200", "{body}");
    let ended: Value = events.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).last().unwrap();
    running.wait().unwrap();
    assert_ne!(ended["exit_code"], 0, "{ended}");
    assert_eq!(ended["status"], "finished", "{ended}");
    running.wait().unwrap();
    assert_eq!(remote.names(&key), [""; 0]);
    remote.end_sandboxes();
}

#[test]
fn repeated_creation_with_the_same_key_is_one() {
    let remote = Remote::new();
    let key = remote.key("alice", &[]);
    let create = || {
        let options = ["--header", "Idempotency-Key: once"];
        answer(&remote.post(&key, "/v1/sandboxes", &json!({ "sandbox": "dev" }), &options).output().unwrap())
    };
    let first = create();
    assert_eq!((create(), first.1.as_str()), (first.clone(), "201"));
    remote.end_sandboxes();
}

#[test]
fn sandboxes_survive_the_daemons_and_stay_with_their_principals() {
    let mut remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    for key in [&alice, &bob] {
        remote.create(key, "dev");
    }
    remote.output(&alice, "dev", "echo kept > ~/kept");
    remote.signal("KILL");
    remote.daemon.wait().unwrap();
    let root = std::mem::replace(&mut remote.root, folder());
    let killed = Remote::with(root, &[], "off");
    drop(remote);
    // The process that keeps the sandboxes ends, too.
    killed.end_sandboxes();
    assert_eq!((killed.names(&alice), killed.names(&bob)), (vec!["dev".to_owned()], vec!["dev".to_owned()]));
    assert_eq!(killed.output(&alice, "dev", "cat ~/kept"), "kept\n");
    assert_eq!(killed.output(&bob, "dev", "cat ~/kept 2>/dev/null || echo none"), "none\n");
    assert_eq!(killed.rest(&alice, "GET", "/dev", None).0["owner"], "service:alice");
    killed.end_sandboxes();
}

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_lives_by_grpc_from_its_creation_to_its_end() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    let connect = async |key: &str| Client::builder(&remote.url).api_key(key).unwrap().connect().await.unwrap();
    let (client, other) = (connect(&alice).await, connect(&bob).await);
    let new = v1::CreateSandboxRequest { sandbox: "dev".to_owned(), ttl_s: Some(3600), ..Default::default() };
    let created = client.create_sandbox(new.clone()).await.unwrap();
    assert_eq!(
        (created.owner.as_str(), created.state(), created.ttl_s),
        ("service:alice", v1::SandboxState::Stopped, Some(3600))
    );
    let reason = |error: ClientError| match error {
        ClientError::Call(error) => error.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(client.create_sandbox(new).await.unwrap_err()), "sandbox-exists");
    let write =
        v1::WriteFileRequest { sandbox: "dev".to_owned(), path: "/root/f".to_owned(), content: b"\xff\x00".to_vec().into() };
    client.write_file(write).await.unwrap();
    let mut request = agentd_client::request("shell.exec.v1", &json!({ "command": "wc -c < f" })).unwrap();
    request.sandbox = Some("dev".to_owned());
    let outcome = client.execute(request.clone()).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&outcome.result_json.unwrap()).unwrap()["stdout"]["text"], "2\n");
    client.snapshot_sandbox("dev", "one").await.unwrap();
    let fork = v1::ForkSandboxRequest { sandbox: "dev".to_owned(), new_sandbox: "copy".to_owned(), ..Default::default() };
    assert_eq!(client.fork_sandbox(fork).await.unwrap().parent.as_deref(), Some("dev"));
    let file =
        |sandbox: &str| v1::ReadFileRequest { sandbox: sandbox.to_owned(), path: "/root/f".to_owned(), ..Default::default() };
    let read = client.read_file(file("copy")).await.unwrap();
    assert_eq!((read.size, &read.content[..]), (2, &b"\xff\x00"[..]));
    let diff = v1::DiffSandboxRequest { sandbox: "dev".to_owned(), ..Default::default() };
    let changes = client.diff_sandbox(diff).await.unwrap().changes;
    assert!(changes.iter().any(|one| one.path == "/root/f" && one.kind() == v1::ChangeKind::Added), "{changes:?}");
    match client.suspend_sandbox("dev").await {
        Ok(paused) => {
            assert_eq!(paused.state(), v1::SandboxState::Paused);
            assert_eq!(client.resume_sandbox("dev").await.unwrap().state(), v1::SandboxState::Live);
        }
        Err(error) => assert_lacks_freezer(&error.to_string()),
    }
    client.restore_sandbox("dev", "created").await.unwrap();
    assert!(client.sandbox_capabilities("dev").await.unwrap().proven);
    assert_eq!(client.sandboxes().await.unwrap().len(), 2);
    assert_eq!(other.sandboxes().await.unwrap(), []);
    for error in [
        other.sandbox("dev").await.unwrap_err(),
        other.terminate_sandbox("dev").await.unwrap_err(),
        other.restore_sandbox("dev", "one").await.unwrap_err(),
        other.read_file(file("dev")).await.unwrap_err(),
    ] {
        assert_eq!(reason(error), "unknown-sandbox");
    }
    assert_eq!(other.execute(request).await.unwrap().error.unwrap().code, "unknown-sandbox");
    for name in ["dev", "copy"] {
        client.terminate_sandbox(name).await.unwrap();
    }
    assert_eq!(client.sandboxes().await.unwrap(), []);
    remote.end_sandboxes();
}

#[test]
fn sandbox_lives_by_mcp_from_its_creation_to_its_end() {
    let remote = Remote::new();
    let (alice, bob) = (remote.key("alice", &[]), remote.key("bob", &[]));
    let call = |key: &str, tool: &str, arguments: Value| remote.tool(key, tool, &arguments);
    let created = call(&alice, "sandbox_create_v1", json!({ "sandbox": "dev" }));
    assert_eq!(created["result"]["owner"], "service:alice", "{created}");
    let run = |key: &str, script: &str| call(key, "shell_exec_v1", json!({ "command": script, "_sandbox": "dev" }));
    run(&alice, "echo kept > ~/kept");
    assert_eq!(run(&alice, "cat ~/kept")["result"]["stdout"]["text"], "kept\n");
    let both = json!({ "command": "ls", "_sandbox": "dev", "_workspace": remote.path("work").canonicalize().unwrap() });
    assert_eq!(call(&alice, "shell_exec_v1", both)["reason"], "invalid-parameters");
    call(&alice, "sandbox_snapshot_v1", json!({ "sandbox": "dev", "snapshot": "one" }));
    let forked = call(&alice, "sandbox_fork_v1", json!({ "sandbox": "dev", "new": "copy" }));
    assert_eq!(forked["result"]["parent"], "dev", "{forked}");
    let diff = call(&alice, "sandbox_diff_v1", json!({ "sandbox": "dev" }));
    assert!(diff["result"]["changes"].to_string().contains("/kept"), "{diff}");
    assert_eq!(call(&bob, "sandbox_list_v1", json!({}))["result"]["sandboxes"], json!([]));
    assert_eq!(run(&bob, "id")["error"]["code"], "unknown-sandbox");
    assert_eq!(call(&bob, "sandbox_terminate_v1", json!({ "sandbox": "dev" }))["error"]["code"], "unknown-sandbox");
    for name in ["dev", "copy"] {
        assert_eq!(call(&alice, "sandbox_terminate_v1", json!({ "sandbox": name }))["result"]["sandbox"], *name);
    }
    assert_eq!(call(&alice, "sandbox_list_v1", json!({}))["result"]["sandboxes"], json!([]));
    remote.end_sandboxes();
}
