//! The first process of a sandbox, which agentd starts before it has planned the run, and partly before it has parsed its
//! arguments.

use super::place::{RunDir, has_groups};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

/// Returns the children of a process with one thread.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn run_starts_only_the_first_process_of_its_sandbox() {
    let place = RunDir::new();
    let mut all: Vec<&[&str]> = vec![
        &[],
        &["--workspace", "none", "--timeout", "100s"],
        &["--net", "host"],
        &["--profile=strict"],
        &["--backend", "container"],
        &["--backend", "linux-native"],
        &["--allow-degraded"],
    ];
    if has_groups() {
        all.extend([&["--memory", "64M"][..], &["--pids=20"], &["--cpus", "1"]]);
    }
    for options in all {
        let options = [options, &["-i"]].concat();
        let mut run = place.command(&options, &["sh", "-c", "echo started; read line"]);
        let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "started\n", "{options:?}");
        let launchers = children(run.id());
        assert_eq!(launchers.len(), 1, "{options:?}");
        assert_eq!(children(launchers[0]).len(), 1, "{options:?}");
        drop(run.stdin.take());
        run.wait().unwrap();
    }
}
