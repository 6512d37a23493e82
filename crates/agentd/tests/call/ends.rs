//! How a call ends that a signal stops, and one whose receipt cannot be written.

use super::{User, object};
use serde_json::{Value, json};
use std::process::Output;

/// Starts a call whose command creates a file and waits, sends a signal to agentd, and returns how the call ended.
fn stopped(user: &User, capability: &str, parameters: &Value, (signal, is_json): (&str, bool)) -> Output {
    let parameters = parameters.to_string();
    let options: &[&str] = if is_json { &["--json"] } else { &[] };
    let mut command = user.command(&[&["call", capability, "--params", &parameters], options].concat());
    let call = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    user.wait_for("work/begun");
    let sent = std::process::Command::new("kill").args([signal, &call.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = call.wait_with_output().unwrap();
    std::fs::remove_file(user.path("work/begun")).unwrap();
    output
}

#[test]
fn signal_ends_a_call_with_the_exit_code_and_the_message_of_a_run() {
    let user = User::new();
    let waits = |command: &str| (("shell.exec.v1"), json!({ "command": command }));
    let cell = json!({ "language": "python", "session": "a", "source": "open('begun', 'w')\nimport time; time.sleep(1000)" });
    for (capability, parameters) in [
        waits("touch begun; exec sleep 1000"),
        // The command ends by itself when it is asked to, as if nothing had happened.
        waits("trap 'exit 0' INT TERM; touch begun; while :; do sleep 0.01; done"),
        ("code.run.v1", json!({ "language": "bash", "source": "touch begun; exec sleep 1000" })),
        ("code.run.v1", cell),
    ] {
        for (signal, number) in [("-INT", 2), ("-TERM", 15)] {
            let output = stopped(&user, capability, &parameters, (signal, false));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(128 + number), "{parameters} {said}");
            assert!(said.contains(&format!("agentd: command stopped: agentd received signal {number}\n")), "{parameters} {said}");
            let output = stopped(&user, capability, &parameters, (signal, true));
            assert_eq!((output.status.code(), &object(&output)["reason"]), (Some(128 + number), &json!("cancelled")));
        }
    }
}

#[test]
fn result_is_printed_if_the_receipt_cannot_be_written() {
    let user = User::new();
    for (options, is_json) in [(&["--json"][..], true), (&[], false)] {
        std::fs::create_dir(user.path("work/gone")).unwrap();
        let parameters = json!({ "command": "rmdir gone; printf out" }).to_string();
        let call = [&["call", "shell.exec.v1", "--params", &parameters, "--receipt", "gone/receipt"], options].concat();
        let output = user.run(&call);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(125) && said.contains("receipt"), "{output:?}");
        if is_json {
            assert_eq!(object(&output)["result"]["stdout"]["text"], "out");
        } else {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "out");
        }
    }
}
