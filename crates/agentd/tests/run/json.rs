//! The object that `--json` prints.

use crate::ends::ends;
use crate::json_document::is_documented;
use crate::place::{RunDir, has_groups, json, program, text};
use crate::signals::signal;
use serde_json::Value;
use std::process::{Command, Stdio};

#[test]
fn command_with_json_reports_output_and_enforced_controls() {
    let place = RunDir::new();
    assert_eq!(text(&place.run(&[], &["python3", "-c", "print(6*7)"]).stdout), "42\n");
    let said = json(&place.run(&["--json"], &["python3", "-c", "print(6*7)"]));
    assert_eq!((said["stdout"]["text"].as_str(), said["exit_code"].as_i64()), (Some("42\n"), Some(0)));
    for what in ["files", "processes", "network", "syscalls"] {
        assert_eq!(said["enforced"][what], true, "{what}");
    }
    assert_eq!(said["degraded"], Value::Array(Vec::new()));
}

#[test]
fn host_direct_reports_no_enforced_control() {
    let place = RunDir::new();
    let said = json(&place.run(&["--json", "--backend", "workstation"], &["echo", "hi"]));
    assert_eq!(said["stdout"]["text"], "hi\n");
    for what in ["files", "processes", "network", "syscalls"] {
        assert_eq!(said["enforced"][what], false, "{what}");
    }
}

#[test]
fn json_object_is_printed_for_every_end() {
    let place = RunDir::new();
    let cases: [(&[&str], &str, i32); 5] = [
        (&[], "no-such-program", 127),
        (&[], "/etc/passwd", 126),
        (&["--workspace", "/no/such/place"], "true", 125),
        (&["--backend", "docker"], "true", 125),
        (&["--memroy", "1G"], "true", 125),
    ];
    for (options, program, code) in cases {
        let output = place.run(&[&["--json"], options].concat(), &[program]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(json(&output)["error"].is_string(), "{output:?}");
    }
    let script = "touch here; trap 'exit 3' TERM; echo; sleep 1000 & wait";
    let child = place.command(&["--json"], &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    while !place.work().join("here").exists() {
        std::thread::yield_now();
    }
    signal(&child, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let said = json(&output);
    assert_eq!((output.status.code(), &said["reason"]), (Some(143), &Value::from("cancelled")), "{said}");
    if has_groups() {
        ends(&["--memory", "32M"], &["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=64k"], "out-of-memory", 137);
    }
}

#[test]
fn json_with_closed_standard_output_fails_before_command_starts() {
    let place = RunDir::new();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#""$0" run --json -- touch ran >&-"#, &program()]).current_dir(place.work());
    let output = shell.env("HOME", place.root.path().join("home")).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("standard output is closed"), "{output:?}");
    assert!(!place.work().join("ran").exists());
}

#[test]
fn keys_of_objects_are_those_of_the_document() {
    let place = RunDir::new();
    let run = json(&place.run(&["--json"], &["sh", "-c", "echo created >.envrc"]));
    assert_eq!(run["protected_changes"][0]["change"], "created", "{run}");
    let failed = json(&place.run(&["--json", "--workspace", "/no/such/place"], &["true"]));
    is_documented("`agentd run --json`", 0, &[&run, &failed]);
    let doctor = Command::new(program()).args(["doctor", "--json", "--backend", "linux-native"]).output().unwrap();
    let direct = Command::new(program()).args(["doctor", "--json", "--backend", "host-direct"]).output().unwrap();
    is_documented("`agentd doctor --json`", 0, &[&json(&doctor), &json(&direct)]);
}
