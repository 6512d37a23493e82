//! Snapshots of machines: complete or absent, removed with the sandbox, and never executed.

use super::{Before, QEMU, descendant, machine, out, sh, warm_up};
use crate::support::script;
use agentd::isolation::IsolationError;
use rustix::process::Signal;
use std::{fs, path::PathBuf, task::Poll, time::Duration};

/// Returns the directory of this user's snapshots; it exists only while there are snapshots.
pub fn store() -> PathBuf {
    std::env::temp_dir().join(format!("agentd-gondolin-{}", rustix::process::geteuid().as_raw()))
}

/// Lists the snapshots.
pub fn saved() -> Vec<PathBuf> {
    fs::read_dir(store()).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

pub async fn stopped_guest() {
    warm_up().await;
    let before = Before::take();
    let sandbox = machine().await;
    sh(&sandbox, "echo kept >/file").await;
    let qemu = descendant(QEMU).unwrap();
    rustix::process::kill_process(qemu, Signal::STOP).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), sandbox.snapshot("never")).await.is_err());
    assert!(saved().is_empty());
    rustix::process::kill_process(qemu, Signal::CONT).unwrap();
    // No snapshot with this name exists, and the sandbox continues with its files.
    assert!(matches!(sandbox.restore("never").await, Err(IsolationError::Invalid { .. })));
    assert_eq!(out(&sh(&sandbox, "echo more >>/file; cat /file").await), "kept\nmore\n");
    sandbox.snapshot("now").await.unwrap();
    sandbox.destroy().await.unwrap();
    drop(sandbox);
    before.settle();
}

pub async fn payload_disk_not_executed() {
    let sandbox = machine().await;
    // Replace every program that a start from this disk would execute as root of the guest.
    let leave = "set -e; printf '#!/bin/sh\nexec /bin/sleep 1000\n' >/trap; chmod 755 /trap; \
        for of in init usr/lib/gondolin/busybox usr/bin/sandboxd; do rm -f /$of; cp /trap /$of; done; mkdir -p /run/root; \
        touch /run/agentd-guest; echo left >/file";
    assert_eq!(sh(&sandbox, leave).await.exit_code, Some(0));
    sandbox.snapshot("trap").await.unwrap();
    sandbox.restore("trap").await.unwrap();
    let copy = sandbox.fork().await.unwrap();
    for sandbox in [sandbox, copy] {
        let look =
            "cat /file; grep -c CapEff:.0000003fffffffff /proc/self/status; id -u; ls /dev/vd* 2>/dev/null; pidof sandboxd";
        assert_eq!(out(&sh(&sandbox, look).await), "left\n0\n0\n");
        sandbox.destroy().await.unwrap();
    }
}

/// Cancels the snapshot of a suspended sandbox after the machine was resumed for it: the commands must not continue to run.
async fn cancelled() {
    let sandbox = machine().await;
    sandbox.suspend().await.unwrap();
    let mut save = sandbox.snapshot("never");
    let mut polled = 0;
    std::future::poll_fn(|context| {
        polled += 1;
        assert!(save.as_mut().poll(context).is_pending(), "the snapshot needs more steps");
        // At the second step the machine has been resumed.
        if polled == 2 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    drop(save);
    let answered = tokio::time::timeout(Duration::from_secs(3), sandbox.exec(script(":"))).await;
    assert!(
        matches!(answered, Err(_) | Ok(Err(IsolationError::SandboxGone(_) | IsolationError::MachineLost(_)))),
        "{answered:?}"
    );
    sandbox.destroy().await.unwrap();
}

pub async fn removed_with_sandbox() {
    let sandbox = machine().await;
    assert!(saved().is_empty());
    for name in ["one", "two", "one"] {
        sandbox.snapshot(name).await.unwrap();
    }
    assert_eq!(saved().len(), 2);
    match sandbox.suspend().await {
        Ok(()) => {
            // A suspended sandbox stays suspended after a snapshot.
            sandbox.snapshot("two").await.unwrap();
            sandbox.resume().await.unwrap();
            cancelled().await;
        }
        // An ordinary user without a delegated cgroup cannot suspend.
        Err(error) => assert!(!rustix::process::geteuid().is_root() && error.to_string().contains("freezer"), "{error}"),
    }
    assert_eq!(saved().len(), 2);
    let copy = sandbox.fork().await.unwrap();
    for own in ["hostname", "cat /etc/machine-id"] {
        assert_ne!(out(&sh(&copy, own).await), out(&sh(&sandbox, own).await), "{own}");
    }
    assert_eq!(saved().len(), 2);
    sandbox.destroy().await.unwrap();
    assert!(saved().is_empty());
    copy.destroy().await.unwrap();
}
