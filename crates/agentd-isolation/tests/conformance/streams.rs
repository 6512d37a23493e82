//! Streams that the caller serves, and terminals.

use crate::{support::*, table};
use agentd_isolation::{Command, EndReason, PtySize, StdinSource};
use libtest_mimic::Trial;
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table!(
        backend,
        output_comes_while_the_command_runs,
        a_terminal_is_one_and_has_its_size,
        a_resize_reaches_the_command,
        a_signal_reaches_the_command,
        interrupt_typed_into_a_terminal_is_a_signal,
    )
}

fn terminal(text: &str) -> Command {
    Command { pty: Some(PtySize { rows: 30, cols: 100 }), ..script(text) }
}

/// Reads until `needle` has come.
fn read_until(file: &mut File, needle: &str) -> String {
    let mut text = String::new();
    let mut byte = [0u8; 1];
    while !text.contains(needle) {
        match file.read(&mut byte) {
            Ok(1) => text.push(char::from(byte[0])),
            _ => panic!("it ended after {text:?}"),
        }
    }
    text
}

async fn output_comes_while_the_command_runs(backend: &str) {
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

async fn pty(
    backend: &str,
    text: &str,
) -> (Box<dyn agentd_isolation::ExecHandle>, File, std::sync::Arc<dyn agentd_isolation::Sandbox>) {
    let sandbox = bare(backend).await;
    let mut handle = sandbox.exec_streaming(terminal(text)).await.unwrap();
    let master: OwnedFd = handle.take_streams().pty.unwrap();
    (handle, File::from(master), sandbox)
}

async fn a_terminal_is_one_and_has_its_size(backend: &str) {
    let (mut handle, mut master, sandbox) =
        pty(backend, "test -t 0 && test -t 1 && stty size && tty && echo here > /dev/tty").await;
    let text = read_until(&mut master, "here");
    assert!(text.starts_with("30 100\r\n/dev/pts/"), "{text}");
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn a_resize_reaches_the_command(backend: &str) {
    let text = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let (mut handle, mut master, sandbox) = pty(backend, text).await;
    read_until(&mut master, "ready");
    handle.resize(PtySize { rows: 11, cols: 22 }).await.unwrap();
    read_until(&mut master, "11 22");
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    sandbox.destroy().await.unwrap();
}

async fn a_signal_reaches_the_command(backend: &str) {
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

async fn interrupt_typed_into_a_terminal_is_a_signal(backend: &str) {
    // Not a shell: it has a handler of its own for a moment.
    let sandbox = bare(backend).await;
    let size = Some(PtySize { rows: 30, cols: 100 });
    let mut handle = sandbox.exec_streaming(Command { pty: size, ..command(&["/bin/cat"]) }).await.unwrap();
    let mut master = File::from(handle.take_streams().pty.unwrap());
    master.write_all(b"hear me\n").unwrap();
    // Echoed by the terminal, then by the command.
    read_until(&mut master, "hear me\r\nhear me\r\n");
    // Control-C.
    master.write_all(b"\x03").unwrap();
    assert_eq!(handle.wait().await.unwrap().signal, Some(libc::SIGINT));
    sandbox.destroy().await.unwrap();
}
