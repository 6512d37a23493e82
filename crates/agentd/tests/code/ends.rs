//! How cells and sessions end: time limits, kills of every process, and removal.

use crate::place::{User, kill, mark, runs, until};
use serde_json::json;
use std::process::Stdio;

#[test]
fn time_limit_interrupts_the_cell_and_the_session_survives() {
    let user = User::new();
    for (language, before, endless) in [
        ("python", "x = 1", "while True: pass"),
        ("python", "x = 1", "import time; time.sleep(1000)"),
        ("node", "var x = 1", "while (true) {}"),
        ("node", "x = 1", "new Promise(() => {})"),
        ("bash", "x=1", "while :; do :; done"),
        ("bash", "x=1", "sleep 1000"),
    ] {
        user.cell(language, "a", before);
        let (code, object) = user.cell_with(language, "a", endless, &["--timeout", "1s"]);
        assert_eq!((code, &object["reason"]), (124, &json!("wall-deadline")), "{language} {endless}: {object:#}");
        assert_eq!(object["result"]["session"]["lost"], false, "{language} {endless}");
    }
    assert_eq!(user.python("a", "x")["value"]["text/plain"], "1");
    assert_eq!(user.cell("node", "a", "x")["value"]["text/plain"], "1");
    assert_eq!(user.cell("bash", "a", "echo $x")["stdout"]["text"], "1\n");
}

#[test]
fn cell_that_ignores_the_interrupt_is_killed_and_its_session_reported_as_lost() {
    let user = User::new();
    let mark = mark(2);
    let source = format!(
        "import signal, subprocess\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsubprocess.Popen(['setsid', 'sleep', '{mark}'])\nwhile True: pass"
    );
    let (code, object) = user.python_with("a", &source, &["--timeout", "1s"]);
    assert_eq!((code, &object["reason"]), (124, &json!("wall-deadline")), "{object:#}");
    assert_eq!((&object["error"]["code"], &object["result"]["session"]["lost"]), (&json!("session-lost"), &json!(true)));
    until("no process of the session is left", || !runs(&format!("sleep\0{mark}")));
    assert_eq!(user.good(&["sandbox", "ls"]), "", "the sandbox was removed");
    assert_eq!(user.python("a", "1")["session"]["new"], true);
}

#[test]
fn killed_kernel_is_reported_and_leaves_nothing() {
    let user = User::new();
    for (language, source) in [
        ("python", "import os\nos.kill(os.getpid(), 9)"),
        ("python", "import os\nos._exit(3)"),
        ("node", "process.kill(process.pid, 'SIGKILL'); while (true) {}"),
        ("node", "process.exit(3)"),
        ("bash", "kill -KILL $$"),
        ("bash", "exit 3"),
    ] {
        let (code, object) = user.cell_with(language, "a", source, &[]);
        assert!(code != 0 && object["error"]["code"] == "session-lost", "{source}: {code} {object:#}");
        assert_eq!(user.good(&["sandbox", "ls"]), "", "{source}");
    }
    // A kernel that dies between two cells is found by the next one.
    user.python("a", "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), os._exit(0))).start()");
    until("the kernel has ended", || {
        user.good(&["sandbox", "ls"]);
        let processes = user.good(&["sandbox", "ls"]);
        let name = processes.split_whitespace().next().unwrap().to_owned();
        let listed = user.command(&["sandbox", "exec", &name, "--", "sh", "-c", "cat /proc/[0-9]*/cmdline"]).output().unwrap();
        !String::from_utf8_lossy(&listed.stdout).contains("agentd-kernel")
    });
    // The daemon may learn of the end only when the next cell begins.
    let (_, object) = user.python_with("a", "1", &[]);
    assert_eq!(object["error"]["code"], "session-lost", "{object:#}");
    assert_eq!(user.python("a", "1")["session"]["new"], true);
}

#[test]
fn killed_daemon_ends_sessions_and_the_next_cell_reports_that() {
    let user = User::new();
    let mark = mark(3);
    user.python("a", &format!("x = 1\nimport subprocess\n_p = subprocess.Popen(['sleep', '{mark}'])"));
    kill(user.daemon().unwrap());
    until("no process of the session is left", || !runs(&format!("sleep\0{mark}")));
    let (code, object) = user.python_with("a", "x", &[]);
    assert_eq!((code, &object["reason"]), (125, &json!("session-lost")), "{object:#}");
    assert_eq!(user.python("a", "'x' in globals()")["session"]["new"], true);
    // The daemon is killed while a cell runs.
    let mut cell = user.cell_command("python", "a", "open('begun', 'w')\nimport time; time.sleep(1000)", &[]);
    let cell = cell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the cell runs", || user.path("work/begun").exists());
    kill(user.daemon().unwrap());
    let output = cell.wait_with_output().unwrap();
    assert_eq!(crate::place::object(&output)["error"]["code"], "session-lost", "{output:?}");
}

#[test]
fn client_killed_during_a_cell_ends_the_session() {
    let user = User::new();
    let mark = mark(4);
    let source = format!("open('begun', 'w')\nimport subprocess; subprocess.run(['sleep', '{mark}'])");
    let mut cell = user.cell_command("python", "a", &source, &[]).stdout(Stdio::null()).spawn().unwrap();
    until("the cell runs", || runs(&format!("sleep\0{mark}")));
    cell.kill().unwrap();
    cell.wait().unwrap();
    until("no process of the cell is left", || !runs(&format!("sleep\0{mark}")));
    let (code, object) = user.python_with("a", "1", &[]);
    assert_eq!((code, &object["reason"]), (125, &json!("session-lost")), "{object:#}");
    assert_eq!(user.python("a", "1")["session"]["new"], true);
}

#[test]
fn signal_interrupts_the_cell_and_the_session_survives() {
    let user = User::new();
    user.python("a", "x = 1");
    let mut cell = user.cell_command("python", "a", "open('begun', 'w')\nimport time; time.sleep(1000)", &[]);
    let cell = cell.stdout(Stdio::piped()).spawn().unwrap();
    until("the cell runs", || user.path("work/begun").exists());
    let pid = rustix::process::Pid::from_raw(cell.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let object = crate::place::object(&cell.wait_with_output().unwrap());
    assert_eq!((&object["reason"], &object["result"]["session"]["lost"]), (&json!("cancelled"), &json!(false)), "{object:#}");
    assert_eq!(user.python("a", "x")["value"]["text/plain"], "1");
}
