//! Progress, and the end of calls that the client no longer wants.

use crate::client::{Client, Era, User, runs, wait_for, wait_for_end};
use serde_json::{Value, json};

/// Begins a command that has descendants in sessions of their own, and returns the id of the request.
fn begin(client: &mut Client, user: &User, marker: &str) -> u64 {
    let script = format!("setsid sh -c 'sleep {marker}' & (setsid sleep {marker} &); echo ready; touch begun; sleep {marker}");
    let id = client.begin("tools/call", json!({ "name": "shell_exec_v1", "arguments": { "command": script } }));
    wait_for(&user.path("work/begun"));
    assert!(runs(&format!("sleep {marker}")));
    id
}

#[test]
fn cancellation_kills_all_processes_and_the_server_goes_on() {
    for (era, marker) in [(Era::Old("2025-11-25"), "99001"), (Era::New, "99002")] {
        let user = User::new();
        let mut client = Client::start(&user, era);
        let id = begin(&mut client, &user, marker);
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } }));
        wait_for_end(&format!("sleep {marker}"));
        assert_eq!(client.shell("echo on")["result"]["stdout"]["text"], "on\n");
    }
}

#[test]
fn client_that_is_killed_leaves_no_process() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    begin(&mut client, &user, "99003");
    client.close();
    assert!(!runs("sleep 99003"), "all processes have ended before the server ends");
}

#[test]
fn signal_ends_the_server_and_its_commands() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    begin(&mut client, &user, "99004");
    let pid = i32::try_from(client.child.id()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(client.child.wait().unwrap().code(), Some(128 + 15));
    assert!(!runs("sleep 99004"));
}

#[test]
fn progress_is_told_while_a_command_runs() {
    let user = User::new();
    for era in [Era::Old("2025-11-25"), Era::New] {
        let mut client = Client::start(&user, era);
        let params = json!({
            "name": "shell_exec_v1",
            "arguments": { "command": "echo half way; until [ -e go ]; do sleep 0.02; done; rm go" },
            "_meta": { "progressToken": "p1" },
        });
        let id = client.begin("tools/call", params);
        let mut last = -1.0;
        loop {
            let notice = client.receive();
            assert_eq!((&notice["method"], &notice["params"]["progressToken"]), (&json!("notifications/progress"), &json!("p1")));
            let progress = notice["params"]["progress"].as_f64().unwrap();
            assert!(progress > last, "progress increases");
            last = progress;
            if notice["params"]["message"].as_str().unwrap().contains("half way") {
                break;
            }
        }
        std::fs::write(user.path("work/go"), "").unwrap();
        let (answer, _) = client.answer(id);
        assert_eq!(answer["result"]["structuredContent"]["status"], "finished", "{answer:#}");
    }
}

#[test]
fn without_a_token_no_progress_is_told() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let id = client.begin("tools/call", json!({ "name": "shell_exec_v1", "arguments": { "command": "echo a; sleep 1.5" } }));
    let (_, before): (Value, Vec<Value>) = client.answer(id);
    assert_eq!(before, Vec::<Value>::new());
}
