//! `run --json` reports changes of protected paths, however the run ends.

use super::project::{Project, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{fs, io::Write, process::Stdio};

#[test]
fn json_reports_changes_after_supervisor_is_killed() {
    // Kill the supervisor, as a payload that compromised it could.
    let said = killed_while_running(|run| child(child(run)));
    assert_eq!(said["protected_incomplete"], false, "{said}");
}

#[test]
fn json_reports_incomplete_comparison_after_launcher_is_killed() {
    // Without its launcher, agentd does not know whether all processes of the sandbox ended.
    let said = killed_while_running(child);
    assert_eq!(said["protected_not_compared"][0]["cause"], "still-running", "{said}");
}

/// Kills the process that `victim` returns for that of `agentd run` while a command runs that created a protected path. Returns
/// the JSON object.
fn killed_while_running(victim: fn(Pid) -> Pid) -> Value {
    let project = Project::new();
    let script = "echo evil >AGENTS.md; echo ready >ready.new; mv ready.new ready; sleep 1000";
    let run = project.command(&["--json"], &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    while !project.path("ready").exists() {
        std::thread::yield_now();
    }
    kill_process(victim(Pid::from_child(&run)), Signal::KILL).unwrap();
    let said: Value = serde_json::from_slice(&run.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said["reason"], "backend-lost", "{said}");
    let path = said["protected_changes"][0]["path"].as_str().unwrap();
    assert!(path.ends_with("AGENTS.md"), "{said}");
    said
}

/// Returns the only child of a process.
fn child(parent: Pid) -> Pid {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

#[test]
fn json_object_that_cannot_be_printed_leaves_the_changes_on_standard_error() {
    let project = Project::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for stdout in [Stdio::from(full), Stdio::from(closed)] {
        fs::remove_file(project.path("AGENTS.md")).ok();
        let output = project.command(&["--json"], &["sh", "-c", "echo evil >AGENTS.md"]).stdout(stdout).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(said.matches("protected path created: ").count(), 1, "{output:?}");
        assert!(said.contains("AGENTS.md"), "{said}");
    }
}

#[test]
fn json_object_without_reader_leaves_changes_on_standard_error() {
    let project = Project::new();
    let (_unread, mut full) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&full, 4096).unwrap();
    full.write_all(&[b' '; 4096]).unwrap();
    let script = "echo evil >AGENTS.md; mkdir ready; sleep 1000";
    let mut run = project.command(&["--json"], &["sh", "-c", script]);
    let mut run = run.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    while !project.path("ready").exists() {
        std::thread::yield_now();
    }
    // The first signal ends the command, a later one the wait for a reader. A signal between the two would end the comparison.
    let pid = rustix::process::Pid::from_child(&run);
    let stop = || rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    stop();
    std::thread::sleep(std::time::Duration::from_secs(5));
    while run.try_wait().unwrap().is_none() {
        stop();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("protected path created: ") && said.contains("AGENTS.md"), "{output:?}");
}
