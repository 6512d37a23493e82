//! Arguments, environment, working directory, streams and scheduling of a command.

use crate::{support::*, table};
use agentd::isolation::{Command, EndReason, IsolationError, StdinSource};
use libtest_mimic::Trial;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    let mut trials = table!(
        backend,
        exec_returns_output_and_exit_code,
        exec_killed_by_signal_returns_signal,
        exec_of_missing_or_not_executable_program_returns_errno,
        program_is_looked_up_in_path_of_command,
        environment_contains_only_given_variables,
        exec_starts_in_given_working_directory,
        exec_in_missing_working_directory_fails,
        input_larger_than_pipe_is_passed_while_output_is_read,
        unread_input_does_not_block_exec,
        exec_inherits_no_file_descriptor,
        standard_streams_can_be_opened_by_path,
        exec_of_malformed_command_fails_and_sandbox_stays_usable,
        arguments_with_any_bytes_are_passed_unchanged,
    );
    // Without a boundary these would change processes of the host.
    if backend != "host-direct" {
        trials.extend(table!(
            backend,
            hostile_rescheduling_does_not_affect_next_exec,
            command_can_reschedule_itself_its_threads_and_children,
        ));
    }
    trials
}

/// Prints nice value, policy, processors and I/O priority of the process `pid` on one line.
const SHOW_SCHEDULING: &str = "\
def show(pid): print(os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid), sorted(os.sched_getaffinity(pid)), \
    libc.syscall(252, 1, pid))
";

async fn hostile_rescheduling_does_not_affect_next_exec(backend: &str) {
    let sandbox = bare(backend).await;
    let python = |text: &str| {
        let whole = format!("import ctypes, os\nlibc = ctypes.CDLL(None)\n{SHOW_SCHEDULING}{text}");
        let sandbox = sandbox.clone();
        async move { sandbox.exec(command(&["/usr/bin/python3", "-c", &whole])).await.unwrap() }
    };
    let before = out(&python("show(0); show(1)").await);
    let hostile = "\
def attempt(call, *args):
  try: call(*args)
  except OSError: pass
for pid in [1, *range(2, 64), 0]:
  attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)
  attempt(os.sched_setaffinity, pid, {max(os.sched_getaffinity(0))})
  attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
  libc.syscall(251, 1, pid, 3 << 13)
attempt(os.setpriority, os.PRIO_USER, 0, 19)
attempt(os.setpriority, os.PRIO_PGRP, 1, 19)
libc.syscall(251, 3, os.getuid(), 3 << 13)
";
    python(hostile).await;
    assert_eq!(out(&python("show(0); show(1)").await), before);
    sandbox.destroy().await.unwrap();
}

async fn command_can_reschedule_itself_its_threads_and_children(backend: &str) {
    let sandbox = bare(backend).await;
    let text = "\
import os, signal, threading
child = os.fork()
if child == 0: signal.pause()
def change(pid):
  os.setpriority(os.PRIO_PROCESS, pid, 5)
  os.sched_setaffinity(pid, os.sched_getaffinity(pid))
  os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
for pid in [0, os.getpid(), child]: change(pid)
thread = threading.Thread(target=lambda: change(threading.get_native_id()))
thread.start(); thread.join()
print(os.getpriority(os.PRIO_PROCESS, child))
";
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", text])).await.unwrap();
    assert_eq!(out(&outcome), "5\n", "{outcome:?}");
    sandbox.destroy().await.unwrap();
}

async fn exec_returns_output_and_exit_code(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sh(&sandbox, "echo out; echo err >&2; exit 7").await;
    assert_eq!((outcome.reason, outcome.exit_code, outcome.signal), (EndReason::Exited, Some(7), None));
    assert_eq!(outcome.stdout.to_bytes(), b"out\n");
    assert_eq!(outcome.stderr.to_bytes(), b"err\n");
    sandbox.destroy().await.unwrap();
}

async fn exec_killed_by_signal_returns_signal(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sh(&sandbox, "kill -TERM $$").await;
    assert_eq!((outcome.reason, outcome.exit_code, outcome.signal), (EndReason::Signalled, None, Some(15)));
    assert_eq!(outcome.shell_code(), 143);
    sandbox.destroy().await.unwrap();
}

async fn exec_of_missing_or_not_executable_program_returns_errno(backend: &str) {
    let sandbox = bare(backend).await;
    for (program, expected) in
        [("/no/such/program", libc::ENOENT), ("no-such-program", libc::ENOENT), ("/etc/passwd", libc::EACCES)]
    {
        match sandbox.exec(command(&[program])).await {
            Err(IsolationError::Spawn { program: named, errno }) => assert_eq!((named.as_str(), errno), (program, expected)),
            other => panic!("{program}: {other:?}"),
        }
    }
    assert!(sandbox.is_alive().await);
    sandbox.destroy().await.unwrap();
}

async fn program_is_looked_up_in_path_of_command(backend: &str) {
    let sandbox = bare(backend).await;
    let found = Command { env: vec![("PATH".into(), "/nowhere:/usr/bin:/bin".into())], ..command(&["true"]) };
    assert_eq!(sandbox.exec(found).await.unwrap().exit_code, Some(0));
    let lost = Command { env: vec![("PATH".into(), "/nowhere".into())], ..command(&["true"]) };
    assert!(matches!(sandbox.exec(lost).await, Err(IsolationError::Spawn { errno: libc::ENOENT, .. })));
    sandbox.destroy().await.unwrap();
}

async fn environment_contains_only_given_variables(backend: &str) {
    let sandbox = bare(backend).await;
    let given = Command { env: vec![("A".into(), "1=2".into()), ("B".into(), "".into())], ..command(&["/usr/bin/env"]) };
    assert_eq!(out(&sandbox.exec(given).await.unwrap()), "A=1=2\nB=\n");
    sandbox.destroy().await.unwrap();
}

async fn exec_starts_in_given_working_directory(backend: &str) {
    let sandbox = bare(backend).await;
    let pwd = Command { cwd: Some("/usr/bin".into()), ..command(&["/bin/pwd"]) };
    assert_eq!(out(&sandbox.exec(pwd).await.unwrap()), "/usr/bin\n");
    sandbox.destroy().await.unwrap();
}

async fn exec_in_missing_working_directory_fails(backend: &str) {
    let sandbox = bare(backend).await;
    let error = sandbox.exec(Command { cwd: Some("/no/such".into()), ..command(&["/bin/pwd"]) }).await.unwrap_err().to_string();
    assert!(error.contains("chdir to the working directory: No such file"), "{error}");
    sandbox.destroy().await.unwrap();
}

async fn input_larger_than_pipe_is_passed_while_output_is_read(backend: &str) {
    let sandbox = bare(backend).await;
    let input: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let cat = Command { stdin: StdinSource::Bytes(input.clone()), capture: 4 << 20, ..command(&["/bin/cat"]) };
    assert_eq!(sandbox.exec(cat).await.unwrap().stdout.to_bytes(), input);
    sandbox.destroy().await.unwrap();
}

async fn unread_input_does_not_block_exec(backend: &str) {
    let sandbox = bare(backend).await;
    let ignoring = Command { stdin: StdinSource::Bytes(vec![0; 1 << 20]), ..command(&["/bin/true"]) };
    assert_eq!(sandbox.exec(ignoring).await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn standard_streams_can_be_opened_by_path(backend: &str) {
    let sandbox = bare(backend).await;
    let text = "cat /dev/stdin > /dev/stdout; echo e > /dev/stderr; echo f | tee /dev/fd/2 >/dev/null";
    let outcome = sandbox.exec(Command { stdin: StdinSource::Bytes(b"in\n".to_vec()), ..script(text) }).await.unwrap();
    assert_eq!((outcome.stdout.to_bytes(), outcome.stderr.to_bytes()), (b"in\n".to_vec(), b"e\nf\n".to_vec()));
    sandbox.destroy().await.unwrap();
}

async fn exec_inherits_no_file_descriptor(backend: &str) {
    let sandbox = bare(backend).await;
    // Descriptor 3 is the directory that `ls` reads.
    assert_eq!(out(&sandbox.exec(command(&["/bin/ls", "/proc/self/fd"])).await.unwrap()), "0\n1\n2\n3\n");
    sandbox.destroy().await.unwrap();
}

async fn exec_of_malformed_command_fails_and_sandbox_stays_usable(backend: &str) {
    let sandbox = bare(backend).await;
    let malformed = [
        command(&[]),
        command(&[""]),
        command(&["/bin/true", "a\0b"]),
        Command { env: vec![("A=B".into(), "c".into())], ..command(&["/bin/true"]) },
        Command { env: vec![("".into(), "c".into())], ..command(&["/bin/true"]) },
        Command { cwd: Some("/a\0b".into()), ..command(&["/bin/true"]) },
        Command { argv: vec!["/bin/true".into(), "x".repeat(5 << 20).into()], ..Command::default() },
    ];
    for command in malformed {
        assert!(matches!(sandbox.exec(command).await, Err(IsolationError::Invalid { .. })));
    }
    assert_eq!(sh(&sandbox, "exit 0").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn arguments_with_any_bytes_are_passed_unchanged(backend: &str) {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let sandbox = bare(backend).await;
    let odd = OsString::from_vec(b"a b\n'\"$(id)\xff\\".to_vec());
    let print = Command { argv: vec!["/usr/bin/printf".into(), "%s".into(), odd.clone()], ..command(&[]) };
    assert_eq!(sandbox.exec(print).await.unwrap().stdout.to_bytes(), odd.into_vec());
    // The kernel limits each argument to 128 KiB (`execve(2)`).
    let long = "x".repeat(120 << 10);
    let echo = Command { argv: vec!["/bin/echo".into(), long.clone().into()], ..command(&[]) };
    assert_eq!(out(&sandbox.exec(echo).await.unwrap()).trim_end(), long);
    sandbox.destroy().await.unwrap();
}
