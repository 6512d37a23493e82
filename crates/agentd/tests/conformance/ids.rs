//! The user ids that root inside a sandbox can use, and the owners of files that it creates. Sandboxes of root, and of an
//! ordinary user with subordinate ids, have separate host ids. For an ordinary user, `AGENTD_TEST_IDS` is `apart` if each sandbox
//! gets its own subordinate ids, and `shared` if the ids suffice for one sandbox only. If it is not set, the user has no
//! subordinate ids.

use crate::{support::*, table};
use agentd::isolation::{Access, Control, EndReason, Limits, Sandbox, SandboxSpec};
use libtest_mimic::Trial;
use std::{fs, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    match backend {
        "container" => table!(
            backend,
            root_inside_can_become_another_user_if_ids_exist,
            users_inside_are_isolated_from_each_other,
            concurrent_sandboxes_share_no_host_id_except_callers,
            files_in_grant_belong_to_owner_of_grant,
            process_limit_counts_all_users_of_sandbox,
        ),
        "linux-native" => table!(backend, files_in_grant_belong_to_owner_of_grant),
        _ => Vec::new(),
    }
}

/// Returns which subordinate ids exist: `apart`, `shared` or `none`.
fn ids() -> String {
    let root = rustix::process::geteuid().is_root();
    if root { "apart".to_owned() } else { std::env::var("AGENTD_TEST_IDS").unwrap_or_else(|_| "none".to_owned()) }
}

/// Returns the reported detail of the id map.
fn idmap_detail(sandbox: &Arc<dyn Sandbox>) -> String {
    sandbox.controls().iter().find(|layer| layer.control == Control::Idmap).unwrap().detail.clone()
}

const BECOME: &str = "setpriv --reuid 1000 --regid 1001 --clear-groups";

async fn root_inside_can_become_another_user_if_ids_exist(name: &str) {
    let sandbox = bare(name).await;
    let outcome = sh(
        &sandbox,
        &format!("{BECOME} sh -c 'id -u; id -g; id -G' && echo x > /tmp/f && chown 33:44 /tmp/f && stat -c %u:%g /tmp/f"),
    )
    .await;
    if ids() == "none" {
        assert_ne!(outcome.exit_code, Some(0));
        assert!(
            idmap_detail(&sandbox).contains("no other id is mapped: /etc/subuid assigns no ids to this user"),
            "{}",
            idmap_detail(&sandbox)
        );
    } else {
        assert_eq!(out(&outcome), "1000\n1001\n1001\n33:44\n", "{outcome:?}");
    }
    sandbox.destroy().await.unwrap();
}

async fn users_inside_are_isolated_from_each_other(name: &str) {
    if ids() == "none" {
        return assert!(idmap_detail(&bare(name).await).contains("no other id is mapped"));
    }
    let sandbox = bare(name).await;
    let text = format!(
        "umask 077; echo secret > /tmp/root; {BECOME} sh -c 'cat /tmp/root || kill -9 1 $PPID || chown 1000 /tmp/root || \
         echo kept; echo mine > /tmp/mine'; setpriv --reuid 1002 --regid 1002 --clear-groups cat /tmp/mine || echo kept"
    );
    assert_eq!(out(&sh(&sandbox, &text).await), "kept\nkept\n");
    sandbox.destroy().await.unwrap();
}

/// Returns the first host id of each range of a sandbox's id map, except for the caller's id.
async fn host_ids(sandbox: &Arc<dyn Sandbox>) -> Vec<u32> {
    let caller = rustix::process::geteuid().as_raw();
    let map = out(&sh(sandbox, "cat /proc/self/uid_map").await);
    let firsts = map.lines().map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap());
    firsts.filter(|first| *first != caller).collect()
}

async fn concurrent_sandboxes_share_no_host_id_except_callers(name: &str) {
    let (one, two) = (bare(name).await, bare(name).await);
    let (first, second) = (host_ids(&one).await, host_ids(&two).await);
    match ids().as_str() {
        "apart" => assert!(first.len() == 1 && second.len() == 1 && first != second, "{first:?} {second:?}"),
        "shared" => {
            assert_eq!(first, second);
            assert!(idmap_detail(&two).contains("shared with all sandboxes"), "{}", idmap_detail(&two));
        }
        _ => assert!(first.is_empty() && second.is_empty(), "{first:?} {second:?}"),
    }
    one.destroy().await.unwrap();
    two.destroy().await.unwrap();
}

async fn files_in_grant_belong_to_owner_of_grant(name: &str) {
    let root = directory();
    fs::write(root.path().join("before"), "").unwrap();
    let sandbox = with(name, SandboxSpec { grants: vec![grant(root.path(), Access::ReadWrite)], ..SandboxSpec::default() }).await;
    let text = format!(
        "cd {}; mkdir -m 777 open; echo x > made; for id in 1 33 1000 65534 65535; do chown $id made; chown $id:$id before; \
         chgrp $id open; setpriv --reuid $id --regid $id --clear-groups touch open/$id; done",
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

async fn process_limit_counts_all_users_of_sandbox(name: &str) {
    let limits = Limits { processes: Some(8), wall: Some(Duration::from_secs(30)), ..Limits::default() };
    let sandbox = with(name, SandboxSpec { limits, ..SandboxSpec::default() }).await;
    let text = "for id in 1 2 3 4 5; do setpriv --reuid $id --regid $id --clear-groups sh -c 'for i in 1 2 3 4; do \
        sleep 60 & echo began; done; wait' & done; wait";
    let outcome = sh(&sandbox, text).await;
    let began = out(&outcome).lines().count();
    assert!(began <= 8, "{began}: {outcome:?}");
    // If no cgroup counts the processes, the sandbox has no other user ids.
    let refused = String::from_utf8_lossy(&outcome.stderr.to_bytes()).contains("Operation not permitted") && began == 0;
    assert!(outcome.reason == EndReason::ProcessLimit || refused || ids() == "none" && began == 0, "{outcome:?}");
    sandbox.destroy().await.unwrap();
}
