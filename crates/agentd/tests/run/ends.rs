//! The ends of a command: exit codes, limits, and a killed agentd.

use crate::place::{RunDir, has_groups, json};
use crate::signals::{HALF_MADE, alive, started};
use std::{fs, process::Output};

#[test]
fn exit_code_follows_shell_convention() {
    let place = RunDir::new();
    let cases: [(&[&str], i32); 5] = [
        (&["sh", "-c", "exit 7"], 7),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["true"], 0),
    ];
    for (command, code) in cases {
        assert_eq!(place.run(&[], command).status.code(), Some(code), "{command:?}");
    }
    let bad: [&[&str]; 7] = [
        &["--memroy", "1G"],
        &["--memory", "lots"],
        &["--timeout", "0"],
        &["--backend", "docker"],
        &["--workspace", "/no/such/place"],
        &["--env", "1=x"],
        &["--rw", "/"],
    ];
    for options in bad {
        let output = place.run(options, &["true"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{options:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

/// Runs with `--json`, and checks the reason and the exit code.
pub fn ends(options: &[&str], command: &[&str], reason: &str, code: i32) {
    let place = RunDir::new();
    let options: Vec<&str> = [&["--json"], options].concat();
    let output = place.run(&options, command);
    let said = json(&output);
    assert_eq!((said["reason"].as_str(), output.status.code()), (Some(reason), Some(code)), "{options:?} {command:?}: {said}");
}

#[test]
fn exceeded_limit_kills_command_and_is_the_reason() {
    ends(&["--timeout", "300ms"], &["sh", "-c", "sleep 600 & setsid sleep 600 & wait"], "wall-deadline", 124);
    ends(&["--max-output", "1M"], &["yes"], "output-limit", 137);
    ends(&["--file-size", "1M"], &["sh", "-c", "exec head -c 3000000 /dev/zero > big"], "file-size-limit", 153);
    ends(&["--pids", "64"], &["bash", "-c", ":(){ :|:& };:; sleep 600"], "process-limit", 137);
    if has_groups() {
        ends(&["--memory", "256M"], &["python3", "-c", "bytearray(2 << 30)"], "out-of-memory", 137);
        ends(
            &["--cpu-time", "1s"],
            &["sh", "-c", "while :; do sh -c 'i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done'; done"],
            "cpu-limit",
            137,
        );
    }
}

#[test]
fn timeout_sends_sigterm_before_sigkill() {
    let place = RunDir::new();
    let output = with_timeout_after_first_line(&place, &["--grace", "1h"], HALF_MADE);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert!(!place.work().join("half").exists());
    // Ignoring SIGTERM leads to SIGKILL, and `--grace 0` sends no SIGTERM.
    for (options, script) in
        [(["--grace", "100ms"], "trap '' TERM; touch half; echo; sleep 1000 & wait; sleep 1000"), (["--grace", "0"], HALF_MADE)]
    {
        let output = with_timeout_after_first_line(&place, &options, script);
        assert_eq!(output.status.code(), Some(124), "{output:?}");
        fs::remove_file(place.work().join("half")).unwrap();
    }
}

/// Runs a script with a timeout that ends after the script's first line of output. No fixed time is long enough on a busy
/// machine, so repeats with ever longer timeouts.
fn with_timeout_after_first_line(place: &RunDir, options: &[&str], script: &str) -> Output {
    let mut seconds = 1;
    loop {
        let timeout = format!("{seconds}s");
        let options = [&["--timeout", &timeout], options].concat();
        let output = place.run(&options, &["sh", "-c", script]);
        if !output.stdout.is_empty() {
            return output;
        }
        assert!(seconds < 600, "no output before the timeout: {output:?}");
        seconds *= 2;
    }
}

#[test]
fn kill_of_agentd_kills_command() {
    let place = RunDir::new();
    let seconds = format!("773{}", std::process::id());
    let mut child = started(&place, &[], &format!("echo; setsid sleep {seconds} & sleep {seconds}"));
    child.kill().unwrap();
    child.wait().unwrap();
    while alive(&format!("sleep {seconds}")) {
        std::thread::yield_now();
    }
}
