//! Sessions that are begun at the same time.

use crate::place::{User, object, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// The time after which another attempt is made to stop a process while it begins a session.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A cell that waits for the file `go`.
const WAITS: &str = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)";

fn start(user: &User, handle: &str) -> Child {
    user.cell_command("python", handle, WAITS, &[]).stdout(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Returns true if the process waits for a lock of `flock`.
fn waits_for_lock(child: &Child) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let waiting = locks.lines().filter(|line| line.contains("-> FLOCK"));
    waiting.into_iter().any(|line| line.split_ascii_whitespace().any(|word| word == child.id().to_string()))
}

/// Returns true once the store has a session with this handle.
fn is_recorded(user: &User, handle: &str) -> bool {
    let names = fs::read_dir(user.path("data/sandboxes/named")).into_iter().flatten().flatten();
    names.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(&format!("-python-{handle}")))
}

/// Two cells of one new session: the second one finds the session while the first one begins it, and waits for the interpreter
/// then. A cell of another session begins meanwhile.
#[test]
fn cell_that_waits_for_a_new_session_delays_no_other_session() {
    let user = User::new();
    for attempt in 0..6 {
        let handle = format!("s{attempt}");
        let first = start(&user, &handle);
        // Without a pause, as the session is begun soon after its record is written.
        while !is_recorded(&user, &handle) {
            std::hint::spin_loop();
        }
        signal(&first, Signal::STOP);
        let second = start(&user, &handle);
        let began = Instant::now();
        while !waits_for_lock(&second) && began.elapsed() < ATTEMPT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_in_time = waits_for_lock(&second);
        signal(&first, Signal::CONT);
        if is_in_time {
            until("the second cell waits for the interpreter", || !waits_for_lock(&second));
            let mut other = user.cell_command("python", "other", "6 * 7", &[]).stdout(Stdio::piped()).spawn().unwrap();
            until("a cell of another session ends", || other.try_wait().unwrap().is_some());
            assert_eq!(object(&other.wait_with_output().unwrap())["result"]["value"]["text/plain"], "42");
        }
        fs::write(user.path("work/go"), "").unwrap();
        let ends = [first, second].map(|cell| object(&cell.wait_with_output().unwrap()));
        let is_new = |end: &Value| end["result"]["session"]["new"] == true;
        assert!(ends.iter().filter(|end| is_new(end)).count() == 1 && ends.iter().all(|end| end["error"].is_null()), "{ends:#?}");
        if is_in_time {
            return;
        }
        fs::remove_file(user.path("work/go")).unwrap();
    }
    panic!("no process was stopped while it began a session");
}
