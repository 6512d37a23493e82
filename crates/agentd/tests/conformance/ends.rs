//! The end of an exec kills its whole process tree, and does not wait for open pipes.

use crate::{support::*, table};
use agentd::isolation::{Command, EndReason, Limits};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    let mut trials = table!(
        backend,
        deadline_kills_whole_process_tree,
        deadline_kills_command_that_ignores_signals,
        background_processes_are_killed_at_end_of_exec,
        pipe_held_open_does_not_delay_outcome,
        end_of_one_exec_does_not_affect_another,
        dropped_exec_is_killed,
        cancelled_exec_has_reason_cancelled,
        deadline_keeps_earlier_output,
        deadline_is_enforced_without_wait,
        deadline_is_enforced_during_flood_of_output,
        process_hidden_from_proc_is_killed_at_end_of_exec,
        exec_inherits_no_ignored_signal,
        deadline_with_grace_sends_sigterm_before_sigkill,
    );
    // Without a boundary, the command can kill the supervisor like any other process of the caller.
    if backend == "host-direct" {
        trials.extend(table!(backend, supervisor_stopped_by_a_command_is_destroyed_with_all_processes));
    } else {
        trials.extend(table!(backend, signals_from_inside_do_not_end_supervisor));
    }
    trials
}

fn within(limit: Duration, text: &str) -> Command {
    Command { limits: Limits { wall: Some(limit), ..Limits::default() }, ..script(text) }
}

/// Returns a number of seconds for `sleep` that no other test uses.
fn unique(backend: &str, number: u32) -> String {
    format!("{}{}{:03}", backend.len(), std::process::id(), number)
}

async fn deadline_kills_whole_process_tree(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 1);
    let text = format!("sleep {n} & setsid sleep {n} & (setsid sh -c '(sleep {n} &) ; sleep {n}' &) ; sleep 0.1; echo; wait");
    let outcome = with_deadline_after_first_line(&sandbox, Limits::default(), &text).await;
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    assert_eq!(outcome.shell_code(), 124);
    assert!(!lives(&sandbox, &format!("sleep {n}")).await, "a process outlived its exec");
    assert!(sandbox.is_alive().await);
    sandbox.destroy().await.unwrap();
}

async fn deadline_kills_command_that_ignores_signals(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 2);
    let text = format!("trap '' TERM INT HUP; sleep {n} & echo; while :; do wait; done");
    let outcome = with_deadline_after_first_line(&sandbox, Limits::default(), &text).await;
    assert_eq!((outcome.reason, outcome.signal), (EndReason::WallDeadline, Some(9)));
    assert!(!lives(&sandbox, &format!("sleep {n}")).await);
    sandbox.destroy().await.unwrap();
}

async fn background_processes_are_killed_at_end_of_exec(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 3);
    let outcome = sh(&sandbox, &format!("setsid sleep {n} >/dev/null 2>&1 & (sleep {n} >/dev/null 2>&1 &); exit 3")).await;
    assert_eq!(outcome.exit_code, Some(3));
    assert!(!lives(&sandbox, &format!("sleep {n}")).await);
    sandbox.destroy().await.unwrap();
}

async fn pipe_held_open_does_not_delay_outcome(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 4);
    // The background process holds the output pipe open. The exec must still return, with all output.
    let outcome = sh(&sandbox, &format!("setsid sleep {n} & echo done")).await;
    assert_eq!((outcome.exit_code, out(&outcome).as_str()), (Some(0), "done\n"));
    sandbox.destroy().await.unwrap();
}

async fn end_of_one_exec_does_not_affect_another(backend: &str) {
    let sandbox = bare(backend).await;
    let (short, long) = (unique(backend, 5), unique(backend, 6));
    let survivor = {
        let sandbox = sandbox.clone();
        let text = format!("setsid sleep {long} & read line; echo $line; kill %1 2>/dev/null; exit 5");
        async move {
            let mut handle =
                sandbox.exec_streaming(Command { stdin: agentd::isolation::StdinSource::Stream, ..script(&text) }).await.unwrap();
            (handle.take_streams(), handle)
        }
    };
    let (streams, mut handle) = survivor.await;
    let text = format!("setsid sleep {short} & echo; sleep {short}");
    let ended = with_deadline_after_first_line(&sandbox, Limits::default(), &text).await;
    assert_eq!(ended.reason, EndReason::WallDeadline);
    assert!(!lives(&sandbox, &format!("sleep {short}")).await);
    assert!(lives(&sandbox, &format!("sleep {long}")).await, "a process of another exec was killed");
    rustix::io::write(streams.stdin.as_ref().unwrap(), b"still here\n").unwrap();
    let outcome = handle.wait().await.unwrap();
    assert_eq!(outcome.exit_code, Some(5));
    assert!(!lives(&sandbox, &format!("sleep {long}")).await);
    sandbox.destroy().await.unwrap();
}

async fn dropped_exec_is_killed(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 7);
    let mut handle = sandbox.exec_streaming(script(&format!("echo; sleep {n}; :"))).await.unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    assert_eq!(rustix::io::read(&stdout, &mut [0u8; 1][..]), Ok(1), "the command did not start");
    assert!(lives(&sandbox, &format!("sleep {n}")).await);
    drop(handle);
    // The supervisor handles requests in order, so the end of the dropped exec precedes the next reply.
    while lives(&sandbox, &format!("sleep {n}")).await {
        sh(&sandbox, ":").await;
    }
    sandbox.destroy().await.unwrap();
}

async fn cancelled_exec_has_reason_cancelled(backend: &str) {
    let sandbox = bare(backend).await;
    let mut handle = sandbox.exec_streaming(script("sleep 1000")).await.unwrap();
    handle.end(EndReason::Cancelled).await.unwrap();
    let outcome = handle.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.signal), (EndReason::Cancelled, Some(9)));
    sandbox.destroy().await.unwrap();
}

async fn deadline_keeps_earlier_output(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = with_deadline_after_first_line(&sandbox, Limits::default(), "echo before; sleep 100; echo after").await;
    assert_eq!((outcome.reason, out(&outcome).as_str()), (EndReason::WallDeadline, "before\n"));
    sandbox.destroy().await.unwrap();
}

async fn deadline_is_enforced_without_wait(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 8);
    // Repeats with longer deadlines until the command has started.
    let mut wall = Duration::from_millis(300);
    let handle = loop {
        let mut handle = sandbox.exec_streaming(within(wall, &format!("sleep {n} & echo; wait"))).await.unwrap();
        let stdout = handle.take_streams().stdout.unwrap();
        if rustix::io::read(&stdout, &mut [0u8; 1][..]) == Ok(1) {
            break handle;
        }
        assert!(wall < Duration::from_secs(600), "the command did not start");
        wall *= 2;
    };
    while lives(&sandbox, &format!("sleep {n}")).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(handle);
    sandbox.destroy().await.unwrap();
}

async fn process_hidden_from_proc_is_killed_at_end_of_exec(backend: &str) {
    let sandbox = bare(backend).await;
    let (hidden, other) = (unique(backend, 9), unique(backend, 10));
    let other = sandbox.exec_streaming(script(&format!("sleep {other}"))).await.unwrap();
    // 4 is PR_SET_DUMPABLE: without it, a process of the same user has no entry in /proc with hidepid.
    let hide = format!(
        "import ctypes, os, time\n\
         ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n\
         if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep({hidden})\n  time.sleep({hidden})\n"
    );
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", &hide])).await.unwrap();
    assert_eq!(outcome.exit_code, Some(0), "{outcome:?}");
    assert!(!lives(&sandbox, &format!("time.sleep({hidden})")).await);
    drop(other);
    sandbox.destroy().await.unwrap();
}

async fn exec_inherits_no_ignored_signal(backend: &str) {
    let sandbox = bare(backend).await;
    let text = out(&sh(&sandbox, "grep SigIgn /proc/self/status").await);
    let ignored = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    // Signals 32 and 33 are reserved for the C library.
    assert_eq!(ignored & !(3 << 31), 0, "{text}");
    sandbox.destroy().await.unwrap();
}

async fn deadline_with_grace_sends_sigterm_before_sigkill(backend: &str) {
    let sandbox = bare(backend).await;
    let limits_with = |grace| Limits { grace: Some(grace), ..Limits::default() };
    let handler = "trap 'echo tidied; exit 3' TERM; echo; sleep 1000 & wait";
    let outcome = with_deadline_after_first_line(&sandbox, limits_with(Duration::from_secs(300)), handler).await;
    let expected = (EndReason::WallDeadline, Some(3), "\ntidied\n");
    assert_eq!((outcome.reason, outcome.exit_code, out(&outcome).as_str()), expected);
    let ignores = "trap '' TERM; echo; sleep 1000";
    let outcome = with_deadline_after_first_line(&sandbox, limits_with(Duration::from_millis(100)), ignores).await;
    assert_eq!((outcome.reason, outcome.signal), (EndReason::WallDeadline, Some(libc::SIGKILL)));
    sandbox.destroy().await.unwrap();
}

async fn deadline_is_enforced_during_flood_of_output(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = with_deadline_after_first_line(&sandbox, Limits::default(), "yes & yes >&2").await;
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    sandbox.destroy().await.unwrap();
}

async fn signals_from_inside_do_not_end_supervisor(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome =
        sh(&sandbox, "for s in 1 2 3 6 10 12 13 14 15 17 19 9; do kill -$s 1; done; echo still; sleep 0.1; exit 6").await;
    assert_eq!((outcome.exit_code, out(&outcome).as_str()), (Some(6), "still\n"));
    assert_eq!(sh(&sandbox, "exit 0").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn supervisor_stopped_by_a_command_is_destroyed_with_all_processes(backend: &str) {
    let n = unique(backend, 11);
    // The second command stops its supervisor again whenever the supervisor is continued.
    let again = "for i in 1 2 3; do while kill -STOP $0; do :; done & done; echo; wait";
    for stop in ["kill -STOP $0; echo; exec sleep $1", again] {
        let sandbox = bare(backend).await;
        let text = format!("setsid sleep {n} & sh -c '{stop}' $PPID {n}");
        let mut handle = sandbox.exec_streaming(script(&text)).await.unwrap();
        let stdout = handle.take_streams().stdout.unwrap();
        assert_eq!(rustix::io::read(&stdout, &mut [0u8; 1][..]), Ok(1), "it never began");
        let destroyed = tokio::time::timeout(Duration::from_secs(60), sandbox.destroy()).await;
        destroyed.expect("a stopped supervisor is not waited for").unwrap();
        assert!(!runs(&format!("sleep {n}")) && !runs(stop), "a process outlived its sandbox");
    }
}
