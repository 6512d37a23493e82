//! Changes of protected paths that no client has received when a sandbox, or the daemon, ends: none is lost.

use crate::json_document::is_documented;
use crate::place::{SandboxDir, kill, runs, text, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    process::{Output, Stdio},
};

/// Creates a sandbox in which a detached command has created `.envrc` in the workspace, and then runs `then`.
fn changed_by_detached_command(options: &[&str], then: &str) -> SandboxDir {
    let place = SandboxDir::new();
    let work = place.path("work");
    fs::create_dir(&work).unwrap();
    place.agentd(&[&["create", "dev", "--workspace", work.to_str().unwrap()], options].concat());
    let script = format!("echo evil >.envrc; mkdir done; {then}");
    let output = place.output(&["exec", "-d", "--cwd", work.to_str().unwrap(), "dev", "--", "sh", "-c", &script]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    until("the command has created the file", || work.join("done").exists());
    place
}

/// A command that runs until the sandbox ends.
const RUNS_ON: &str = "sleep 1000";

fn daemon(place: &SandboxDir, args: &[&str]) -> Output {
    let output = place.agentd_itself().arg("daemon").args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

/// Asserts that text has exactly one warning about the file.
fn warns_once(said: &str) {
    assert_eq!(said.matches("protected path created: ").count(), 1, "{said}");
    assert!(said.contains("/work/.envrc"), "{said}");
}

#[test]
fn rm_reports_a_change_by_a_command_that_still_runs() {
    let place = changed_by_detached_command(&[], RUNS_ON);
    let output = place.output(&["rm", "dev"]);
    assert!(output.status.success(), "{output:?}");
    warns_once(&text(&output.stderr));

    let place = changed_by_detached_command(&[], RUNS_ON);
    place.agentd(&["create", "other"]);
    // A sandbox that cannot be removed does not hide the report about another one.
    let output = place.output(&["rm", "--json", "other", "dev", "none"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said[0]["name"], &said[0]["protected_changes"]), (&"other".into(), &serde_json::json!([])), "{said}");
    assert_eq!(said[1]["name"], "dev", "{said}");
    let [change] = &said[1]["protected_changes"].as_array().unwrap()[..] else { panic!("{said}") };
    assert_eq!(change["change"], "created", "{said}");
    assert!(change["path"].as_str().unwrap().ends_with("/work/.envrc"), "{said}");
    assert_eq!((&said[1]["protected_incomplete"], &said[1]["protected_omitted"]), (&false.into(), &serde_json::json!([])));
    is_documented("`agentd sandbox`", 1, &[&said[1]]);
}

#[test]
fn regrant_reports_a_change_that_no_client_has_received() {
    let place = changed_by_detached_command(&[], "");
    until("the command has ended", || place.agentd(&["logs", "dev"]).contains("created: "));
    let output = place.output(&["regrant", "dev"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "unchanged\n"), "{output:?}");
    warns_once(&text(&output.stderr));
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());

    let place = changed_by_detached_command(&[], "");
    until("the command has ended", || place.agentd(&["logs", "dev"]).contains("created: "));
    let said: Value = serde_json::from_str(&place.agentd(&["regrant", "--json", "dev"])).unwrap();
    assert_eq!((&said["name"], &said["changes"]), (&"dev".into(), &serde_json::json!([])), "{said}");
    assert_eq!(said["protected_changes"][0]["change"], "created", "{said}");
    is_documented("`agentd sandbox`", 1, &[&said]);
    place.agentd(&["snapshot", "dev", "clean"]);
    let all: Value = serde_json::from_str(&place.agentd(&["ls", "--json"])).unwrap();
    let one: Value = serde_json::from_str(&place.agentd(&["inspect", "dev"])).unwrap();
    is_documented("`agentd sandbox`", 0, &[&all[0], &one]);
    // The status names only sandboxes with processes.
    place.sh("dev", "true");
    let daemon = daemon(&place, &["status", "--json"]);
    is_documented("`agentd daemon status --json`", 0, &[&serde_json::from_slice(&daemon.stdout).unwrap()]);
}

#[test]
fn daemon_that_ends_logs_a_change_by_a_command_that_still_runs_and_the_next_daemon_reports_it() {
    let place = changed_by_detached_command(&[], RUNS_ON);
    daemon(&place, &["stop"]);
    warns_once(&place.agentd(&["logs", "dev"]));
    warns_once(&text(&place.output(&["exec", "dev", "--", "true"]).stderr));
    // Each change is reported once, even if the daemon ends in the meantime.
    daemon(&place, &["stop"]);
    assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty());
    place.is_whole();
}

#[test]
fn report_of_an_ended_daemon_is_given_by_rm() {
    let place = changed_by_detached_command(&[], RUNS_ON);
    daemon(&place, &["stop"]);
    warns_once(&text(&place.output(&["rm", "dev"]).stderr));
}

#[test]
fn change_in_an_expired_sandbox_is_in_the_log_of_the_daemon() {
    let place = changed_by_detached_command(&["--ttl", "10s"], RUNS_ON);
    until("the sandbox is removed", || place.agentd(&["ls"]).is_empty());
    let log = || text(&daemon(&place, &["log"]).stdout);
    until("the change is in the log", || log().contains("/work/.envrc"));
    assert!(log().lines().any(|line| line.contains("WARN") && line.contains("protected path created: ")), "{}", log());
}

/// Kills the daemon, and waits until the processes of its sandboxes have ended.
fn kill_daemon(place: &SandboxDir, mark: &str) {
    until("the command runs", || runs(&format!("sleep\0{mark}")));
    kill(place.daemon().unwrap());
    until("the command has ended", || !runs(&format!("sleep\0{mark}")));
}

#[test]
fn change_after_the_last_comparison_of_a_killed_daemon_is_reported_once_by_the_next_client() {
    let mark = format!("{}", 500_000 + std::process::id());
    for (number, report) in [&["exec", "dev", "--", "true"][..], &["rm", "dev"], &["regrant", "dev"]].into_iter().enumerate() {
        let mark = format!("{mark}{number}");
        let place = changed_by_detached_command(&[], &format!("sleep {mark}"));
        kill_daemon(&place, &mark);
        let output = place.output(report);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said.matches("protected path not compared before: ").count(), 1, "{said}");
        assert!(said.contains("/work/.envrc") && said.contains("the daemon was killed"), "{said}");
        if report[0] != "rm" {
            assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty(), "{report:?}");
            // An orderly end leaves nothing to report.
            daemon(&place, &["stop"]);
            assert!(place.output(&["exec", "dev", "--", "true"]).stderr.is_empty(), "{report:?}");
        }
    }
}

#[test]
fn client_that_a_signal_ends_before_its_command_is_started_starts_no_command() {
    let place = SandboxDir::new();
    place.agentd(&["create", "dev"]);
    place.sh("dev", "true");
    let daemon = place.daemon().unwrap();
    // The daemon answers nothing: it could as well compare protected paths for a long time.
    kill_process(daemon, Signal::STOP).unwrap();
    let mut client = place.command(&["exec", "dev", "--", "touch", "/started"]).stdin(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_child(&client);
    let mut ended = None;
    until("the client handles signals", || handles_interrupt(pid));
    kill_process(pid, Signal::INT).unwrap();
    until("the client has ended", || {
        ended = client.try_wait().unwrap();
        ended.is_some()
    });
    kill_process(daemon, Signal::CONT).unwrap();
    assert_eq!(ended.unwrap().code(), Some(130));
    assert!(!place.output(&["exec", "dev", "--", "test", "-e", "/started"]).status.success());
}

/// Returns whether a process has a handler for SIGINT (`proc_pid_status(5)`).
fn handles_interrupt(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (libc::SIGINT - 1)) != 0
}
