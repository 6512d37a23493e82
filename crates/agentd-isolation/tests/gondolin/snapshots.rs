//! What is saved of machines: it comes whole or not at all, goes with its sandbox, and starts nothing.

use super::{Before, QEMU, descendant, machine, once, out, sh};
use crate::support::script;
use agentd_isolation::IsolationError;
use rustix::process::Signal;
use std::{fs, path::PathBuf, task::Poll, time::Duration};

/// Where what is saved of machines is, by this user: there for as long as something is saved.
pub fn store() -> PathBuf {
    std::env::temp_dir().join(format!("agentd-gondolin-{}", rustix::process::geteuid().as_raw()))
}

/// What is saved of machines.
pub fn saved() -> Vec<PathBuf> {
    fs::read_dir(store()).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

pub async fn unanswered() {
    once().await;
    let before = Before::take();
    let sandbox = machine().await;
    sh(&sandbox, "echo kept >/file").await;
    let qemu = descendant(QEMU).unwrap();
    rustix::process::kill_process(qemu, Signal::STOP).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), sandbox.snapshot("never")).await.is_err());
    assert!(saved().is_empty());
    rustix::process::kill_process(qemu, Signal::CONT).unwrap();
    // Nothing was saved under the name, and the sandbox goes on, its files too.
    assert!(matches!(sandbox.restore("never").await, Err(IsolationError::Invalid { .. })));
    assert_eq!(out(&sh(&sandbox, "echo more >>/file; cat /file").await), "kept\nmore\n");
    sandbox.snapshot("now").await.unwrap();
    sandbox.destroy().await.unwrap();
    drop(sandbox);
    before.settle();
}

pub async fn nothing_starts_from_it() {
    let sandbox = machine().await;
    // All that would be executed if a machine started from it: whoever ran in its place would be root of the guest.
    let leave = "set -e; printf '#!/bin/sh\nexec /bin/sleep 1000\n' >/trap; chmod 755 /trap; for of in init usr/lib/gondolin/busybox usr/bin/sandboxd; do \
        rm -f /$of; cp /trap /$of; done; mkdir -p /run/root; touch /run/agentd-guest; echo left >/file";
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

/// What is stopped and let go on to be saved does not run on when nobody waits for that any more.
async fn given_up() {
    let sandbox = machine().await;
    sandbox.suspend().await.unwrap();
    let mut save = sandbox.snapshot("never");
    let mut polled = 0;
    std::future::poll_fn(|context| {
        polled += 1;
        assert!(save.as_mut().poll(context).is_pending(), "it takes more steps");
        // By the second the machine has been let go on.
        if polled == 2 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    drop(save);
    let answered = tokio::time::timeout(Duration::from_secs(3), sandbox.exec(script(":"))).await;
    assert!(matches!(answered, Err(_) | Ok(Err(IsolationError::Lost(_)))), "{answered:?}");
    sandbox.destroy().await.unwrap();
}

pub async fn saved_goes() {
    let sandbox = machine().await;
    assert!(saved().is_empty());
    for name in ["one", "two", "one"] {
        sandbox.snapshot(name).await.unwrap();
    }
    assert_eq!(saved().len(), 2);
    match sandbox.suspend().await {
        Ok(()) => {
            // What is stopped stays so.
            sandbox.snapshot("two").await.unwrap();
            sandbox.resume().await.unwrap();
            given_up().await;
        }
        // Not for an ordinary user without a delegated group.
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
