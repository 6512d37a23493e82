//! Streams that the caller reads and writes, and terminals.

use crate::{support::*, table};
use agentd::isolation::{Command, EndReason, IsolationError, PtySize, StdinSource};
use libtest_mimic::Trial;
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        output_is_streamed_while_command_runs,
        second_wait_for_exec_returns_already_waited,
        terminal_has_requested_size,
        terminal_without_input_has_an_empty_standard_input,
        resize_sends_sigwinch_to_command,
        signal_is_delivered_to_command,
        control_c_in_terminal_sends_sigint,
    )
}

fn terminal(text: &str) -> Command {
    Command { pty: Some(PtySize { rows: 30, cols: 100 }), stdin: StdinSource::Stream, ..script(text) }
}

/// Reads until the text contains `needle`.
fn read_until(file: &mut File, needle: &str) -> String {
    let mut text = String::new();
    let mut byte = [0u8; 1];
    while !text.contains(needle) {
        match file.read(&mut byte) {
            Ok(1) => text.push(char::from(byte[0])),
            _ => panic!("end of the stream after {text:?}"),
        }
    }
    text
}

async fn output_is_streamed_while_command_runs(backend: &str) {
    let sandbox = bare(backend).await;
    let echo = Command { stdin: StdinSource::Stream, ..script("while read line; do echo got $line; done; echo end >&2; exit 4") };
    let mut handle = sandbox.exec_streaming(echo).await.unwrap();
    let streams = handle.take_streams();
    let mut stdin = File::from(streams.stdin.unwrap());
    let mut stdout = File::from(streams.stdout.unwrap());
    for word in ["one", "two"] {
        stdin.write_all(format!("{word}\n").as_bytes()).unwrap();
        assert_eq!(read_until(&mut stdout, "\n"), format!("got {word}\n"));
    }
    drop(stdin);
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(4));
    let mut rest = String::new();
    File::from(streams.stderr.unwrap()).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "end\n");
    sandbox.destroy().await.unwrap();
}

async fn second_wait_for_exec_returns_already_waited(backend: &str) {
    let sandbox = bare(backend).await;
    let mut handle = sandbox.exec_streaming(script(":")).await.unwrap();
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    assert!(matches!(handle.wait().await, Err(IsolationError::AlreadyWaited)));
    sandbox.destroy().await.unwrap();
}

async fn pty(
    backend: &str,
    text: &str,
) -> (Box<dyn agentd::isolation::ExecHandle>, File, std::sync::Arc<dyn agentd::isolation::Sandbox>) {
    let sandbox = bare(backend).await;
    let mut handle = sandbox.exec_streaming(terminal(text)).await.unwrap();
    let master: OwnedFd = handle.take_streams().pty.unwrap();
    (handle, File::from(master), sandbox)
}

async fn terminal_has_requested_size(backend: &str) {
    let (mut handle, mut master, sandbox) =
        pty(backend, "test -t 0 && test -t 1 && stty size && tty && echo here > /dev/tty").await;
    let text = read_until(&mut master, "here");
    assert!(text.starts_with("30 100\r\n/dev/pts/"), "{text}");
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn terminal_without_input_has_an_empty_standard_input(backend: &str) {
    let sandbox = bare(backend).await;
    let text = "cat; cat; test ! -t 0 && test -t 1 && test -t 2 && echo ended > /dev/tty";
    let mut handle = sandbox.exec_streaming(Command { stdin: StdinSource::Null, ..terminal(text) }).await.unwrap();
    let mut master = File::from(handle.take_streams().pty.unwrap());
    assert_eq!(read_until(&mut master, "ended"), "ended");
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn resize_sends_sigwinch_to_command(backend: &str) {
    let text = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let (mut handle, mut master, sandbox) = pty(backend, text).await;
    read_until(&mut master, "ready");
    handle.resize(PtySize { rows: 11, cols: 22 }).await.unwrap();
    read_until(&mut master, "11 22");
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn signal_is_delivered_to_command(backend: &str) {
    let sandbox = bare(backend).await;
    let mut handle =
        sandbox.exec_streaming(script("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")).await.unwrap();
    let streams = handle.take_streams();
    read_until(&mut File::from(streams.stdout.unwrap()), "ready");
    handle.signal(libc::SIGUSR1).await.unwrap();
    let outcome = handle.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.exit_code), (EndReason::Exited, Some(9)));
    sandbox.destroy().await.unwrap();
}

async fn control_c_in_terminal_sends_sigint(backend: &str) {
    // Not a shell, because a shell has its own handler while it starts.
    let sandbox = bare(backend).await;
    let size = Some(PtySize { rows: 30, cols: 100 });
    let mut handle =
        sandbox.exec_streaming(Command { pty: size, stdin: StdinSource::Stream, ..command(&["/bin/cat"]) }).await.unwrap();
    let mut master = File::from(handle.take_streams().pty.unwrap());
    master.write_all(b"hear me\n").unwrap();
    // Echoed by the terminal and by the command.
    read_until(&mut master, "hear me\r\nhear me\r\n");
    // Type Ctrl-C.
    master.write_all(b"\x03").unwrap();
    assert_eq!(handle.wait().await.unwrap().signal, Some(libc::SIGINT));
    sandbox.destroy().await.unwrap();
}
