//! Ending an exec ends its whole tree, and nobody waits for a pipe.

use crate::{support::*, table};
use agentd_isolation::{Command, EndReason, Limits};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    let mut trials = table!(
        backend,
        a_deadline_ends_the_whole_tree,
        a_command_that_ignores_signals_is_ended_all_the_same,
        what_a_command_leaves_behind_ends_with_it,
        a_pipe_held_open_does_not_hold_the_outcome_up,
        ending_one_exec_spares_the_others,
        a_dropped_exec_is_ended,
        a_cancelled_exec_says_so,
        a_deadline_keeps_the_output_so_far,
        a_deadline_holds_though_nobody_waits,
        a_deadline_holds_under_a_flood_of_output,
        a_process_that_hides_is_ended_with_its_exec,
        a_command_inherits_no_ignored_signal,
    );
    // Without a boundary the supervisor is a process like any other of the caller's.
    if backend != "host-direct" {
        trials.extend(table!(backend, a_command_cannot_end_its_supervisor));
    }
    trials
}

/// Enough to come to what a test is about before the deadline, on a busy or an emulated machine too.
const SOON: Duration = Duration::from_secs(2);

fn within(limit: Duration, text: &str) -> Command {
    Command { limits: Limits { wall: Some(limit), ..Limits::default() }, ..script(text) }
}

/// A number of seconds that no other test sleeps.
fn unique(backend: &str, number: u32) -> String {
    format!("{}{}{:03}", backend.len(), std::process::id(), number)
}

async fn a_deadline_ends_the_whole_tree(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 1);
    let text = format!("sleep {n} & setsid sleep {n} & (setsid sh -c '(sleep {n} &) ; sleep {n}' &) ; sleep 0.1; wait");
    let outcome = sandbox.exec(within(SOON, &text)).await.unwrap();
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    assert_eq!(outcome.shell_code(), 124);
    assert!(!lives(&sandbox, &format!("sleep {n}")).await, "a process outlived its exec");
    assert!(sandbox.is_alive().await);
    sandbox.destroy().await.unwrap();
}

async fn a_command_that_ignores_signals_is_ended_all_the_same(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 2);
    let text = format!("trap '' TERM INT HUP; sleep {n} & while :; do wait; done");
    let outcome = sandbox.exec(within(slow(Duration::from_millis(300)), &text)).await.unwrap();
    assert_eq!((outcome.reason, outcome.signal), (EndReason::WallDeadline, Some(9)));
    assert!(!lives(&sandbox, &format!("sleep {n}")).await);
    sandbox.destroy().await.unwrap();
}

async fn what_a_command_leaves_behind_ends_with_it(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 3);
    let outcome = sh(&sandbox, &format!("setsid sleep {n} >/dev/null 2>&1 & (sleep {n} >/dev/null 2>&1 &); exit 3")).await;
    assert_eq!(outcome.exit_code, Some(3));
    assert!(!lives(&sandbox, &format!("sleep {n}")).await);
    sandbox.destroy().await.unwrap();
}

async fn a_pipe_held_open_does_not_hold_the_outcome_up(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 4);
    // The background process has the output pipe; the outcome comes all the same, with what was written.
    let outcome = sh(&sandbox, &format!("setsid sleep {n} & echo done")).await;
    assert_eq!((outcome.exit_code, out(&outcome).as_str()), (Some(0), "done\n"));
    sandbox.destroy().await.unwrap();
}

async fn ending_one_exec_spares_the_others(backend: &str) {
    let sandbox = bare(backend).await;
    let (short, long) = (unique(backend, 5), unique(backend, 6));
    let survivor = {
        let sandbox = sandbox.clone();
        let text = format!("setsid sleep {long} & read line; echo $line; kill %1 2>/dev/null; exit 5");
        async move {
            let mut handle =
                sandbox.exec_streaming(Command { stdin: agentd_isolation::StdinSource::Stream, ..script(&text) }).await.unwrap();
            (handle.take_streams(), handle)
        }
    };
    let (streams, mut handle) = survivor.await;
    let ended = sandbox.exec(within(SOON, &format!("setsid sleep {short} & sleep {short}"))).await.unwrap();
    assert_eq!(ended.reason, EndReason::WallDeadline);
    assert!(!lives(&sandbox, &format!("sleep {short}")).await);
    assert!(lives(&sandbox, &format!("sleep {long}")).await, "another exec's process was ended too");
    rustix::io::write(streams.stdin.as_ref().unwrap(), b"still here\n").unwrap();
    let outcome = handle.wait().await.unwrap();
    assert_eq!(outcome.exit_code, Some(5));
    assert!(!lives(&sandbox, &format!("sleep {long}")).await);
    sandbox.destroy().await.unwrap();
}

async fn a_dropped_exec_is_ended(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 7);
    let mut handle = sandbox.exec_streaming(script(&format!("echo; sleep {n}; :"))).await.unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    assert_eq!(rustix::io::read(&stdout, &mut [0u8; 1][..]), Ok(1), "it never began");
    assert!(lives(&sandbox, &format!("sleep {n}")).await);
    drop(handle);
    // Another exec is answered after it was ended.
    while lives(&sandbox, &format!("sleep {n}")).await {
        sh(&sandbox, ":").await;
    }
    sandbox.destroy().await.unwrap();
}

async fn a_cancelled_exec_says_so(backend: &str) {
    let sandbox = bare(backend).await;
    let mut handle = sandbox.exec_streaming(script("sleep 1000")).await.unwrap();
    handle.end(EndReason::Cancelled).await.unwrap();
    let outcome = handle.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.signal), (EndReason::Cancelled, Some(9)));
    sandbox.destroy().await.unwrap();
}

async fn a_deadline_keeps_the_output_so_far(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sandbox.exec(within(SOON, "echo before; sleep 100; echo after")).await.unwrap();
    assert_eq!((outcome.reason, out(&outcome).as_str()), (EndReason::WallDeadline, "before\n"));
    sandbox.destroy().await.unwrap();
}

async fn a_deadline_holds_though_nobody_waits(backend: &str) {
    let sandbox = bare(backend).await;
    let n = unique(backend, 8);
    let mut handle = sandbox.exec_streaming(within(SOON, &format!("sleep {n} & echo; wait"))).await.unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    assert_eq!(rustix::io::read(&stdout, &mut [0u8; 1][..]), Ok(1), "it never began");
    while lives(&sandbox, &format!("sleep {n}")).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(handle);
    sandbox.destroy().await.unwrap();
}

async fn a_process_that_hides_is_ended_with_its_exec(backend: &str) {
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

async fn a_command_inherits_no_ignored_signal(backend: &str) {
    let sandbox = bare(backend).await;
    let text = out(&sh(&sandbox, "grep SigIgn /proc/self/status").await);
    let ignored = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    // 32 and 33 are the C library's own.
    assert_eq!(ignored & !(3 << 31), 0, "{text}");
    sandbox.destroy().await.unwrap();
}

async fn a_deadline_holds_under_a_flood_of_output(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sandbox.exec(within(slow(Duration::from_millis(300)), "yes & yes >&2")).await.unwrap();
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    sandbox.destroy().await.unwrap();
}

async fn a_command_cannot_end_its_supervisor(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome =
        sh(&sandbox, "for s in 1 2 3 6 10 12 13 14 15 17 19 9; do kill -$s 1; done; echo still; sleep 0.1; exit 6").await;
    assert_eq!((outcome.exit_code, out(&outcome).as_str()), (Some(6), "still\n"));
    assert_eq!(sh(&sandbox, "exit 0").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}
