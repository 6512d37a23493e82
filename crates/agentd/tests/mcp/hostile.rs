//! Clients that break the rules: the server answers or ignores them, stays within bounds, and goes on.

use crate::client::{Client, Era, User};
use serde_json::{Value, json};
use std::io::Write as _;

/// Shows that the server still works.
fn works(client: &mut Client) {
    assert_eq!(client.shell("echo on")["result"]["stdout"]["text"], "on\n");
}

#[test]
fn malformed_messages_do_not_end_the_connection() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for text in [
        "",
        "{",
        "null",
        "[]",
        "1",
        "\"text\"",
        "{}",
        "{\"jsonrpc\":\"2.0\"}",
        "{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"tools/list\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"tools/list\"}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"no/such\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":{}}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":\"none\"}}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\"}",
        "\u{feff}{}",
        "\0\0\0",
        &deep,
    ] {
        client.send_text(&format!("{text}\n"));
    }
    client.input.as_mut().unwrap().write_all(b"\xff\xfe{}\n").unwrap();
    // The ids of the answers to malformed messages differ from those of the requests below.
    works(&mut client);
}

#[test]
fn messages_before_the_first_request_do_not_end_the_connection() {
    let user = User::new();
    let mut client = Client::raw(&user, &[]);
    for text in [
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{}}",
        "{\"jsonrpc\":\"2.0\",\"id\":4,\"error\":{\"code\":1,\"message\":\"m\"}}",
        "not JSON",
    ] {
        client.send_text(&format!("{text}\n"));
    }
    let info = json!({ "name": "test", "version": "1" });
    client.request("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info }));
    works(&mut client);
}

#[test]
fn endless_message_is_not_kept_in_memory() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let before = memory(&client);
    let part = "x".repeat(1 << 20);
    client.send_text("{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"");
    for _ in 0..200 {
        client.send_text(&part);
    }
    client.send_text("\"}\n");
    works(&mut client);
    let after = memory(&client);
    assert!(after < before + (60 << 10), "{before} KiB, then {after} KiB");
}

#[test]
fn thousands_of_calls_at_a_time_are_bounded_and_each_is_answered() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let mut input = client.input.take().unwrap();
    // Another thread writes, because the server stops reading while its answers are not read.
    let writer = std::thread::spawn(move || {
        for id in 1_000..4_000 {
            let params = json!({ "name": "shell_exec_v1", "arguments": { "command": "sleep 0.2" } });
            let request = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
            input.write_all(format!("{request}\n").as_bytes()).unwrap();
        }
        input
    });
    let mut answered = std::collections::BTreeSet::new();
    let (mut finished, mut refused) = (0, 0);
    while answered.len() < 3_000 {
        let answer = client.receive();
        assert!(answered.insert(answer["id"].as_u64().unwrap()), "answered twice");
        match &answer["result"]["structuredContent"]["status"] {
            Value::String(status) if status == "finished" => finished += 1,
            _ => refused += 1,
        }
    }
    assert!(finished >= 1 && refused >= 1, "{finished} finished, {refused} refused");
    client.input = Some(writer.join().unwrap());
    works(&mut client);
}

#[test]
fn client_that_does_not_read_stops_the_server_from_reading() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let input = client.input.take().unwrap();
    rustix::io::ioctl_fionbio(&input, true).unwrap();
    let request = format!("{}\n", json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/list", "params": {} }));
    let (mut sent, mut full) = (0u64, 0u32);
    // The pipe remains full once the server reads no more. A server without bounds would read for ever.
    while full < 200 {
        let request = request.replace("\"id\":5", &format!("\"id\":{}", 10_000 + sent));
        match (&input).write(request.as_bytes()) {
            Ok(written) if written == request.len() => (sent, full) = (sent + 1, 0),
            Ok(_) => full = 200,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                full += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        assert!(sent < 20_000, "the server reads more requests than it may hold");
    }
    let kept = memory(&client);
    assert!(kept < 400 << 10, "{kept} KiB");
}

#[test]
fn two_requests_with_one_id_are_not_mixed_up() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let call = |script: &str| json!({ "jsonrpc": "2.0", "id": 50, "method": "tools/call", "params": { "name": "shell_exec_v1", "arguments": { "command": script } } });
    client.send(&call("until [ -e go ]; do sleep 0.02; done; echo first"));
    client.send(&call("echo second"));
    assert_eq!(client.receive()["error"]["code"], -32600);
    std::fs::write(user.path("work/go"), "").unwrap();
    let answer = client.receive();
    assert_eq!(answer["result"]["structuredContent"]["result"]["stdout"]["text"], "first\n", "{answer:#}");
}

#[test]
fn arguments_of_the_wrong_kind_are_refused() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    for arguments in [
        json!({}),
        json!({ "command": 1 }),
        json!({ "command": "true", "_network": "a.example" }),
        json!({ "command": "true", "_network": ["bad host:99999"] }),
        json!({ "command": "true", "stdin_stream": 1 }),
        json!({ "command": "true", "env": { "A": "\0" } }),
        json!({ "argv": ["x".repeat(200_000)] }),
        json!({ "handle": {} }),
    ] {
        let result = client.call("shell_exec_v1", arguments);
        assert_eq!(result["isError"], true, "{result:#}");
    }
    works(&mut client);
}

/// Returns the memory of the server in KiB (`VmHWM` of `proc_pid_status(5)`).
fn memory(client: &Client) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
