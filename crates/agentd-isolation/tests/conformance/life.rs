//! The life of a sandbox.

use crate::{support::*, table};
use agentd_isolation::{IsolationError, SandboxSpec};
use libtest_mimic::Trial;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        a_sandbox_is_listed_while_it_lives,
        destroying_ends_what_runs_and_may_be_repeated,
        a_destroyed_sandbox_runs_nothing,
        a_dropped_sandbox_is_ended,
        many_commands_run_at_once,
        what_cannot_be_done_is_said,
        a_suspended_sandbox_stands_still_until_it_is_resumed,
        a_suspended_sandbox_is_destroyed,
        what_it_used_is_told,
        a_backend_is_healthy,
    )
}

async fn a_sandbox_is_listed_while_it_lives(name: &str) {
    let backend = backend(name);
    let one = backend.create_sandbox(SandboxSpec::default()).await.unwrap();
    let two = backend.create_sandbox(SandboxSpec::default()).await.unwrap();
    assert_ne!(one.id(), two.id());
    let listed = backend.list_sandboxes().await.unwrap();
    assert!(listed.contains(one.id()) && listed.contains(two.id()));
    assert_eq!(backend.get_sandbox(one.id()).await.unwrap().unwrap().id(), one.id());
    one.destroy().await.unwrap();
    assert_eq!(backend.list_sandboxes().await.unwrap(), [two.id().clone()]);
    assert!(backend.get_sandbox(one.id()).await.unwrap().is_none());
    backend.destroy_all().await.unwrap();
    assert!(backend.list_sandboxes().await.unwrap().is_empty());
    assert!(!two.is_alive().await);
}

async fn destroying_ends_what_runs_and_may_be_repeated(name: &str) {
    let sandbox = bare(name).await;
    let seconds = format!("{}77{}", name.len(), std::process::id());
    let mut handle = sandbox.exec_streaming(script(&format!("sleep {seconds}"))).await.unwrap();
    sh(&sandbox, ":").await;
    sandbox.destroy().await.unwrap();
    assert!(!runs(&format!("sleep {seconds}")));
    assert!(handle.wait().await.is_err());
    sandbox.destroy().await.unwrap();
}

async fn a_destroyed_sandbox_runs_nothing(name: &str) {
    let sandbox = bare(name).await;
    sandbox.destroy().await.unwrap();
    assert!(matches!(sandbox.exec(script(":")).await, Err(IsolationError::Lost(_))));
}

async fn a_dropped_sandbox_is_ended(name: &str) {
    let sandbox = bare(name).await;
    let seconds = format!("{}88{}", name.len(), std::process::id());
    let handle = sandbox.exec_streaming(script(&format!("setsid sleep {seconds} & wait"))).await.unwrap();
    sh(&sandbox, ":").await;
    drop(handle);
    drop(sandbox);
    // The next order to the launcher brings it about at the latest.
    bare(name).await.destroy().await.unwrap();
    assert!(!runs(&format!("sleep {seconds}")));
}

async fn many_commands_run_at_once(name: &str) {
    let sandbox = bare(name).await;
    let mut running = Vec::new();
    for number in 0..20 {
        let sandbox = sandbox.clone();
        running.push(tokio::spawn(async move { sh(&sandbox, &format!("sleep 0.05; exit {number}")).await.exit_code }));
    }
    for (number, exit) in (0..20).zip(running) {
        assert_eq!(exit.await.unwrap(), Some(number));
    }
    sandbox.destroy().await.unwrap();
}

async fn what_cannot_be_done_is_said(name: &str) {
    let sandbox = bare(name).await;
    if ["firecracker", "gondolin", layers::NAME].contains(&name) {
        // It can do all of it, with what there is.
        assert!(matches!(sandbox.restore("x").await, Err(IsolationError::Invalid { .. })));
        return sandbox.destroy().await.unwrap();
    }
    assert!(matches!(sandbox.snapshot("x").await, Err(IsolationError::Unsupported { operation: "snapshot", .. })));
    assert!(matches!(sandbox.restore("x").await, Err(IsolationError::Unsupported { operation: "restore", .. })));
    assert!(matches!(sandbox.fork().await, Err(IsolationError::Unsupported { operation: "fork", .. })));
    sandbox.destroy().await.unwrap();
}

async fn what_it_used_is_told(name: &str) {
    let sandbox = bare(name).await;
    let before = sandbox.resource_usage().await.unwrap();
    assert!(before.cpu_user.is_zero() && !before.wall.is_zero());
    let used =
        sh(&sandbox, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done)")
            .await
            .usage;
    let again = sh(&sandbox, ":").await.usage;
    let all = sandbox.resource_usage().await.unwrap();
    assert!(!used.cpu_user.is_zero() && used.peak_memory > 0);
    assert_eq!(all.cpu_user, used.cpu_user + again.cpu_user);
    assert_eq!(all.cpu_system, used.cpu_system + again.cpu_system);
    assert_eq!((all.peak_memory, all.peak_memory_is_group), (used.peak_memory.max(again.peak_memory), false));
    assert!(all.wall > before.wall);
    let own_machine = ["gondolin", "firecracker", machine::NAME].contains(&name);
    assert_eq!(all.machine_memory.is_some_and(|bytes| bytes > 0), own_machine);
    sandbox.destroy().await.unwrap();
}

async fn a_backend_is_healthy(name: &str) {
    backend(name).health_check().await.unwrap();
}

/// Suspends; `false` where this backend, or this user without a cgroup, cannot and says so.
async fn suspended(sandbox: &std::sync::Arc<dyn agentd_isolation::Sandbox>, name: &str) -> bool {
    match sandbox.suspend().await {
        Ok(()) => true,
        Err(IsolationError::Unsupported { operation: "suspend", .. }) => {
            assert_eq!(name, "host-direct");
            false
        }
        Err(IsolationError::Layer(error)) => {
            assert!(error.to_string().contains("find a writable cgroup with the freezer controller"), "{error}");
            assert!(!rustix::process::geteuid().is_root());
            false
        }
        Err(other) => panic!("{other}"),
    }
}

async fn a_suspended_sandbox_stands_still_until_it_is_resumed(name: &str) {
    let sandbox = bare(name).await;
    if name == "host-direct" {
        assert!(!suspended(&sandbox, name).await);
        return;
    }
    let text = "while :; do (:); date +%s%N > /tmp/beat.new; mv /tmp/beat.new /tmp/beat; done & echo; wait";
    let mut handle = sandbox.exec_streaming(script(text)).await.unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    rustix::io::read(&stdout, &mut [0u8; 1][..]).unwrap();
    // It can be read only while it runs; what is written meanwhile shows whether it stood still.
    let beat = || async { sandbox.read_file(std::path::Path::new("/tmp/beat"), 100).await };
    while beat().await.is_err() {}
    if suspended(&sandbox, name).await {
        let elapsed = std::time::Duration::from_millis(300);
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        tokio::time::sleep(elapsed).await;
        let read = {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.read_file(std::path::Path::new("/tmp/beat"), 100).await.unwrap() })
        };
        tokio::task::yield_now().await;
        assert!(!read.is_finished(), "a suspended supervisor answered");
        sandbox.resume().await.unwrap();
        read.await.unwrap();
        // It goes on.
        let ago = |beat: Vec<u8>| String::from_utf8(beat).unwrap().trim().parse::<u128>().unwrap();
        while beat().await.map_or(0, ago) < before.as_nanos() + elapsed.as_nanos() {}
        // Twice is as good as once.
        assert!(suspended(&sandbox, name).await);
        sandbox.resume().await.unwrap();
        sandbox.resume().await.unwrap();
    }
    sandbox.destroy().await.unwrap();
}

async fn a_suspended_sandbox_is_destroyed(name: &str) {
    let sandbox = bare(name).await;
    let seconds = format!("{}99{}", name.len(), std::process::id());
    let _handle = sandbox.exec_streaming(script(&format!("setsid sleep {seconds} & sleep {seconds}"))).await.unwrap();
    sh(&sandbox, ":").await;
    suspended(&sandbox, name).await;
    sandbox.destroy().await.unwrap();
    assert!(!runs(&format!("sleep {seconds}")));
}
