//! Which requests are answered, and by which key.

use crate::place::{Remote, object};
use agentd_client::{Client, ClientError, request};
use serde_json::json;

const PATHS: [&str; 12] = [
    "/",
    "/v1/capabilities",
    "/v1/capabilities/shell.exec.v1",
    "/v1/intents",
    "/v1/approvals",
    "/openapi.json",
    "/readyz",
    "/metrics",
    "/mcp",
    "/no/such/path",
    "/healthz/x",
    "//healthz",
];

#[test]
fn stranger_gets_the_same_refusal_everywhere_but_for_liveness() {
    let remote = Remote::new();
    let mut bodies = Vec::new();
    for path in PATHS {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "BREW"] {
            let (body, status) = remote.get(None, path, &["--path-as-is", "--request", method]);
            assert_eq!(status, "401", "{method} {path}: {body}");
            bodies.push(body);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(remote.get(None, "/healthz", &[]), ("ok\n".to_owned(), "200".to_owned()));
    let head = remote.raw(b"GET /v1/capabilities HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.to_lowercase().contains("www-authenticate: bearer realm=\"agentd\""), "{head}");
}

#[test]
fn credential_of_any_other_form_is_refused() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    assert_eq!(remote.get(Some(&key), "/v1/capabilities", &[]).1, "200");
    let mut flipped = key.clone().into_bytes();
    flipped[40] = if flipped[40] == b'0' { b'1' } else { b'0' };
    let wrong =
        [key[..95].to_owned(), key.to_uppercase(), String::from_utf8(flipped).unwrap(), format!("{key}0"), "x".to_owned()];
    let (missing, _) = remote.get(None, "/v1/capabilities", &[]);
    let mut refusals = Vec::new();
    for text in wrong {
        let (body, status) = remote.get(Some(&text), "/v1/capabilities", &[]);
        assert_eq!(status, "401", "{text}");
        refusals.push(body);
    }
    let header = |text: String| remote.get(None, "/v1/capabilities", &["--header", &text]);
    for text in [format!("Authorization: Basic {key}"), format!("Authorization: {key}"), "Authorization: Bearer".to_owned()] {
        let (body, status) = header(text);
        assert_eq!(status, "401");
        refusals.push(body);
    }
    let twice = ["--header", &format!("Authorization: Bearer {key}")];
    refusals.push(remote.get(Some(&key), "/v1/capabilities", &twice).0);
    refusals.dedup();
    assert!(refusals.len() == 1 && refusals[0] != missing, "{refusals:?}");
    // Addresses are logged on the way.
    assert_eq!(remote.get(None, &format!("/v1/capabilities?access_token={key}"), &[]).1, "401");
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_holds_for_the_next_request_of_an_open_connection() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    let client = Client::builder(&remote.url).api_key(&key).unwrap().connect().await.unwrap();
    let outcome = client.execute(request("shell.exec.v1", &json!({ "command": "echo by key" })).unwrap()).await.unwrap();
    assert!(outcome.result_json().contains("by key\\n"), "{outcome:?}");
    assert!(client.health().await.unwrap().ready);
    remote.good(&["key", "revoke", &key[7..23]]);
    let Err(ClientError::Call(error)) = client.health().await else { panic!("the key is revoked") };
    assert_eq!((error.code as i32, error.reason.as_str()), (16, "unauthenticated"));
    assert_eq!(remote.get(Some(&key), "/v1/capabilities", &[]).1, "401");
    // A restarted daemon knows it, too.
    let (root, _) = remote.end();
    let remote = Remote::with(root, &[], "off");
    assert_eq!(remote.get(Some(&key), "/v1/capabilities", &[]).1, "401");
}

#[test]
fn expired_key_is_refused() {
    let remote = Remote::new();
    let key = remote.good(&["key", "create", "ci", "--expires", "1s"]);
    let (mut body, mut status) = (String::new(), String::new());
    while status != "401" {
        (body, status) = remote.get(Some(key.trim_end()), "/v1/capabilities", &[]);
    }
    let unknown = "0".repeat(16);
    assert!(body.contains("neither revoked nor expired") && !body.contains(&unknown), "{body}");
    assert!(remote.good(&["key", "ls"]).contains("expired"));
}

#[test]
fn restricted_key_permits_its_capabilities_and_transports_only() {
    let remote = Remote::new();
    let reader = remote.key("reader", &["--capability", "fs.read.v1", "--transport", "rest", "--transport", "mcp-http"]);
    std::fs::write(remote.path("work/file"), "content").unwrap();
    let workspace = json!({ "path": remote.path("work").canonicalize().unwrap() });
    let body = json!({ "capability": "fs.read.v1", "parameters": { "path": "file" }, "workspace": workspace });
    let read = object(&remote.post(&reader, "/v1/intents", &body, &[]).output().unwrap());
    assert_eq!(read["result"]["content"], "content", "{read}");
    let (problem, status) = crate::place::answer(&remote.shell(&reader, "echo hello", &[]).output().unwrap());
    assert!(status == "403" && problem.contains("outside-scope") && problem.contains("\"receipt\""), "{problem}");
    let called = remote.tool(&reader, "shell_exec_v1", &json!({ "command": "echo hello" }));
    assert_eq!((&called["status"], &called["reason"]), (&json!("refused"), &json!("outside-scope")), "{called}");
    let (problem, status) = remote.get(Some(&reader), "/metrics", &[]);
    assert!(status == "403" && problem.contains("outside-scope"), "{problem}");
    let scraper = remote.key("prometheus", &["--transport", "metrics"]);
    assert_eq!(remote.get(Some(&scraper), "/metrics", &[]).1, "200");
    for path in ["/v1/capabilities", "/v1/approvals", "/mcp"] {
        assert_eq!(remote.get(Some(&scraper), path, &[]).1, "403", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_by_grpc_need_a_key_for_grpc() {
    let remote = Remote::new();
    let by_rest = remote.key("ci", &["--transport", "rest"]);
    let reason = |result: Result<agentd_client::v1::HealthResponse, ClientError>| match result.unwrap_err() {
        ClientError::Call(error) => error.reason,
        other => panic!("{other:?}"),
    };
    let stranger = Client::builder(&remote.url).connect().await.unwrap();
    assert_eq!(reason(stranger.health().await), "unauthenticated");
    let other = Client::builder(&remote.url).api_key(&by_rest).unwrap().connect().await.unwrap();
    assert_eq!(reason(other.health().await), "outside-scope");
}

#[test]
fn key_on_the_unix_socket_names_its_service_and_not_the_operator() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    let socket = remote.path("data/serve/agentd.sock").display().to_string();
    let decide = |key: Option<&str>| {
        let options =
            ["--unix-socket", &socket, "--header", "Content-Type: application/json", "--data-binary", "{\"decision\":\"deny\"}"];
        remote.get(key, "/v1/approvals/00000000000000000000000000000000", &options)
    };
    assert!(decide(None).0.contains("no-approval"));
    assert!(decide(Some(&key)).0.contains("not-an-approver"));
    assert_eq!(decide(Some("agentd_wrong")).1, "401", "a wrong key is not the operator");
}
