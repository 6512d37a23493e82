//! Strangers that send too much, too slowly, or nothing at all.

use crate::place::{Remote, folder};
use std::io::{Read as _, Write as _};

#[test]
fn wrong_keys_are_refused_without_an_examination_after_some_failures() {
    let remote = Remote::new();
    let (known, late) = (remote.key("ci", &[]), remote.key("late", &[]));
    assert_eq!(remote.get(Some(&known), "/v1/capabilities", &[]).1, "200");
    let mut statuses = Vec::new();
    let mut last = String::new();
    for _ in 0..30 {
        let (body, status) = remote.get(Some("agentd_wrong"), "/v1/capabilities", &[]);
        statuses.push(status);
        last = body;
    }
    assert_eq!(statuses.iter().filter(|status| *status == "401").count(), 20, "{statuses:?}");
    assert!(statuses[20..].iter().all(|status| status == "429") && last.contains("retry_after_ms"), "{statuses:?} {last}");
    let head = remote.raw(b"GET /v1/approvals HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n");
    assert!(head.to_lowercase().contains("retry-after: "), "{head}");
    assert_eq!(remote.get(Some(&late), "/v1/capabilities", &[]).1, "429", "a key that this daemon has not seen yet");
    assert_eq!(remote.get(Some(&known), "/v1/capabilities", &[]).1, "200", "a client that has authenticated before");
    let socket = remote.path("data/serve/agentd.sock").display().to_string();
    assert_eq!(remote.get(Some(&late), "/v1/capabilities", &["--unix-socket", &socket]).1, "200", "another way");
}

#[test]
fn log_names_the_address_and_the_key_of_each_failure_within_bounds() {
    let remote = Remote::with(folder(), &[], "warn");
    let key = remote.key("ci", &[]);
    remote.good(&["key", "revoke", &key[7..23]]);
    for _ in 0..30 {
        remote.get(Some(&key), "/v1/capabilities", &[]);
    }
    let (_, log) = remote.end();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("refused a credential")).collect();
    assert_eq!(lines.len(), 20, "{log}");
    assert!(
        lines.iter().all(|line| line.contains("127.0.0.1") && line.contains(&key[7..23]) && line.contains("revoked")),
        "{log}"
    );
    assert!(lines[19].contains("not examined for a minute") && !lines[18].contains("not examined"), "{log}");
}

#[test]
fn stranger_is_refused_before_its_body_is_received() {
    let remote = Remote::new();
    let length = "Content-Type: application/json\r\nContent-Length: 10000000\r\n";
    for path in ["/v1/intents", "/mcp", "/agentd.v1.Agentd/Execute"] {
        let head = remote.raw(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{{\"capability\"").as_bytes());
        let is_refused = head.starts_with("HTTP/1.1 401") || head.contains("grpc-status: 16");
        assert!(is_refused, "{path}: {head}");
    }
    let chunked = "POST /v1/intents HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n{";
    assert!(remote.raw(chunked.as_bytes()).starts_with("HTTP/1.1 401"));
}

#[test]
fn endless_heads_end_the_connection() {
    let remote = Remote::new();
    for line in
        [&b"X-Header: 0123456789012345678901234567890123456789\r\n"[..], b"GET / HTTP/1.1 ", b"Authorization: Bearer agentd_"]
    {
        let mut stream = remote.connect();
        if line.starts_with(b"X") || line.starts_with(b"A") {
            stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        }
        while stream.write_all(line).is_ok() {}
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let many: String = (0..200).map(|number| format!("X-{number}: x\r\n")).collect();
    let head = remote.raw(format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes());
    assert!(head.starts_with("HTTP/1.1 431"), "{head}");
    assert_eq!(remote.get(None, "/healthz", &[]).1, "200");
}

#[test]
fn silent_strangers_keep_neither_the_operator_nor_others_out() {
    let remote = Remote::with(folder(), &["--max-connections", "32"], "off");
    let key = remote.key("ci", &[]);
    let silent: Vec<_> = (0..30).map(|_| remote.connect()).collect();
    assert_eq!(remote.get(Some(&key), "/v1/capabilities", &[]).1, "200");
    let all: Vec<_> = (0..40).map(|_| remote.connect()).collect();
    // The socket has places of its own.
    let socket = remote.path("data/serve/agentd.sock").display().to_string();
    assert_eq!(remote.get(None, "/readyz", &["--unix-socket", &socket]).1, "200");
    drop((silent, all));
    assert_eq!(remote.get(Some(&key), "/v1/capabilities", &[]).1, "200");
}
