//! Signals that agentd receives while its command runs.

use crate::place::{RunDir, json};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
};

/// A command that leaves an incomplete file, unless a signal handler removes it before the command ends.
pub const HALF_MADE: &str = "trap 'rm half; exit 3' INT TERM HUP; touch half; echo; sleep 1000 & wait";

/// Starts a command and waits until it has printed a byte.
pub fn started(place: &RunDir, options: &[&str], script: &str) -> Child {
    let mut child = place.command(options, &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0u8; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    child
}

pub fn signal(child: &Child, signal: i32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(),
        rustix::process::Signal::from_named_raw(signal).unwrap(),
    )
    .unwrap();
}

/// Sends any signal, also one without a name.
fn signal_by_number(child: &Child, number: i32) {
    let kill = Command::new("/bin/kill").args([format!("-{number}"), child.id().to_string()]).status().unwrap();
    assert!(kill.success(), "{number}");
}

/// Starts a run with `--json` whose command creates the file `mark`, and waits for that file.
fn started_json(place: &RunDir, mark: i32) -> Child {
    let script = format!("touch {mark}; sleep 1000");
    let child = place.command(&["--json"], &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    while !place.work().join(mark.to_string()).exists() {
        std::thread::yield_now();
    }
    child
}

/// Returns whether a process has exactly this command line. (A launcher shows that of its parent.)
pub fn alive(command: &str) -> bool {
    let line = command.replace(' ', "\0") + "\0";
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|e| fs::read(e.path().join("cmdline")).is_ok_and(|found| found == line.as_bytes()))
}

/// Waits up to 30 s for a process whose output is not read, and returns its exit code.
pub fn ends_by_itself(mut child: Child) -> Option<i32> {
    for _ in 0..300 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    child.kill().unwrap();
    panic!("the process did not exit within 30 s: {:?}", child.wait());
}

#[test]
fn stop_signal_kills_all_processes_of_command() {
    let place = RunDir::new();
    for (number, signal, code) in [(1, libc::SIGINT, 130), (2, libc::SIGTERM, 143)] {
        let seconds = format!("77{number}{}", std::process::id());
        let script = format!("echo; trap '' INT TERM; setsid sleep {seconds} & sleep {seconds}");
        let mut child = started(&place, &["--grace", "100ms"], &script);
        self::signal(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(code), None));
        assert!(!alive(&format!("sleep {seconds}")));
    }
}

#[test]
fn stop_signal_reaches_the_command_before_it_is_killed() {
    let place = RunDir::new();
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let mut child = started(&place, &["--grace", "1h"], HALF_MADE);
        self::signal(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!place.work().join("half").exists());
    }
}

#[test]
fn second_stop_signal_kills_at_once() {
    let place = RunDir::new();
    let mut child = started(&place, &["--grace", "1h"], "trap 'echo' INT; echo; sleep 1000 & wait; wait; sleep 1000");
    signal(&child, libc::SIGINT);
    child.stdout.as_mut().unwrap().read_exact(&mut [0u8; 1]).unwrap();
    signal(&child, libc::SIGINT);
    assert_eq!(ends_by_itself(child), Some(130));
}

#[test]
fn second_stop_signal_ends_the_wait_for_a_sandbox_that_does_not_end() {
    let place = RunDir::new();
    // The launcher is the parent of the supervisor. While it is stopped, it destroys no sandbox.
    let script = "read -r _ _ _ launcher _ </proc/$PPID/stat; kill -STOP $launcher; echo $launcher";
    let options = ["--backend", "host-direct", "--net", "host", "--grace", "1h"];
    let mut child = place.command(&options, &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    let launcher: i32 = line.trim().parse().unwrap();
    // Signals that come at once count as one.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if std::time::Instant::now() > deadline => break None,
            None => self::signal(&child, libc::SIGINT),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    if status.is_none() {
        child.kill().unwrap();
    }
    rustix::process::kill_process(rustix::process::Pid::from_raw(launcher).unwrap(), rustix::process::Signal::CONT).unwrap();
    assert_eq!(status.expect("agentd waits for its sandbox").code(), Some(130));
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
    assert!(errors.contains("processes of the sandbox may still run"), "{errors}");
}

#[test]
fn real_time_signal_ends_agentd_with_its_json_object() {
    let place = RunDir::new();
    for number in [libc::SIGRTMIN(), libc::SIGRTMIN() + 7, libc::SIGRTMAX()] {
        let child = started_json(&place, number);
        signal_by_number(&child, number);
        let output = child.wait_with_output().unwrap();
        let said = json(&output);
        assert_eq!((output.status.code(), &said["reason"]), (Some(128 + number), &Value::from("cancelled")), "{number}: {said}");
    }
}

#[test]
fn signal_that_the_c_library_reserves_does_not_end_agentd() {
    let place = RunDir::new();
    for number in [32, 33] {
        let child = started_json(&place, number);
        signal_by_number(&child, number);
        signal(&child, libc::SIGTERM);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &json(&output)["reason"]), (Some(143), &Value::from("cancelled")), "{number}");
    }
}

#[test]
fn json_object_is_printed_when_a_signal_ends_agentd() {
    let place = RunDir::new();
    let numbers = [libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGPROF, libc::SIGXCPU, libc::SIGPWR];
    for number in numbers {
        let here = place.work().join(number.to_string());
        let script = format!("touch {number}; sleep 1000");
        let child = place.command(&["--json"], &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        while !here.exists() {
            std::thread::yield_now();
        }
        signal(&child, number);
        let output = child.wait_with_output().unwrap();
        let said = json(&output);
        assert_eq!((output.status.code(), &said["reason"]), (Some(128 + number), &Value::from("cancelled")), "{number}: {said}");
    }
}

/// The number of runs in which a signal must have come during a comparison.
const COMPARISONS: u32 = 50;

/// Creates a protected file whose digest takes some time.
fn large_protected_file(place: &RunDir) {
    fs::File::create(place.work().join("CLAUDE.md")).unwrap().set_len(60 << 20).unwrap();
}

fn causes(said: &Value) -> Vec<&str> {
    said["protected_not_compared"].as_array().unwrap().iter().map(|gap| gap["cause"].as_str().unwrap()).collect()
}

#[test]
fn signal_during_the_comparison_after_a_run_ends_it_and_what_was_left_out_is_reported() {
    let place = RunDir::new();
    large_protected_file(&place);
    let made = place.work().join("made");
    for _ in 0..COMPARISONS {
        fs::remove_file(&made).ok();
        let mut child = place.command(&["--json"], &["touch", "made"]).stdout(Stdio::piped()).spawn().unwrap();
        let open = format!("/proc/{}/fd", child.id());
        let is_compared = || {
            let mut files = fs::read_dir(&open).into_iter().flatten().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            made.exists() && files.any(|file| file.ends_with("CLAUDE.md"))
        };
        while !is_compared() && child.try_wait().unwrap().is_none() {}
        // If agentd has ended, nothing receives the signal.
        if child.try_wait().unwrap().is_none() {
            self::signal(&child, libc::SIGINT);
        }
        let output = child.wait_with_output().unwrap();
        let said = json(&output);
        assert_eq!(said["reason"], "exited", "{said}");
        if causes(&said) == ["interrupted"] {
            assert_eq!((output.status.code(), &said["exit_code"]), (Some(130), &0.into()), "{said}");
            assert_eq!(said["protected_incomplete"], true, "{said}");
            return;
        }
        assert!(causes(&said).is_empty(), "{said}");
    }
    panic!("no signal came during a comparison");
}

#[test]
fn time_limit_ends_the_comparison_before_a_run_and_what_was_left_out_is_reported() {
    let place = RunDir::new();
    large_protected_file(&place);
    let output = place.command(&["--json", "--timeout", "1ms"], &["sleep", "1000"]).output().unwrap();
    let said = json(&output);
    assert_eq!((output.status.code(), &said["reason"]), (Some(124), &"wall-deadline".into()), "{said}");
    assert_eq!(causes(&said), ["interrupted"], "{said}");
}
