//! Creation, listing, suspension and destruction of sandboxes.

use crate::{support::*, table};
use agentd::isolation::{IsolationError, SandboxSpec};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        live_sandbox_is_listed_until_destroyed,
        destroy_kills_commands_and_can_be_repeated,
        exec_after_destroy_fails,
        dropped_sandbox_is_killed,
        many_execs_run_concurrently,
        unsupported_snapshot_operations_return_unsupported,
        suspended_sandbox_makes_no_progress_until_resumed,
        suspended_sandbox_can_be_destroyed,
        resource_usage_is_sum_of_execs,
        health_check_succeeds,
    )
}

async fn live_sandbox_is_listed_until_destroyed(name: &str) {
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

async fn destroy_kills_commands_and_can_be_repeated(name: &str) {
    let sandbox = bare(name).await;
    let seconds = format!("{}77{}", name.len(), std::process::id());
    let mut handle = sandbox.exec_streaming(script(&format!("sleep {seconds}"))).await.unwrap();
    sh(&sandbox, ":").await;
    sandbox.destroy().await.unwrap();
    assert!(!runs(&format!("sleep {seconds}")));
    assert!(handle.wait().await.is_err());
    sandbox.destroy().await.unwrap();
}

async fn exec_after_destroy_fails(name: &str) {
    let sandbox = bare(name).await;
    sandbox.destroy().await.unwrap();
    assert!(matches!(sandbox.exec(script(":")).await, Err(IsolationError::SandboxGone(_))));
}

async fn dropped_sandbox_is_killed(name: &str) {
    let sandbox = bare(name).await;
    let seconds = format!("{}88{}", name.len(), std::process::id());
    let handle = sandbox.exec_streaming(script(&format!("setsid sleep {seconds} & wait"))).await.unwrap();
    sh(&sandbox, ":").await;
    drop(handle);
    drop(sandbox);
    // The end of a dropped sandbox is asynchronous, so poll for it.
    bare(name).await.destroy().await.unwrap();
    while runs(&format!("sleep {seconds}")) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn many_execs_run_concurrently(name: &str) {
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

async fn unsupported_snapshot_operations_return_unsupported(name: &str) {
    let sandbox = bare(name).await;
    if ["firecracker", "gondolin", layers::NAME].contains(&name) {
        // These backends support all of the operations, so only the unknown snapshot is an error.
        assert!(matches!(sandbox.restore("x").await, Err(IsolationError::Invalid { .. })));
        return sandbox.destroy().await.unwrap();
    }
    assert!(matches!(sandbox.snapshot("x").await, Err(IsolationError::Unsupported { operation: "snapshot", .. })));
    assert!(matches!(sandbox.restore("x").await, Err(IsolationError::Unsupported { operation: "restore", .. })));
    assert!(matches!(sandbox.fork().await, Err(IsolationError::Unsupported { operation: "fork", .. })));
    sandbox.destroy().await.unwrap();
}

async fn resource_usage_is_sum_of_execs(name: &str) {
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

async fn health_check_succeeds(name: &str) {
    backend(name).health_check().await.unwrap();
}

/// Suspends the sandbox. Returns false if the backend, or this user without a cgroup, cannot do that and returns the error for
/// that.
async fn suspended(sandbox: &std::sync::Arc<dyn agentd::isolation::Sandbox>, name: &str) -> bool {
    match sandbox.suspend().await {
        Ok(()) => true,
        Err(IsolationError::Unsupported { operation: "suspend", .. }) => {
            assert_eq!(name, "host-direct");
            false
        }
        Err(IsolationError::Control(error)) => {
            assert!(error.to_string().contains("find a writable cgroup with the freezer controller"), "{error}");
            assert!(!rustix::process::geteuid().is_root());
            false
        }
        Err(other) => panic!("{other}"),
    }
}

async fn suspended_sandbox_makes_no_progress_until_resumed(name: &str) {
    let sandbox = bare(name).await;
    if name == "host-direct" {
        assert!(!suspended(&sandbox, name).await);
        return;
    }
    let text = "while :; do (:); date +%s%N > /tmp/beat.new; mv /tmp/beat.new /tmp/beat; done & echo; wait";
    let mut handle = sandbox.exec_streaming(script(text)).await.unwrap();
    let stdout = handle.take_streams().stdout.unwrap();
    rustix::io::read(&stdout, &mut [0u8; 1][..]).unwrap();
    // The file can be read only while the sandbox runs. Its time stamp shows whether the command ran in the meantime.
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
        // The command continues.
        let ago = |beat: Vec<u8>| String::from_utf8(beat).unwrap().trim().parse::<u128>().unwrap();
        while beat().await.map_or(0, ago) < before.as_nanos() + elapsed.as_nanos() {}
        // Suspending and resuming twice is allowed.
        assert!(suspended(&sandbox, name).await);
        sandbox.resume().await.unwrap();
        sandbox.resume().await.unwrap();
    }
    sandbox.destroy().await.unwrap();
}

async fn suspended_sandbox_can_be_destroyed(name: &str) {
    let sandbox = bare(name).await;
    let seconds = format!("{}99{}", name.len(), std::process::id());
    let _handle = sandbox.exec_streaming(script(&format!("setsid sleep {seconds} & sleep {seconds}"))).await.unwrap();
    sh(&sandbox, ":").await;
    suspended(&sandbox, name).await;
    sandbox.destroy().await.unwrap();
    assert!(!runs(&format!("sleep {seconds}")));
}
