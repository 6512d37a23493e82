//! Whom a payload that is root inside can become, and whose what it leaves is. Root's sandboxes have ids of their own, and so have those of
//! an ordinary user with subordinate ids. `AGENTD_TEST_IDS` says what such a user has: `apart` when a sandbox need not share them, `shared`
//! when there are enough for one only; without it there are none.

use crate::{support::*, table};
use agentd_isolation::{Access, EndReason, Layer, Limits, Sandbox, SandboxSpec};
use libtest_mimic::Trial;
use std::{fs, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    match backend {
        "container" => table!(
            backend,
            root_becomes_another_user_where_there_is_one,
            what_one_user_inside_keeps_from_the_others_is_kept,
            sandboxes_that_live_at_once_share_no_id_but_the_callers,
            what_is_written_in_a_grant_is_its_owners,
            a_limit_of_processes_holds_for_all_users_together,
        ),
        "linux-native" => table!(backend, what_is_written_in_a_grant_is_its_owners),
        _ => Vec::new(),
    }
}

/// What ids there are: `apart`, `shared` or `none`.
fn ids() -> String {
    let root = rustix::process::geteuid().is_root();
    if root { "apart".to_owned() } else { std::env::var("AGENTD_TEST_IDS").unwrap_or_else(|_| "none".to_owned()) }
}

/// What is said of the map of ids.
fn told(sandbox: &Arc<dyn Sandbox>) -> String {
    sandbox.layers().iter().find(|layer| layer.layer == Layer::Idmap).unwrap().detail.clone()
}

const BECOME: &str = "setpriv --reuid 1000 --regid 1001 --clear-groups";

async fn root_becomes_another_user_where_there_is_one(name: &str) {
    let sandbox = bare(name).await;
    let outcome = sh(
        &sandbox,
        &format!("{BECOME} sh -c 'id -u; id -g; id -G' && echo x > /tmp/f && chown 33:44 /tmp/f && stat -c %u:%g /tmp/f"),
    )
    .await;
    if ids() == "none" {
        assert_ne!(outcome.exit_code, Some(0));
        assert!(told(&sandbox).contains("there is no other: /etc/subuid gives you none"), "{}", told(&sandbox));
    } else {
        assert_eq!(out(&outcome), "1000\n1001\n1001\n33:44\n", "{outcome:?}");
    }
    sandbox.destroy().await.unwrap();
}

async fn what_one_user_inside_keeps_from_the_others_is_kept(name: &str) {
    if ids() == "none" {
        return assert!(told(&bare(name).await).contains("there is no other"));
    }
    let sandbox = bare(name).await;
    let text = format!(
        "umask 077; echo secret > /tmp/root; {BECOME} sh -c 'cat /tmp/root || kill -9 1 $PPID || chown 1000 /tmp/root || echo kept; echo mine > /tmp/mine'; \
         setpriv --reuid 1002 --regid 1002 --clear-groups cat /tmp/mine || echo kept"
    );
    assert_eq!(out(&sh(&sandbox, &text).await), "kept\nkept\n");
    sandbox.destroy().await.unwrap();
}

/// The host ids of a sandbox beside the caller's: the first of each range that is not the caller's.
async fn host_ids(sandbox: &Arc<dyn Sandbox>) -> Vec<u32> {
    let caller = rustix::process::geteuid().as_raw();
    let map = out(&sh(sandbox, "cat /proc/self/uid_map").await);
    let firsts = map.lines().map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap());
    firsts.filter(|first| *first != caller).collect()
}

async fn sandboxes_that_live_at_once_share_no_id_but_the_callers(name: &str) {
    let (one, two) = (bare(name).await, bare(name).await);
    let (first, second) = (host_ids(&one).await, host_ids(&two).await);
    match ids().as_str() {
        "apart" => assert!(first.len() == 1 && second.len() == 1 && first != second, "{first:?} {second:?}"),
        "shared" => {
            assert_eq!(first, second);
            assert!(told(&two).contains("shared with all sandboxes"), "{}", told(&two));
        }
        _ => assert!(first.is_empty() && second.is_empty(), "{first:?} {second:?}"),
    }
    one.destroy().await.unwrap();
    two.destroy().await.unwrap();
}

async fn what_is_written_in_a_grant_is_its_owners(name: &str) {
    let root = directory();
    fs::write(root.path().join("before"), "").unwrap();
    let sandbox = with(name, SandboxSpec { grants: vec![grant(root.path(), Access::ReadWrite)], ..SandboxSpec::default() }).await;
    let text = format!(
        "cd {}; mkdir -m 777 open; echo x > made; for id in 1 33 1000 65534 65535; do chown $id made; chown $id:$id before; chgrp $id open; \
         setpriv --reuid $id --regid $id --clear-groups touch open/$id; done",
        root.path().display()
    );
    sh(&sandbox, &text).await;
    let own = fs::metadata(root.path()).unwrap();
    let names = ["before", "made", "open"].map(|name| root.path().join(name));
    for path in names.into_iter().chain(fs::read_dir(root.path().join("open")).unwrap().map(|entry| entry.unwrap().path())) {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (own.uid(), own.gid()), "{}", path.display());
    }
    sandbox.destroy().await.unwrap();
}

async fn a_limit_of_processes_holds_for_all_users_together(name: &str) {
    let limits = Limits { processes: Some(8), wall: Some(Duration::from_secs(30)), ..Limits::default() };
    let sandbox = with(name, SandboxSpec { limits, ..SandboxSpec::default() }).await;
    let text = "for id in 1 2 3 4 5; do setpriv --reuid $id --regid $id --clear-groups sh -c 'for i in 1 2 3 4; do sleep 60 & echo began; done; wait' & done; wait";
    let outcome = sh(&sandbox, text).await;
    let began = out(&outcome).lines().count();
    assert!(began <= 8, "{began}: {outcome:?}");
    // Where no cgroup counts them, nobody becomes another user in the first place.
    let refused = String::from_utf8_lossy(&outcome.stderr.to_bytes()).contains("Operation not permitted") && began == 0;
    assert!(outcome.reason == EndReason::ProcessLimit || refused || ids() == "none" && began == 0, "{outcome:?}");
    sandbox.destroy().await.unwrap();
}
