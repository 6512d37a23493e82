//! Snapshots of machines, restores, forks, and spares.

use super::{COUNT, count, counts_beyond, read};
use crate::machines::{groups, left, pids, settle, small};
use crate::support::{out, script, sh};
use agentd::isolation::{Command, IsolationError, Sandbox, StdinSource};
use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// Returns host name, machine-id and random numbers of a sandbox, and checks its clock.
async fn identity(sandbox: &Arc<dyn Sandbox>) -> [String; 3] {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let text = out(&sh(sandbox, "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; date +%s").await);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let time: u64 = lines.pop().unwrap().parse().unwrap();
    let expected = before - 30..now() + 30;
    assert!(expected.contains(&time), "the clock of the sandbox is {time}, not {expected:?}");
    lines.try_into().unwrap()
}

pub async fn forks_continue_command_with_new_identities() {
    let parent = small().await;
    let counting = parent.exec_streaming(script(COUNT)).await.unwrap();
    let before = counts_beyond(&parent, 3).await;
    let mut all = vec![parent.clone()];
    for _ in 0..5 {
        let fork = parent.fork().await.unwrap();
        // The command continues from the fork, and does not start again.
        let first = count(&fork).await;
        assert!(first >= before, "{first} < {before}");
        counts_beyond(&fork, first).await;
        all.push(fork);
    }
    counts_beyond(&parent, before).await;
    let mut seen = BTreeSet::new();
    for sandbox in &all {
        for mark in identity(sandbox).await {
            assert!(seen.insert(mark.clone()), "two sandboxes have {mark}");
        }
    }
    // Files of one fork do not appear in another.
    sh(&all[1], "echo mine >/root/mine").await;
    assert_eq!(sh(&all[2], "test -e /root/mine").await.exit_code, Some(1));
    drop(counting);
    for sandbox in all {
        sandbox.destroy().await.unwrap();
    }
}

pub async fn snapshot_of_memory_and_disk_is_consistent() {
    let sandbox = small().await;
    // An exec and its streams continue after a snapshot.
    let text = "while read line; do echo \"got $line\"; done";
    let mut reader = sandbox.exec_streaming(Command { stdin: StdinSource::Stream, ..script(text) }).await.unwrap();
    let streams = reader.take_streams();
    let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
    sh(&sandbox, "echo before >/root/file; sync").await;
    counts_beyond(&sandbox, 2).await;
    sandbox.snapshot("one").await.unwrap();
    rustix::io::write(streams.stdin.as_ref().unwrap(), b"hello\n").unwrap();
    let mut printed = [0; 10];
    let mut length = 0;
    while length < printed.len() {
        length += read(streams.stdout.as_ref().unwrap(), &mut printed[length..]).await;
    }
    assert_eq!(&printed, b"got hello\n");
    let at = count(&sandbox).await;
    sh(&sandbox, "echo after >/root/file; sync").await;
    let mut far = counts_beyond(&sandbox, at + 60).await;

    assert!(matches!(sandbox.restore("two").await, Err(IsolationError::Invalid { .. })));
    assert!(sandbox.is_alive().await);
    let mut restored = 0;
    while restored < 2 {
        sandbox.restore("one").await.unwrap();
        assert_eq!(out(&sh(&sandbox, "cat /root/file").await), "before\n");
        let again = count(&sandbox).await;
        if again < far {
            restored += 1;
        } else {
            // On a busy host, a restored command can count that far before this test reads its counter.
            assert!(far < 1000, "{again} is not before {far}");
            far = counts_beyond(&sandbox, far * 2).await;
        }
        counts_beyond(&sandbox, again).await;
    }
    // Execs of the old machine's connection are lost, and return an error.
    assert!(matches!(reader.wait().await, Err(IsolationError::SandboxGone(_))));
    sandbox.destroy().await.unwrap();
}

pub async fn fork_of_suspended_sandbox_runs_and_origin_stays_suspended() {
    let sandbox = small().await;
    let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
    counts_beyond(&sandbox, 0).await;
    sandbox.suspend().await.unwrap();
    let fork = sandbox.fork().await.unwrap();
    counts_beyond(&fork, 0).await;
    let waits = sandbox.exec(script(":"));
    let answered = tokio::time::timeout(Duration::from_millis(500), waits).await;
    assert!(answered.is_err(), "a suspended sandbox answered");
    sandbox.resume().await.unwrap();
    counts_beyond(&sandbox, 0).await;
    fork.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
}

/// The number of steps of a snapshot after which it is cancelled. The first step resumes the machine.
const STEPS: u32 = 3;

pub async fn cancelled_snapshot_does_not_resume_suspended_sandbox() {
    let mut sandbox = small().await;
    for steps in 1..=STEPS {
        sandbox.suspend().await.unwrap();
        let mut save = sandbox.snapshot("one");
        let mut left = steps;
        let saved = std::future::poll_fn(|context| {
            left -= 1;
            match save.as_mut().poll(context) {
                Poll::Pending if left == 0 => Poll::Ready(false),
                polled => polled.map(|saved| saved.is_ok()),
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(save);
        assert!(!saved, "the snapshot needs more steps");
        // The machine must be killed or stopped, so an exec must not succeed.
        let answered = tokio::time::timeout(Duration::from_secs(3), sandbox.exec(script(":"))).await;
        assert!(
            matches!(answered, Err(_) | Ok(Err(IsolationError::SandboxGone(_) | IsolationError::MachineLost(_)))),
            "cancelled at step {steps}: {answered:?}"
        );
        sandbox.destroy().await.unwrap();
        sandbox = small().await;
    }
    sandbox.destroy().await.unwrap();
}

pub async fn previous_machines_of_restore_are_removed() {
    let before = groups();
    for dropped in [false, true] {
        let sandbox = small().await;
        sandbox.snapshot("one").await.unwrap();
        for _ in 0..3 {
            sandbox.restore("one").await.unwrap();
            // The running machine, its spare, and a machine that is ending.
            assert!(left().0.len() <= 3, "{:?}", left());
        }
        if dropped {
            drop(sandbox);
            settle(&before).await;
        } else {
            sandbox.destroy().await.unwrap();
            assert_eq!(left(), (Vec::new(), Vec::new()));
        }
    }
}

/// Waits for a Firecracker process that is not in `known`, and returns its pid.
async fn spare(known: &[i32]) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let others: Vec<i32> = pids("/firecracker").into_iter().filter(|pid| !known.contains(pid)).collect();
        if let [one] = others[..] {
            return one;
        }
        assert!(Instant::now() < deadline, "{:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns whether a Firecracker has loaded a machine.
fn has_machine(firecracker: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{firecracker}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.into_iter().any(|name| name.starts_with("fc_vcpu"))
}

/// Waits for the spare that has loaded its snapshot, and returns its pid.
async fn preloaded(known: &[i32]) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let spare = spare(known).await;
        if has_machine(spare) {
            // The spare is paused soon. If it is a spare for an earlier snapshot, it ends instead.
            tokio::time::sleep(Duration::from_secs(2)).await;
            if pids("/firecracker").contains(&spare) {
                return spare;
            }
        }
        assert!(Instant::now() < deadline, "the spare has no machine: {:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn restore_uses_spare_and_works_without_killed_spare() {
    let before = groups();
    let sandbox = small().await;
    let machine = pids("/firecracker")[0];
    // A sandbox without a snapshot has no spare.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pids("/firecracker"), [machine]);
    sandbox.snapshot("one").await.unwrap();
    let first = spare(&[machine]).await;
    sandbox.restore("one").await.unwrap();
    // The spare is now the machine, and there is a new spare.
    let second = spare(&[machine, first]).await;
    assert!(pids("/firecracker").contains(&first));
    rustix::process::kill_process(rustix::process::Pid::from_raw(second).unwrap(), rustix::process::Signal::KILL).unwrap();
    sandbox.restore("one").await.unwrap();
    assert_eq!(out(&sh(&sandbox, "echo here").await), "here\n");
    // The sandbox works, although its spare was killed.
    let machine = pids("/firecracker").into_iter().find(|pid| *pid != first && *pid != second).unwrap();
    let third = preloaded(&[machine, first, second]).await;
    rustix::process::kill_process(rustix::process::Pid::from_raw(third).unwrap(), rustix::process::Signal::KILL).unwrap();
    sandbox.restore("one").await.unwrap();
    assert_eq!(out(&sh(&sandbox, "echo here").await), "here\n");
    sandbox.destroy().await.unwrap();
    assert_eq!(left(), (Vec::new(), Vec::new()));
    settle(&before).await;
}

pub async fn preloaded_spare_has_state_of_snapshot_and_new_identity() {
    let sandbox = small().await;
    let mut machine = pids("/firecracker")[0];
    let mut seen = BTreeSet::new();
    for name in ["one", "two"] {
        sh(&sandbox, &format!("echo {name} >/root/file; sync")).await;
        sandbox.snapshot(name).await.unwrap();
    }
    // Restore the last snapshot, then another snapshot twice.
    for (name, taken) in [("two", true), ("one", false), ("one", true)] {
        let waiting = preloaded(&[machine]).await;
        sh(&sandbox, "echo more >>/root/file; sync").await;
        sandbox.restore(name).await.unwrap();
        assert_eq!(out(&sh(&sandbox, "cat /root/file").await), format!("{name}\n"));
        for mark in identity(&sandbox).await {
            assert!(seen.insert(mark.clone()), "two sandboxes have {mark}");
        }
        // An unused spare ends together with the previous machine.
        let gone = [machine].into_iter().chain((!taken).then_some(waiting)).collect::<Vec<_>>();
        let deadline = Instant::now() + Duration::from_secs(300);
        while pids("/firecracker").iter().any(|pid| gone.contains(pid)) {
            assert!(Instant::now() < deadline, "{gone:?} of {:?}", left());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        machine = if taken { waiting } else { pids("/firecracker").into_iter().min_by_key(started).unwrap() };
    }
    sandbox.destroy().await.unwrap();
    assert_eq!(left(), (Vec::new(), Vec::new()));
}

/// Returns the start time of a process in ticks (`proc_pid_stat(5)`, field 22).
fn started(pid: &i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok()).unwrap_or(u64::MAX)
}

pub async fn commands_in_preloaded_spare_do_not_run_until_restore() {
    let sandbox = small().await;
    let mut machine = pids("/firecracker")[0];
    let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
    let saved = counts_beyond(&sandbox, 2).await;
    sandbox.snapshot("one").await.unwrap();
    // The command also counts between the restore and the first read of its counter. On a busy host, that time can be long, so
    // the test repeats with longer and longer waits.
    let mut wait = 60;
    let again = loop {
        let spare = preloaded(&[machine]).await;
        // Let the running machine count for a while. A spare that is not paused would count as far.
        let far = counts_beyond(&sandbox, saved + wait).await;
        sandbox.restore("one").await.unwrap();
        let again = count(&sandbox).await;
        assert!(again >= saved, "saved at {saved}, continued at {again}");
        if again < saved + (far - saved) / 2 {
            break again;
        }
        wait *= 2;
        assert!(wait < 1000, "saved at {saved}, continued at {again}; the other machine was at {far}");
        machine = spare;
    };
    counts_beyond(&sandbox, again).await;
    sandbox.destroy().await.unwrap();
}
