//! Snapshot, restore and fork, for the files of a sandbox.

use crate::{
    support::{self, *},
    table,
};
use agentd::isolation::{IsolationError, Sandbox, SandboxSpec, Writable};
use libtest_mimic::Trial;
use std::{path::Path, sync::Arc};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    match backend {
        support::layers::NAME => table!(backend, cancelled_snapshot_or_fork_leaves_sandbox_usable),
        "container" | "firecracker" | "gondolin" => table!(
            backend,
            restore_returns_files_of_snapshot,
            restore_of_unknown_snapshot_fails,
            fork_shares_no_writable_file_with_origin,
            snapshot_during_writes_is_consistent,
            forks_of_forks_outlive_their_origins,
        ),
        _ => Vec::new(),
    }
}

async fn layered(name: &str) -> Arc<dyn Sandbox> {
    with(name, SandboxSpec { writable: Writable::TemporaryLayers, ..SandboxSpec::default() }).await
}

/// Returns the output of a script that must succeed.
#[track_caller]
fn done(outcome: agentd::isolation::Outcome) -> String {
    assert_eq!(outcome.exit_code, Some(0), "{outcome:?}");
    out(&outcome)
}

async fn restore_returns_files_of_snapshot(name: &str) {
    let sandbox = layered(name).await;
    let look = "cat /etc/hostname /file; cat /dir/a/b; ls /dir; stat -c %a /file";
    done(
        sh(
            &sandbox,
            "set -e; mkdir -p /dir/a /gone; echo one >/file; echo own >/etc/hostname; echo deep >/dir/a/b; chmod 640 /file",
        )
        .await,
    );
    let before = done(sh(&sandbox, look).await);
    sandbox.snapshot("one").await.unwrap();
    assert_eq!(done(sh(&sandbox, look).await), before);
    done(
        sh(
            &sandbox,
            "set -e; echo two >/file; chmod 600 /file; rm -r /dir /gone; rm -f /etc/hosts /sbin; mkdir /dir; echo new >/dir/new",
        )
        .await,
    );
    sandbox.snapshot("two").await.unwrap();
    sandbox.restore("one").await.unwrap();
    assert_eq!(done(sh(&sandbox, &format!("test -d /gone; {look}")).await), before);
    sandbox.restore("two").await.unwrap();
    assert_eq!(
        done(sh(&sandbox, "cat /file; ls /dir; ! test -e /gone; ! test -e /etc/hosts; ! test -L /sbin").await),
        "two\nnew\n"
    );
    // A new snapshot with the same name replaces the old one.
    done(sh(&sandbox, "echo three >/file").await);
    sandbox.snapshot("one").await.unwrap();
    sandbox.restore("two").await.unwrap();
    sandbox.restore("one").await.unwrap();
    assert_eq!(done(sh(&sandbox, "cat /file").await), "three\n");
    sandbox.destroy().await.unwrap();
}

async fn restore_of_unknown_snapshot_fails(name: &str) {
    let (sandbox, other) = (layered(name).await, layered(name).await);
    other.snapshot("others").await.unwrap();
    sandbox.write_file(Path::new("/file"), b"kept").await.unwrap();
    for missing in ["others", "", "../others", "a/b"] {
        let refused = sandbox.restore(missing).await;
        assert!(matches!(refused, Err(IsolationError::Invalid { .. })), "{missing}: {refused:?}");
    }
    assert_eq!(sandbox.read_file(Path::new("/file"), 10).await.unwrap(), b"kept");
    for sandbox in [sandbox, other] {
        sandbox.destroy().await.unwrap();
        for refused in [sandbox.snapshot("x").await, sandbox.restore("others").await, sandbox.fork().await.map(drop)] {
            assert!(refused.is_err(), "{refused:?}");
        }
    }
}

/// Changes files in every way: in place, by appending, by mapping, by truncation, by rename and by mode.
const CHANGE: &str = "import mmap, os, sys\n\
    who = sys.argv[1].encode()\n\
    with open('/d/place', 'r+b') as f: f.write(who)\n\
    with open('/d/end', 'ab') as f: f.write(who)\n\
    with open('/d/mapped', 'r+b') as f: mmap.mmap(f.fileno(), 0)[:len(who)] = who\n\
    with open('/d/linked', 'r+b') as f: f.write(who)\n\
    os.truncate('/d/short', len(who)); os.chmod('/d/mode', 0o600); os.rename('/d/name', '/d/' + sys.argv[1])\n\
    os.unlink('/d/gone'); os.mkdir('/d/made-' + sys.argv[1])\n";

async fn fork_shares_no_writable_file_with_origin(name: &str) {
    let sandbox = layered(name).await;
    let make =
        "mkdir /d; cd /d; for f in place end mapped linked short name gone mode; do echo 0123456789 >$f; done; ln linked link";
    done(sh(&sandbox, make).await);
    let look = "cd /d; cat place end mapped linked link short; stat -c %a mode; ls";
    let before = done(sh(&sandbox, look).await);
    let copy = sandbox.fork().await.unwrap();
    assert_ne!(copy.id(), sandbox.id());
    let change = async |sandbox: &Arc<dyn Sandbox>, who: &str| {
        done(sandbox.exec(command(&["/usr/bin/python3", "-c", CHANGE, who])).await.unwrap());
        done(sh(sandbox, look).await)
    };
    assert_eq!(done(sh(&copy, look).await), before);
    let copys = change(&copy, "copy").await;
    assert_eq!(done(sh(&sandbox, look).await), before);
    let origins = change(&sandbox, "origin").await;
    assert!(copys.contains("copy") && !copys.contains("origin") && origins.contains("origin") && !origins.contains("copy"));
    assert_eq!(done(sh(&copy, look).await), copys);
    sandbox.destroy().await.unwrap();
    assert_eq!(done(sh(&copy, look).await), copys);
    copy.destroy().await.unwrap();
}

async fn snapshot_during_writes_is_consistent(name: &str) {
    let sandbox = layered(name).await;
    // The number in `a` equals that in `b`, or is greater by one.
    let count = "i=0; echo 0 >/a; echo 0 >/b; echo; while :; do i=$((i+1)); echo $i >/a.new; mv /a.new /a; echo $i >/b.new; \
        mv /b.new /b; done";
    let mut handle = sandbox.exec_streaming(script(count)).await.unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    rustix::io::read(&stdout, &mut [0u8; 1][..]).unwrap();
    for round in 0..3 {
        match sandbox.snapshot("moment").await {
            Ok(()) => {}
            Err(IsolationError::Control(error)) => {
                assert!(error.to_string().contains("find a writable cgroup with the freezer controller"), "{error}");
                assert!(!rustix::process::geteuid().is_root());
                break;
            }
            Err(other) => panic!("{other}"),
        }
        let copy = sandbox.fork().await.unwrap();
        // With firecracker, the command also continues in the fork.
        let read = "test -e /a && for n in 1 2 3; do cat /a /b; done";
        let printed = done(sh(&copy, read).await);
        if name != "firecracker" {
            let numbers: Vec<u64> = printed.lines().map(|line| line.parse().unwrap()).collect();
            assert!(numbers.chunks(2).all(|pair| pair[0] - pair[1] <= 1 && pair == &numbers[..2]), "{round}: {numbers:?}");
        }
        copy.destroy().await.unwrap();
    }
    // The command continues.
    let read = async || done(sh(&sandbox, "cat /b").await);
    let now = read().await;
    while read().await == now {}
    handle.end(agentd::isolation::EndReason::Cancelled).await.unwrap();
    handle.wait().await.unwrap();
    sandbox.destroy().await.unwrap();
}

async fn forks_of_forks_outlive_their_origins(name: &str) {
    let generations = if name == "container" { 12 } else { 2 };
    let mut sandbox = layered(name).await;
    for generation in 0..generations {
        done(sh(&sandbox, &format!("echo {generation} >>/grown; echo {generation} >/only-{generation}")).await);
        let next = sandbox.fork().await.unwrap();
        sandbox.destroy().await.unwrap();
        sandbox = next;
    }
    let grown: String = (0..generations).map(|generation| format!("{generation}\n")).collect();
    assert_eq!(done(sh(&sandbox, "cat /grown; ls / | grep -c only-").await), format!("{grown}{generations}\n"));
    sandbox.destroy().await.unwrap();
}

async fn cancelled_snapshot_or_fork_leaves_sandbox_usable(name: &str) {
    let sandbox = bare(name).await;
    let mut handle = sandbox
        .exec_streaming(script("i=0; while :; do i=$((i+1)); echo $i >/beat.new; mv /beat.new /beat; done & echo; wait"))
        .await
        .unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    rustix::io::read(&stdout, &mut [0u8; 1][..]).unwrap();
    let beat = async || sandbox.read_file(Path::new("/beat"), 100).await;
    while beat().await.is_err() {}
    for moment in 0..20 {
        let max_wait = std::time::Duration::from_micros(moment * 200);
        drop(tokio::time::timeout(max_wait, sandbox.snapshot("moment")).await);
        drop(tokio::time::timeout(max_wait, sandbox.fork()).await);
        // The command continues.
        let now = beat().await.unwrap();
        while beat().await.unwrap() == now {}
    }
    handle.end(agentd::isolation::EndReason::Cancelled).await.unwrap();
    handle.wait().await.unwrap();
    // The next snapshot and restore succeed.
    sandbox.snapshot("moment").await.unwrap();
    sandbox.restore("moment").await.unwrap();
    assert!(!beat().await.unwrap().is_empty());
    sandbox.destroy().await.unwrap();
}
