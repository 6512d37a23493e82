//! What is saved of machines, and what comes of it: restores, forks, and the Firecrackers that are kept for them.

use super::{COUNT, count, counts_beyond, groups, left, pids, read, settle, small};
use crate::support::{out, script, sh};
use agentd_isolation::{Command, IsolationError, Sandbox, StdinSource};
use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// Host name, machine-id, random numbers, time.
async fn identity(sandbox: &Arc<dyn Sandbox>) -> [String; 4] {
    let text = out(&sh(sandbox, "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; date +%s").await);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.try_into().unwrap()
}

pub async fn five_forks_go_on_counting_and_differ() {
    let parent = small().await;
    let counting = parent.exec_streaming(script(COUNT)).await.unwrap();
    let before = counts_beyond(&parent, 3).await;
    let mut all = vec![parent.clone()];
    for _ in 0..5 {
        let fork = parent.fork().await.unwrap();
        // It goes on from where it was copied, and does not begin anew.
        let first = count(&fork).await;
        assert!(first >= before, "{first} < {before}");
        counts_beyond(&fork, first).await;
        all.push(fork);
    }
    counts_beyond(&parent, before).await;
    let mut seen = BTreeSet::new();
    for sandbox in &all {
        let [name, machine, random, time] = identity(sandbox).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(time.parse().unwrap()) < 30, "its clock says {time}, not {now}");
        for mark in [name, machine, random] {
            assert!(seen.insert(mark.clone()), "two have {mark}");
        }
    }
    // What one writes the others do not have.
    sh(&all[1], "echo mine >/root/mine").await;
    assert_eq!(sh(&all[2], "test -e /root/mine").await.exit_code, Some(1));
    drop(counting);
    for sandbox in all {
        sandbox.destroy().await.unwrap();
    }
}

pub async fn a_snapshot_is_memory_and_disk_of_one_moment() {
    let sandbox = small().await;
    // An exec and its streams survive being saved.
    let text = "while read line; do echo \"got $line\"; done";
    let mut reader = sandbox.exec_streaming(Command { stdin: StdinSource::Stream, ..script(text) }).await.unwrap();
    let streams = reader.take_streams();
    let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
    sh(&sandbox, "echo before >/root/file; sync").await;
    counts_beyond(&sandbox, 2).await;
    sandbox.snapshot("one").await.unwrap();
    rustix::io::write(streams.stdin.as_ref().unwrap(), b"hello\n").unwrap();
    let mut said = [0; 10];
    let mut length = 0;
    while length < said.len() {
        length += read(streams.stdout.as_ref().unwrap(), &mut said[length..]).await;
    }
    assert_eq!(&said, b"got hello\n");
    let at = count(&sandbox).await;
    sh(&sandbox, "echo after >/root/file; sync").await;
    let far = counts_beyond(&sandbox, at + 20).await;

    assert!(matches!(sandbox.restore("two").await, Err(IsolationError::Invalid { .. })));
    assert!(sandbox.is_alive().await);
    for _ in 0..2 {
        sandbox.restore("one").await.unwrap();
        assert_eq!(out(&sh(&sandbox, "cat /root/file").await), "before\n");
        let again = count(&sandbox).await;
        assert!(again < far, "{again} is not before {far}");
        counts_beyond(&sandbox, again).await;
    }
    // What ran over the old machine's connection is lost, and says so.
    assert!(matches!(reader.wait().await, Err(IsolationError::Lost(_))));
    sandbox.destroy().await.unwrap();
}

pub async fn a_suspended_sandbox_is_saved_and_stays_suspended() {
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

/// At which steps a save is given up, each after what it asked for has been done: the first one lets the machine go on.
const STEPS: u32 = 3;

pub async fn a_save_that_is_given_up_lets_nothing_run_on() {
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
        assert!(!saved, "it takes more steps");
        // Ended, or stopped: it may not answer.
        let answered = tokio::time::timeout(Duration::from_secs(3), sandbox.exec(script(":"))).await;
        assert!(matches!(answered, Err(_) | Ok(Err(IsolationError::Lost(_)))), "given up at step {steps}: {answered:?}");
        sandbox.destroy().await.unwrap();
        sandbox = small().await;
    }
    sandbox.destroy().await.unwrap();
}

pub async fn what_a_restore_has_left_is_gone_with_the_sandbox() {
    let before = groups();
    for dropped in [false, true] {
        let sandbox = small().await;
        sandbox.snapshot("one").await.unwrap();
        for _ in 0..3 {
            sandbox.restore("one").await.unwrap();
            // The one that runs, and one that ends.
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

/// The Firecracker that is none of `known`.
async fn spare(known: &[i32]) -> i32 {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let others: Vec<i32> = pids("/firecracker").into_iter().filter(|pid| !known.contains(pid)).collect();
        if let [one] = others[..] {
            return one;
        }
        assert!(Instant::now() < patience, "{:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a Firecracker has a machine.
fn has_machine(firecracker: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{firecracker}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.into_iter().any(|name| name.starts_with("fc_vcpu"))
}

/// The spare, when its machine has gone back to what it is for.
async fn ahead(known: &[i32]) -> i32 {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let spare = spare(known).await;
        if has_machine(spare) {
            // It is loaded, and is stopped soon; or it is one for an earlier snapshot, and goes.
            tokio::time::sleep(Duration::from_secs(2)).await;
            if pids("/firecracker").contains(&spare) {
                return spare;
            }
        }
        assert!(Instant::now() < patience, "it has no machine: {:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn a_restore_takes_the_spare_and_does_without_a_killed_one() {
    let before = groups();
    let sandbox = small().await;
    let machine = pids("/firecracker")[0];
    // One that was never saved has none.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pids("/firecracker"), [machine]);
    sandbox.snapshot("one").await.unwrap();
    let first = spare(&[machine]).await;
    sandbox.restore("one").await.unwrap();
    // It is the machine now, and another one is the spare.
    let second = spare(&[machine, first]).await;
    assert!(pids("/firecracker").contains(&first));
    rustix::process::kill_process(rustix::process::Pid::from_raw(second).unwrap(), rustix::process::Signal::KILL).unwrap();
    sandbox.restore("one").await.unwrap();
    assert_eq!(out(&sh(&sandbox, "echo here").await), "here\n");
    // It lives, and without a spare that it could take.
    let machine = pids("/firecracker").into_iter().find(|pid| *pid != first && *pid != second).unwrap();
    let third = ahead(&[machine, first, second]).await;
    rustix::process::kill_process(rustix::process::Pid::from_raw(third).unwrap(), rustix::process::Signal::KILL).unwrap();
    sandbox.restore("one").await.unwrap();
    assert_eq!(out(&sh(&sandbox, "echo here").await), "here\n");
    sandbox.destroy().await.unwrap();
    assert_eq!(left(), (Vec::new(), Vec::new()));
    settle(&before).await;
}

pub async fn a_machine_that_went_back_ahead_is_what_was_saved() {
    let sandbox = small().await;
    let mut machine = pids("/firecracker")[0];
    let mut seen = BTreeSet::new();
    for name in ["one", "two"] {
        sh(&sandbox, &format!("echo {name} >/root/file; sync")).await;
        sandbox.snapshot(name).await.unwrap();
    }
    // To the last one; to another one; to that again.
    for (name, taken) in [("two", true), ("one", false), ("one", true)] {
        let waiting = ahead(&[machine]).await;
        sh(&sandbox, "echo more >>/root/file; sync").await;
        sandbox.restore(name).await.unwrap();
        assert_eq!(out(&sh(&sandbox, "cat /root/file").await), format!("{name}\n"));
        let [host, id, random, time] = identity(&sandbox).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(time.parse().unwrap()) < 30, "its clock says {time}, not {now}");
        for mark in [host, id, random] {
            assert!(seen.insert(mark.clone()), "two have {mark}");
        }
        // One that served no more goes with the machine that was left.
        let gone = [machine].into_iter().chain((!taken).then_some(waiting)).collect::<Vec<_>>();
        let patience = Instant::now() + Duration::from_secs(30);
        while pids("/firecracker").iter().any(|pid| gone.contains(pid)) {
            assert!(Instant::now() < patience, "{gone:?} of {:?}", left());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        machine = if taken { waiting } else { pids("/firecracker").into_iter().min_by_key(started).unwrap() };
    }
    sandbox.destroy().await.unwrap();
    assert_eq!(left(), (Vec::new(), Vec::new()));
}

/// When a process was started, in ticks (`proc_pid_stat(5)`, field 22).
fn started(pid: &i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok()).unwrap_or(u64::MAX)
}

pub async fn what_runs_in_a_snapshot_waits_for_the_restore() {
    let sandbox = small().await;
    let machine = pids("/firecracker")[0];
    let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
    let saved = counts_beyond(&sandbox, 2).await;
    sandbox.snapshot("one").await.unwrap();
    ahead(&[machine]).await;
    // For as long as the one that is left counts on; so it would have, too, had it not been stopped.
    let far = counts_beyond(&sandbox, saved + 60).await;
    sandbox.restore("one").await.unwrap();
    let again = count(&sandbox).await;
    assert!(
        (saved..saved + (far - saved) / 2).contains(&again),
        "saved after {saved}, it went on at {again}; the other was at {far}"
    );
    counts_beyond(&sandbox, again).await;
    sandbox.destroy().await.unwrap();
}
