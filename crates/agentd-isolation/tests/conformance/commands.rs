//! What a command is given.

use crate::{support::*, table};
use agentd_isolation::{Command, EndReason, IsolationError, StdinSource};
use libtest_mimic::Trial;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        a_command_runs_and_its_exit_code_is_told,
        a_signal_that_ends_a_command_is_told,
        a_program_that_is_not_there_is_told_with_its_errno,
        a_program_is_found_by_the_path_of_its_own_environment,
        the_environment_is_what_was_given_and_nothing_else,
        the_working_directory_is_what_was_given,
        a_working_directory_that_is_not_there_is_an_error,
        more_input_than_a_pipe_holds_is_taken_while_output_is_read,
        input_that_nobody_reads_does_no_harm,
        no_descriptor_is_inherited,
        its_streams_can_be_opened_by_name,
        malformed_commands_are_refused_and_change_nothing,
        arguments_are_passed_byte_by_byte,
    )
}

async fn a_command_runs_and_its_exit_code_is_told(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sh(&sandbox, "echo out; echo err >&2; exit 7").await;
    assert_eq!((outcome.reason, outcome.exit_code, outcome.signal), (EndReason::Exited, Some(7), None));
    assert_eq!(outcome.stdout.to_bytes(), b"out\n");
    assert_eq!(outcome.stderr.to_bytes(), b"err\n");
    sandbox.destroy().await.unwrap();
}

async fn a_signal_that_ends_a_command_is_told(backend: &str) {
    let sandbox = bare(backend).await;
    let outcome = sh(&sandbox, "kill -TERM $$").await;
    assert_eq!((outcome.reason, outcome.exit_code, outcome.signal), (EndReason::Signalled, None, Some(15)));
    assert_eq!(outcome.shell_code(), 143);
    sandbox.destroy().await.unwrap();
}

async fn a_program_that_is_not_there_is_told_with_its_errno(backend: &str) {
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

async fn a_program_is_found_by_the_path_of_its_own_environment(backend: &str) {
    let sandbox = bare(backend).await;
    let found = Command { env: vec![("PATH".into(), "/nowhere:/usr/bin:/bin".into())], ..command(&["true"]) };
    assert_eq!(sandbox.exec(found).await.unwrap().exit_code, Some(0));
    let lost = Command { env: vec![("PATH".into(), "/nowhere".into())], ..command(&["true"]) };
    assert!(matches!(sandbox.exec(lost).await, Err(IsolationError::Spawn { errno: libc::ENOENT, .. })));
    sandbox.destroy().await.unwrap();
}

async fn the_environment_is_what_was_given_and_nothing_else(backend: &str) {
    let sandbox = bare(backend).await;
    let given = Command { env: vec![("A".into(), "1=2".into()), ("B".into(), "".into())], ..command(&["/usr/bin/env"]) };
    assert_eq!(out(&sandbox.exec(given).await.unwrap()), "A=1=2\nB=\n");
    sandbox.destroy().await.unwrap();
}

async fn the_working_directory_is_what_was_given(backend: &str) {
    let sandbox = bare(backend).await;
    let there = Command { cwd: Some("/usr/bin".into()), ..command(&["/bin/pwd"]) };
    assert_eq!(out(&sandbox.exec(there).await.unwrap()), "/usr/bin\n");
    sandbox.destroy().await.unwrap();
}

async fn a_working_directory_that_is_not_there_is_an_error(backend: &str) {
    let sandbox = bare(backend).await;
    let error = sandbox.exec(Command { cwd: Some("/no/such".into()), ..command(&["/bin/pwd"]) }).await.unwrap_err().to_string();
    assert!(error.contains("chdir to the working directory: No such file"), "{error}");
    sandbox.destroy().await.unwrap();
}

async fn more_input_than_a_pipe_holds_is_taken_while_output_is_read(backend: &str) {
    let sandbox = bare(backend).await;
    let input: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let cat = Command { stdin: StdinSource::Bytes(input.clone()), capture: 4 << 20, ..command(&["/bin/cat"]) };
    assert_eq!(sandbox.exec(cat).await.unwrap().stdout.to_bytes(), input);
    sandbox.destroy().await.unwrap();
}

async fn input_that_nobody_reads_does_no_harm(backend: &str) {
    let sandbox = bare(backend).await;
    let deaf = Command { stdin: StdinSource::Bytes(vec![0; 1 << 20]), ..command(&["/bin/true"]) };
    assert_eq!(sandbox.exec(deaf).await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn its_streams_can_be_opened_by_name(backend: &str) {
    let sandbox = bare(backend).await;
    let text = "cat /dev/stdin > /dev/stdout; echo e > /dev/stderr; echo f | tee /dev/fd/2 >/dev/null";
    let outcome = sandbox.exec(Command { stdin: StdinSource::Bytes(b"in\n".to_vec()), ..script(text) }).await.unwrap();
    assert_eq!((outcome.stdout.to_bytes(), outcome.stderr.to_bytes()), (b"in\n".to_vec(), b"e\nf\n".to_vec()));
    sandbox.destroy().await.unwrap();
}

async fn no_descriptor_is_inherited(backend: &str) {
    let sandbox = bare(backend).await;
    // 3 is the listing itself.
    assert_eq!(out(&sandbox.exec(command(&["/bin/ls", "/proc/self/fd"])).await.unwrap()), "0\n1\n2\n3\n");
    sandbox.destroy().await.unwrap();
}

async fn malformed_commands_are_refused_and_change_nothing(backend: &str) {
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

async fn arguments_are_passed_byte_by_byte(backend: &str) {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let sandbox = bare(backend).await;
    let odd = OsString::from_vec(b"a b\n'\"$(id)\xff\\".to_vec());
    let print = Command { argv: vec!["/usr/bin/printf".into(), "%s".into(), odd.clone()], ..command(&[]) };
    assert_eq!(sandbox.exec(print).await.unwrap().stdout.to_bytes(), odd.into_vec());
    // Linux takes arguments of up to 128 KiB each.
    let long = "x".repeat(120 << 10);
    let echo = Command { argv: vec!["/bin/echo".into(), long.clone().into()], ..command(&[]) };
    assert_eq!(out(&sandbox.exec(echo).await.unwrap()).trim_end(), long);
    sandbox.destroy().await.unwrap();
}
