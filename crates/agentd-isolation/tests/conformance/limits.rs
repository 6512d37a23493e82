//! Each limit is exceeded, and the outcome says which one it was.

use crate::{support::*, table};
use agentd_isolation::{
    Bytes, Command, CpuQuota, EndReason, IsolationError, Layer, LayerStatus, Limits, Outcome, Sandbox, SandboxSpec,
};
use libtest_mimic::Trial;
use std::{sync::Arc, time::Duration};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        output_over_the_limit_ends_the_command,
        output_over_the_capture_is_cut_in_the_middle_and_counted,
        processor_time_over_the_limit_ends_the_command,
        processor_time_is_counted_over_all_processes,
        a_file_over_the_limit_ends_the_command,
        descriptors_over_the_limit_are_refused,
        memory_over_the_limit_ends_the_command_or_is_refused_beforehand,
        processes_over_the_limit_end_the_command_or_are_refused_beforehand,
        a_cpu_quota_slows_the_command_or_is_refused_beforehand,
        a_command_cannot_ask_for_what_only_its_sandbox_can_hold,
        limits_that_are_kept_change_nothing,
        the_tighter_limit_of_sandbox_and_command_holds,
        limits_beyond_all_reason_are_no_limits_and_those_below_it_are_refused,
    )
}

fn limited(limits: Limits, text: &str) -> Command {
    Command { limits, ..script(text) }
}

async fn output_over_the_limit_ends_the_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { output: Some(Bytes(1 << 20)), ..Limits::default() };
    let outcome = sandbox.exec(limited(limits, "yes")).await.unwrap();
    assert_eq!((outcome.reason, outcome.shell_code()), (EndReason::OutputLimit, 137));
    assert!(outcome.stdout.total() > 1 << 20);
    sandbox.destroy().await.unwrap();
}

async fn output_over_the_capture_is_cut_in_the_middle_and_counted(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sandbox.exec(Command { capture: 20, ..script("seq 1 100000") }).await.unwrap();
    assert_eq!(outcome.reason, EndReason::Exited);
    assert_eq!(outcome.stdout.head, b"1\n2\n3\n4\n5\n");
    assert_eq!(outcome.stdout.tail, b"99\n100000\n");
    assert_eq!(outcome.stdout.total(), 588_895);
    sandbox.destroy().await.unwrap();
}

async fn processor_time_over_the_limit_ends_the_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { cpu_time: Some(Duration::from_secs(1)), ..Limits::default() };
    let outcome = sandbox.exec(limited(limits, "while :; do :; done")).await.unwrap();
    assert_eq!(outcome.reason, EndReason::CpuLimit);
    // By the kernel's ticks it was a second; measured, it may have been less.
    assert!(outcome.usage.cpu_user + outcome.usage.cpu_system >= Duration::from_millis(300));
    sandbox.destroy().await.unwrap();
}

async fn processor_time_is_counted_over_all_processes(backend: &str) {
    let limits = Limits { cpu_time: Some(Duration::from_secs(1)), wall: Some(Duration::from_secs(8)), ..Limits::default() };
    let sandbox = support_sandbox(backend, limits).await.unwrap();
    // None of them lives long enough to be over the limit alone.
    let text = "while :; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; done";
    let outcome = sh(&sandbox, text).await;
    match sandbox.layers().iter().find(|l| l.layer == Layer::Rlimits) {
        None => assert_eq!(outcome.reason, EndReason::CpuLimit),
        // Without a cgroup that is more than can be done, and the sandbox says so.
        Some(report) => assert!(matches!(report.status, LayerStatus::Partial(_))),
    }
    sandbox.destroy().await.unwrap();
}

async fn a_file_over_the_limit_ends_the_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { file_size: Some(Bytes(1 << 20)), ..Limits::default() };
    let file = format!("/tmp/agentd-test-big-{}", std::process::id());
    let outcome = sandbox.exec(limited(limits, &format!("exec head -c 3000000 /dev/zero > {file}"))).await.unwrap();
    sh(&sandbox, &format!("rm -f {file}")).await;
    assert_eq!((outcome.reason, outcome.signal), (EndReason::DiskLimit, Some(libc::SIGXFSZ)));
    sandbox.destroy().await.unwrap();
}

async fn descriptors_over_the_limit_are_refused(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { open_files: Some(8), ..Limits::default() };
    let outcome = sandbox
        .exec(limited(limits, "f=/etc/passwd; exec 3<$f 4<$f 5<$f 6<$f 7<$f && echo five; exec 8<$f && echo six"))
        .await
        .unwrap();
    assert_eq!(out(&outcome), "five\n", "{outcome:?}");
    sandbox.destroy().await.unwrap();
}

/// Runs in a sandbox with `limits`; `None` where this user has no cgroup for them and is told so.
async fn in_group(backend: &str, limits: Limits, text: &str) -> Option<Outcome> {
    match support_sandbox(backend, limits).await {
        Ok(sandbox) => {
            let outcome = sh(&sandbox, text).await;
            sandbox.destroy().await.unwrap();
            Some(outcome)
        }
        Err(IsolationError::Layer(error)) => {
            assert_eq!(error.layer, Layer::Cgroup);
            assert!(!error.remedy.is_empty());
            assert!(!rustix::process::geteuid().is_root(), "root has cgroups: {error}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

async fn support_sandbox(name: &str, limits: Limits) -> Result<Arc<dyn Sandbox>, IsolationError> {
    backend(name).create_sandbox(SandboxSpec { limits, ..SandboxSpec::default() }).await
}

async fn memory_over_the_limit_ends_the_command_or_is_refused_beforehand(backend: &str) {
    let limits = Limits { memory: Some(Bytes(64 << 20)), wall: Some(Duration::from_secs(30)), ..Limits::default() };
    // The shell would go on after its child's death; the group does not.
    if let Some(outcome) = in_group(backend, limits, "head -c 800000000 /dev/zero | tail >/dev/null; sleep 1000").await {
        assert_eq!(outcome.reason, EndReason::OutOfMemory);
        // The kernel counts the page that it then refuses.
        assert!(outcome.usage.peak_memory_is_group && outcome.usage.peak_memory < 65 << 20, "{:?}", outcome.usage);
    }
}

async fn processes_over_the_limit_end_the_command_or_are_refused_beforehand(backend: &str) {
    let limits = Limits { processes: Some(8), wall: Some(Duration::from_secs(30)), ..Limits::default() };
    // The leader itself survives, and waits.
    let text = "(i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; wait); sleep 1000";
    if let Some(outcome) = in_group(backend, limits, text).await {
        assert_eq!(outcome.reason, EndReason::ProcessLimit);
    }
}

async fn a_command_cannot_ask_for_what_only_its_sandbox_can_hold(backend: &str) {
    let sandbox = bare(backend).await;
    for limits in [
        Limits { memory: Some(Bytes(64 << 20)), ..Limits::default() },
        Limits { processes: Some(8), ..Limits::default() },
        Limits { cpu_quota: Some(CpuQuota(500)), ..Limits::default() },
        Limits { cpu_weight: Some(10), ..Limits::default() },
    ] {
        let result = sandbox.exec(limited(limits, ":")).await;
        assert!(matches!(result, Err(IsolationError::Invalid { .. })), "{result:?}");
    }
    sandbox.destroy().await.unwrap();
}

async fn a_cpu_quota_slows_the_command_or_is_refused_beforehand(backend: &str) {
    let limits = Limits { cpu_quota: Some(CpuQuota(200)), wall: Some(Duration::from_secs(2)), ..Limits::default() };
    if let Some(outcome) = in_group(backend, limits, "while :; do :; done").await {
        // Two seconds at a fifth of a processor are 0.4 seconds of its time.
        let used = outcome.usage.cpu_user + outcome.usage.cpu_system;
        assert!(used < Duration::from_millis(1000), "{used:?}");
    }
}

async fn limits_that_are_kept_change_nothing(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits {
        wall: Some(Duration::from_secs(50)),
        cpu_time: Some(Duration::from_secs(50)),
        open_files: Some(100),
        file_size: Some(Bytes(1 << 20)),
        output: Some(Bytes(3)),
        ..Limits::default()
    };
    let outcome = sandbox.exec(limited(limits, "echo ab")).await.unwrap();
    assert_eq!((outcome.reason, outcome.exit_code, out(&outcome).as_str()), (EndReason::Exited, Some(0), "ab\n"));
    sandbox.destroy().await.unwrap();
}

async fn the_tighter_limit_of_sandbox_and_command_holds(backend: &str) {
    let wall = |millis| Limits { wall: Some(slow(Duration::from_millis(millis))), ..Limits::default() };
    for (of_sandbox, of_command) in [(300, 60_000), (60_000, 300)] {
        let sandbox = support_sandbox(backend, wall(of_sandbox)).await.unwrap();
        let outcome = sandbox.exec(limited(wall(of_command), "sleep 50")).await.unwrap();
        assert_eq!(outcome.reason, EndReason::WallDeadline);
        sandbox.destroy().await.unwrap();
    }
}

async fn limits_beyond_all_reason_are_no_limits_and_those_below_it_are_refused(backend: &str) {
    let sandbox = bare(backend).await;
    let limits =
        Limits { wall: Some(Duration::MAX), cpu_time: Some(Duration::MAX), output: Some(Bytes(u64::MAX)), ..Limits::default() };
    assert_eq!(sandbox.exec(limited(limits, "exit 4")).await.unwrap().exit_code, Some(4));
    sandbox.destroy().await.unwrap();
    for limits in [Limits { memory: Some(Bytes(4096)), ..Limits::default() }, Limits { processes: Some(0), ..Limits::default() }]
    {
        assert!(matches!(support_sandbox(backend, limits).await, Err(IsolationError::Invalid { .. })));
    }
}
