//! Exceeds each limit and checks the reason in the outcome.

use crate::{support::*, table};
use agentd::isolation::{
    Bytes, Command, Control, ControlStatus, CpuQuota, EndReason, IsolationError, Limits, Outcome, Remedy, Sandbox, SandboxSpec,
};
use libtest_mimic::Trial;
use std::{sync::Arc, time::Duration};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    let mut trials = table!(
        backend,
        output_above_limit_kills_command,
        output_above_limit_in_grace_period_kills_command,
        output_above_capture_size_is_cut_in_middle_and_counted,
        cpu_time_above_limit_kills_command,
        cpu_time_is_counted_over_all_processes,
        file_size_above_limit_kills_command,
        open_files_above_limit_fail,
        memory_above_limit_kills_command_or_limit_is_refused,
        memory_of_every_kind_above_limit_has_reason_out_of_memory,
        processes_above_limit_kill_command_or_limit_is_refused,
        cpu_quota_throttles_command_or_is_refused,
        exec_with_limit_of_sandbox_fails,
        limits_not_exceeded_do_not_affect_command,
        tighter_limit_of_sandbox_and_exec_applies,
        huge_limits_are_accepted_and_tiny_limits_refused,
    );
    // Commands in `host-direct` see the cgroup files of the host.
    if backend != "host-direct" {
        trials.extend(table!(backend, cgroup_limits_are_readable_and_not_writable_inside));
    }
    // In linux-native, a JVM finds the host's mounts first, which are covered: docs/decisions/0073.
    if backend == "container" {
        trials.extend(table!(backend, limits_are_where_a_jvm_looks_for_them));
    }
    trials
}

fn limited(limits: Limits, text: &str) -> Command {
    Command { limits, ..script(text) }
}

async fn output_above_limit_kills_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { output: Some(Bytes(1 << 20)), ..Limits::default() };
    let outcome = sandbox.exec(limited(limits, "yes")).await.unwrap();
    assert_eq!((outcome.reason, outcome.shell_code()), (EndReason::OutputLimit, 137));
    assert!(outcome.stdout.total() > 1 << 20);
    sandbox.destroy().await.unwrap();
}

async fn output_above_limit_in_grace_period_kills_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { grace: Some(Duration::from_secs(300)), output: Some(Bytes(1 << 20)), ..Limits::default() };
    let outcome = with_deadline_after_first_line(&sandbox, limits, "trap 'yes' TERM; echo; sleep 1000 & wait").await;
    // The reason is the limit that was exceeded first.
    assert_eq!((outcome.reason, outcome.shell_code()), (EndReason::WallDeadline, 124));
    assert!(outcome.stdout.total() > 1 << 20);
    assert!(outcome.usage.wall < Duration::from_secs(300));
    sandbox.destroy().await.unwrap();
}

async fn output_above_capture_size_is_cut_in_middle_and_counted(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sandbox.exec(Command { capture: 20, ..script("seq 1 100000") }).await.unwrap();
    assert_eq!(outcome.reason, EndReason::Exited);
    assert_eq!(outcome.stdout.head, b"1\n2\n3\n4\n5\n");
    assert_eq!(outcome.stdout.tail, b"99\n100000\n");
    assert_eq!(outcome.stdout.total(), 588_895);
    sandbox.destroy().await.unwrap();
}

async fn cpu_time_above_limit_kills_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { cpu_time: Some(Duration::from_secs(1)), ..Limits::default() };
    let outcome = sandbox.exec(limited(limits, "while :; do :; done")).await.unwrap();
    assert_eq!(outcome.reason, EndReason::CpuLimit);
    // The kernel enforces the limit by sampled ticks, so the measured time may be shorter than a second.
    assert!(outcome.usage.cpu_user + outcome.usage.cpu_system >= Duration::from_millis(300));
    sandbox.destroy().await.unwrap();
}

async fn cpu_time_is_counted_over_all_processes(backend: &str) {
    let limits = Limits { cpu_time: Some(Duration::from_secs(1)), wall: Some(Duration::from_secs(8)), ..Limits::default() };
    let sandbox = create_with(backend, limits).await.unwrap();
    // No single process runs long enough to exceed the limit.
    let text = "while :; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; done";
    let outcome = sh(&sandbox, text).await;
    match sandbox.controls().iter().find(|l| l.control == Control::Rlimits) {
        None => assert_eq!(outcome.reason, EndReason::CpuLimit),
        // Without a cgroup the limit applies to each process, and the sandbox reports that as partial.
        Some(report) => assert!(matches!(report.status, ControlStatus::Partial(_))),
    }
    sandbox.destroy().await.unwrap();
}

async fn file_size_above_limit_kills_command(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { file_size: Some(Bytes(1 << 20)), ..Limits::default() };
    let file = format!("/tmp/agentd-test-big-{}", std::process::id());
    let outcome = sandbox.exec(limited(limits, &format!("exec head -c 3000000 /dev/zero > {file}"))).await.unwrap();
    sh(&sandbox, &format!("rm -f {file}")).await;
    assert_eq!((outcome.reason, outcome.signal), (EndReason::FileSizeLimit, Some(libc::SIGXFSZ)));
    sandbox.destroy().await.unwrap();
}

async fn open_files_above_limit_fail(backend: &str) {
    let sandbox = bare(backend).await;
    let limits = Limits { open_files: Some(8), ..Limits::default() };
    let outcome = sandbox
        .exec(limited(limits, "f=/etc/passwd; exec 3<$f 4<$f 5<$f 6<$f 7<$f && echo five; exec 8<$f && echo six"))
        .await
        .unwrap();
    assert_eq!(out(&outcome), "five\n", "{outcome:?}");
    sandbox.destroy().await.unwrap();
}

/// Runs a script in a sandbox with `limits`. Returns `None` if creation fails with the error for a missing cgroup.
async fn in_group(backend: &str, limits: Limits, text: &str) -> Option<Outcome> {
    match create_with(backend, limits).await {
        Ok(sandbox) => {
            let outcome = sh(&sandbox, text).await;
            sandbox.destroy().await.unwrap();
            Some(outcome)
        }
        Err(IsolationError::Control(error)) => {
            assert_eq!(error.control, Control::Cgroup);
            assert!(error.remedy != Remedy::None);
            assert!(!rustix::process::geteuid().is_root(), "root has cgroups: {error}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

async fn create_with(name: &str, limits: Limits) -> Result<Arc<dyn Sandbox>, IsolationError> {
    backend(name).create_sandbox(SandboxSpec { limits, ..SandboxSpec::default() }).await
}

async fn memory_above_limit_kills_command_or_limit_is_refused(backend: &str) {
    let limits = Limits { memory: Some(Bytes(64 << 20)), wall: Some(Duration::from_secs(30)), ..Limits::default() };
    // The shell would continue after its child was killed, but the whole cgroup is killed.
    if let Some(outcome) = in_group(backend, limits, "head -c 800000000 /dev/zero | tail >/dev/null; sleep 1000").await {
        assert_eq!(outcome.reason, EndReason::OutOfMemory);
        // The kernel also counts the page whose allocation it refuses.
        assert!(outcome.usage.peak_memory_is_group && outcome.usage.peak_memory < 65 << 20, "{:?}", outcome.usage);
    }
}

/// Ways to use memory that is charged to the group and is mostly not resident in the process. A shell that uses such memory has
/// less resident memory than a supervisor.
const KINDS_OF_MEMORY: [(&str, &str); 7] = [
    ("anonymous", "exec tail /dev/zero"),
    ("a file in memory", "exec dd if=/dev/zero of=/dev/shm/x bs=64k"),
    ("a file in /tmp", "exec dd if=/dev/zero of=/tmp/x bs=64k"),
    ("a child of a waiting process", "dd if=/dev/zero of=/dev/shm/x bs=64k & sleep 1000"),
    (
        "pipes",
        "while True:\n  keep.append(os.pipe()); fcntl.fcntl(keep[-1][1], 1031, 1 << 20); os.write(keep[-1][1], bytes(1 << 20))",
    ),
    (
        "sockets",
        "while True:\n  keep.append(socket.socketpair()); keep[-1][0].setsockopt(1, 7, 1 << 20); \
         keep[-1][0].send(bytes(1 << 16))",
    ),
    ("an anonymous file", "f = os.memfd_create('x')\nwhile True: os.write(f, bytes(1 << 20))"),
];

async fn memory_of_every_kind_above_limit_has_reason_out_of_memory(backend: &str) {
    let limits = Limits { memory: Some(Bytes(32 << 20)), wall: Some(slow(Duration::from_secs(60))), ..Limits::default() };
    let mut wrong = Vec::new();
    for (kind, text) in KINDS_OF_MEMORY {
        // Without a boundary these files would be on the host, and with layers they are on disk.
        if backend == "host-direct" && text.contains("of=/") || backend == layers::NAME && text.contains("/tmp/x") {
            continue;
        }
        // The root of a machine is on the disk: a file in /tmp uses the disk instead of memory. The pages of programs are charged
        // to the group, so the kernel reclaims and reads them without end instead of killing a command with many sockets.
        if matches!(backend, "firecracker" | "gondolin") && matches!(kind, "a file in /tmp" | "sockets") {
            continue;
        }
        let sandbox = match create_with(backend, limits.clone()).await {
            Ok(sandbox) => sandbox,
            // `memory_above_limit_kills_command_or_limit_is_refused` checks the message.
            Err(_) if !rustix::process::geteuid().is_root() => return,
            Err(other) => panic!("{other}"),
        };
        let python = format!("import fcntl, os, socket\nkeep = []\n{text}");
        let command = if text.contains('\n') { command(&["/usr/bin/python3", "-c", &python]) } else { script(text) };
        match sandbox.exec(command).await {
            Ok(outcome) if (outcome.reason, outcome.shell_code()) == (EndReason::OutOfMemory, 137) => {}
            Ok(outcome) => {
                wrong.push(format!("{kind}: {:?} {}", outcome.reason, String::from_utf8_lossy(&outcome.stderr.to_bytes())))
            }
            Err(error) => wrong.push(format!("{kind}: {error}")),
        }
        sandbox.destroy().await.unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn processes_above_limit_kill_command_or_limit_is_refused(backend: &str) {
    let limits = Limits { processes: Some(8), wall: Some(Duration::from_secs(30)), ..Limits::default() };
    // The first process of the command survives and waits.
    let text = "(i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; wait); sleep 1000";
    if let Some(outcome) = in_group(backend, limits, text).await {
        assert_eq!(outcome.reason, EndReason::ProcessLimit);
    }
}

async fn exec_with_limit_of_sandbox_fails(backend: &str) {
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

async fn cpu_quota_throttles_command_or_is_refused(backend: &str) {
    let limits = Limits { cpu_quota: Some(CpuQuota(200)), wall: Some(Duration::from_secs(2)), ..Limits::default() };
    if let Some(outcome) = in_group(backend, limits, "while :; do :; done").await {
        // Two seconds at a fifth of a CPU are 0.4 s of CPU time.
        let used = outcome.usage.cpu_user + outcome.usage.cpu_system;
        assert!(used < Duration::from_millis(1000), "{used:?}");
    }
}

async fn cgroup_limits_are_readable_and_not_writable_inside(backend: &str) {
    let limits = Limits { cpu_quota: Some(CpuQuota(1000)), memory: Some(Bytes(64 << 20)), ..Limits::default() };
    // For both cgroup versions: the group is at the path and mount that `/proc` names, has this limit, and cannot be changed.
    let text = "set -e; nproc
        cd /sys/fs/cgroup; test -e memory.max || cd memory
        grep -q \"^[0-9]*:[a-z,]*:/$\" /proc/self/cgroup; grep -q \" / $PWD ro,\" /proc/self/mountinfo
        cat memory.max 2>/dev/null || cat memory.limit_in_bytes; test ! -e ../agentd.probe
        for f in memory.max memory.limit_in_bytes cgroup.procs tasks notify_on_release; do
            ! { echo 1 >$f; } 2>/dev/null; ! chmod 666 $f 2>/dev/null
        done
        ! mkdir inner 2>/dev/null; ! rmdir . 2>/dev/null; ls -d inner 2>/dev/null || echo kept";
    if let Some(outcome) = in_group(backend, limits, text).await {
        assert_eq!(out(&outcome), format!("1\n{}\nkept\n", 64 << 20), "{outcome:?}");
    }
}

/// Follows the search of a JVM on version 1: the first mount of each controller that it wants, if the group is the mount's root.
async fn limits_are_where_a_jvm_looks_for_them(backend: &str) {
    let text = "set -e; cd /sys/fs/cgroup
        if test -e memory.max; then cat memory.max; exit; fi
        for controller in memory cpu cpuacct cpuset; do
            grep -q \"^[0-9]*:[a-z,]*$controller[a-z,]*:/$\" /proc/self/cgroup
            test \"$(grep -E \" - cgroup .*[, ]$controller(,|\\$)\" /proc/self/mountinfo | head -1 | cut -d' ' -f4)\" = /
            ! { echo 0 >$controller/tasks; } 2>/dev/null; ! { echo 0 >$controller/$controller.shares; } 2>/dev/null
            ! { echo 0 >$controller/cpuset.cpus; } 2>/dev/null; ! mkdir $controller/inner 2>/dev/null
        done
        test -n \"$(cat cpuset/cpuset.cpus)\"; cat memory/memory.limit_in_bytes";
    let limits = Limits { memory: Some(Bytes(64 << 20)), ..Limits::default() };
    if let Some(outcome) = in_group(backend, limits, text).await {
        assert_eq!(out(&outcome), format!("{}\n", 64 << 20), "{outcome:?}");
    }
}

async fn limits_not_exceeded_do_not_affect_command(backend: &str) {
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

async fn tighter_limit_of_sandbox_and_exec_applies(backend: &str) {
    let wall = |millis| Limits { wall: Some(slow(Duration::from_millis(millis))), ..Limits::default() };
    for (of_sandbox, of_command) in [(300, 60_000), (60_000, 300)] {
        let sandbox = create_with(backend, wall(of_sandbox)).await.unwrap();
        let outcome = sandbox.exec(limited(wall(of_command), "sleep 50")).await.unwrap();
        assert_eq!(outcome.reason, EndReason::WallDeadline);
        sandbox.destroy().await.unwrap();
    }
}

async fn huge_limits_are_accepted_and_tiny_limits_refused(backend: &str) {
    let sandbox = bare(backend).await;
    let limits =
        Limits { wall: Some(Duration::MAX), cpu_time: Some(Duration::MAX), output: Some(Bytes(u64::MAX)), ..Limits::default() };
    assert_eq!(sandbox.exec(limited(limits, "exit 4")).await.unwrap().exit_code, Some(4));
    sandbox.destroy().await.unwrap();
    for limits in [Limits { memory: Some(Bytes(4096)), ..Limits::default() }, Limits { processes: Some(0), ..Limits::default() }]
    {
        assert!(matches!(create_with(backend, limits).await, Err(IsolationError::Invalid { .. })));
    }
}
