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
    assert!(matches!(sandbox.snapshot("x").await, Err(IsolationError::Unsupported { operation: "snapshot", .. })));
    assert!(matches!(sandbox.restore("x").await, Err(IsolationError::Unsupported { operation: "restore", .. })));
    assert!(matches!(sandbox.fork().await, Err(IsolationError::Unsupported { operation: "fork", .. })));
    assert!(matches!(sandbox.suspend().await, Err(IsolationError::Unsupported { operation: "suspend", .. })));
    sandbox.destroy().await.unwrap();
}

async fn a_backend_is_healthy(name: &str) {
    backend(name).health_check().await.unwrap();
}
