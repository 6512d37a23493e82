//! A guest with more than one connection: quiesced while its machine is saved, and adopted in a copy of the machine. The
//! conformance suite tests the other behaviour of the same agent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[macro_use]
#[path = "support/on_test_machine.rs"]
mod on_test_machine;
#[path = "guest/network.rs"]
mod network;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{
    Command, EvidenceResult, IsolationError, Sandbox, SandboxSpec, StdinSource,
    guest::{Attach, GuestSandbox, GuestSpec, Machine},
};
use network::{
    attempts_at_other_ports_are_recorded_as_the_word_of_the_guest, connections_beyond_the_limit_wait_and_are_served_later,
    copy_of_a_machine_has_a_gateway_of_its_own, data_that_a_guest_sent_just_before_its_end_arrives,
    much_data_passes_unchanged_in_both_directions_with_half_close, open_connection_continues_after_the_machine_was_saved,
    programs_in_a_guest_reach_granted_hosts_only, restored_machine_has_new_connections_and_the_old_ones_end_with_the_reason,
    trust_stores_and_placeholders_reach_the_guest_and_the_secret_does_not,
};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream as Blocking,
    path::{Path, PathBuf},
    sync::Arc,
};
use support::{
    machine::{Machines, Process, identity},
    out, script,
};
use tokio::net::UnixStream;

on_test_machine! {
    streams_continue_after_quiesce,
    request_during_quiesce_is_done_after_it,
    adopted_copy_gets_new_identity_and_commands_continue,
    adopting_a_sandbox_without_writable_name_files_succeeds,
    lost_host_connection_ends_guest,
    connections_with_invalid_greeting_are_ignored,
    second_sandbox_in_guest_is_refused,
    shutdown_ends_guest_and_machine,
    attacks_inside_guest_are_blocked,
    large_file_is_read_back_unchanged,
    programs_in_a_guest_reach_granted_hosts_only,
    attempts_at_other_ports_are_recorded_as_the_word_of_the_guest,
    much_data_passes_unchanged_in_both_directions_with_half_close,
    data_that_a_guest_sent_just_before_its_end_arrives,
    open_connection_continues_after_the_machine_was_saved,
    restored_machine_has_new_connections_and_the_old_ones_end_with_the_reason,
    copy_of_a_machine_has_a_gateway_of_its_own,
    trust_stores_and_placeholders_reach_the_guest_and_the_secret_does_not,
    connections_beyond_the_limit_wait_and_are_served_later,
}

struct RunningGuest {
    sandbox: Arc<GuestSandbox>,
    machine: Arc<Process>,
    socket: PathBuf,
}

impl RunningGuest {
    async fn new() -> Self {
        let (machine, socket) = Process::listening(&Machines::new());
        let sandbox = open(&machine, &socket).await.unwrap();
        Self { sandbox, machine, socket }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    async fn sh(&self, text: &str) -> String {
        out(&self.sandbox.exec(script(text)).await.unwrap())
    }
}

async fn open(machine: &Arc<Process>, socket: &Path) -> Result<Arc<GuestSandbox>, IsolationError> {
    let transport = UnixStream::connect(socket).await.unwrap();
    let spec = GuestSpec { spec: SandboxSpec::default(), identity: Some(identity("first")), copies: None };
    GuestSandbox::open(Machines::new().id(), machine.clone(), transport, Attach::New(spec.into())).await
}

fn line(file: &mut File) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while text.last() != Some(&b'\n') {
        assert_eq!(file.read(&mut byte).unwrap(), 1, "end of the stream after {text:?}");
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

async fn streams_continue_after_quiesce() {
    let guest = RunningGuest::new().await;
    let echo = Command { stdin: StdinSource::Stream, ..script("while read line; do echo got $line; done; exit 5") };
    let mut handle = guest.sandbox.exec_streaming(echo).await.unwrap();
    let streams = handle.take_streams();
    let (mut stdin, mut stdout) = (File::from(streams.stdin.unwrap()), File::from(streams.stdout.unwrap()));
    // A command that writes continuously loses no output either.
    let mut flood = guest.sandbox.exec_streaming(script("seq 1 400000")).await.unwrap();
    let mut numbers = File::from(flood.take_streams().stdout.unwrap());
    assert_eq!(line(&mut numbers), "1\n");
    for round in 0..20 {
        writeln!(stdin, "{round}").unwrap();
        guest.sandbox.guest().quiesce().await.unwrap();
        // Input that is written now is not sent yet.
        writeln!(stdin, "{round} again").unwrap();
        guest.sandbox.guest().proceed(guest.connect().await).await.unwrap();
        assert_eq!(line(&mut stdout), format!("got {round}\n"));
        assert_eq!(line(&mut stdout), format!("got {round} again\n"));
    }
    let mut rest = String::new();
    numbers.read_to_string(&mut rest).unwrap();
    let expected: String = (2..=400_000).map(|n| format!("{n}\n")).collect();
    assert!(rest == expected);
    assert_eq!(flood.wait().await.unwrap().exit_code, Some(0));
    drop(stdin);
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(5));
    guest.sandbox.destroy().await.unwrap();
}

async fn request_during_quiesce_is_done_after_it() {
    let guest = RunningGuest::new().await;
    guest.sandbox.guest().quiesce().await.unwrap();
    assert!(matches!(guest.sandbox.guest().quiesce().await, Err(IsolationError::Protocol(_))));
    let sandbox = guest.sandbox.clone();
    let pending = tokio::spawn(async move { sandbox.exec(script("echo done")).await.unwrap() });
    // The resource usage is the last known one.
    assert!(guest.sandbox.resource_usage().await.unwrap().cpu_user.is_zero());
    assert!(!pending.is_finished() && guest.sandbox.is_alive().await);
    guest.sandbox.guest().proceed(guest.connect().await).await.unwrap();
    assert_eq!(out(&pending.await.unwrap()), "done\n");
    guest.sandbox.destroy().await.unwrap();
}

async fn adopted_copy_gets_new_identity_and_commands_continue() {
    let guest = RunningGuest::new().await;
    assert_eq!(guest.sh("hostname").await, "first\n");
    let before = guest.sh("cat /etc/machine-id").await;
    // The command writes more than any pipe holds, and waits for input that never comes.
    let text = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; seq 1 3000; done & read line; \
        echo over > /tmp/read; wait";
    let mut handle = guest.sandbox.exec_streaming(Command { stdin: StdinSource::Stream, ..script(text) }).await.unwrap();
    let streams = handle.take_streams();
    let mut stdout = File::from(streams.stdout.unwrap());
    assert_eq!(line(&mut stdout), "1\n");
    guest.sandbox.guest().quiesce().await.unwrap();
    guest.sandbox.guest().adopt(guest.connect().await, identity("second")).await.unwrap();
    // The exec handle of the previous connection is lost.
    assert!(matches!(handle.wait().await, Err(IsolationError::SandboxGone(_))));
    let count = || async { guest.sh("cat /tmp/count").await.trim().parse::<u64>().unwrap() };
    let then = count().await;
    while count().await < then + 20 {}
    while guest.sandbox.read_file(Path::new("/tmp/read"), 100).await.is_err() {}
    assert_eq!(guest.sh("hostname; cat /etc/hostname").await, "second\nsecond\n");
    assert_eq!(guest.sh("getent hosts second; getent hosts first || echo unknown").await, "127.0.0.1       second\nunknown\n");
    let after = guest.sh("cat /etc/machine-id").await;
    assert!(after.len() == 33 && after != before, "{before} {after}");
    // Exec numbers start again in the new session, without those of earlier execs.
    assert_eq!(guest.sh("echo one; echo two").await, "one\ntwo\n");
    guest.sandbox.destroy().await.unwrap();
}

async fn adopting_a_sandbox_without_writable_name_files_succeeds() {
    let guest = RunningGuest::new().await;
    let prepared =
        "cd /etc; rm -f hostname hosts machine-id; mkdir hostname; ln -s hosts hosts; mkdir -p machine-id/full; echo done";
    assert_eq!(guest.sh(prepared).await, "done\n");
    guest.sandbox.guest().quiesce().await.unwrap();
    guest.sandbox.guest().adopt(guest.connect().await, identity("second")).await.unwrap();
    assert_eq!(guest.sh("hostname").await, "second\n");
    guest.sandbox.destroy().await.unwrap();
}

async fn lost_host_connection_ends_guest() {
    let (machine, socket) = Process::listening(&Machines::new());
    let (ours, mut relayed) = tokio::io::duplex(4096);
    let mut transport = UnixStream::connect(&socket).await.unwrap();
    let cut = Arc::new(tokio::sync::Notify::new());
    let cutting = cut.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut relayed, &mut transport) => {}
            () = cutting.notified() => {}
        }
        drop(transport);
        // Keep the host's side open, so that the guest must end by itself.
        std::future::pending::<()>().await;
    });
    let spec = GuestSpec { spec: SandboxSpec::default(), identity: None, copies: None };
    let sandbox = GuestSandbox::open(Machines::new().id(), machine.clone(), ours, Attach::New(spec.into())).await.unwrap();
    let seconds = format!("5{}", std::process::id());
    let _handle = sandbox.exec_streaming(script(&format!("sleep {seconds}"))).await.unwrap();
    sandbox.exec(script(":")).await.unwrap();
    assert!(support::runs(&format!("sleep {seconds}")));
    cut.notify_one();
    assert_eq!(machine.wait(), Some(1));
    assert!(!support::runs(&format!("sleep {seconds}")));
    sandbox.destroy().await.unwrap();
}

async fn connections_with_invalid_greeting_are_ignored() {
    let (machine, socket) = Process::listening(&Machines::new());
    for greeting in
        [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"agentd\xff\xff", b"agentd\x01\0\xff\xff\xff\xff", b"agentd\x01\0\x01\0\0\0\x07"]
    {
        Blocking::connect(&socket).unwrap().write_all(greeting).unwrap();
    }
    let sandbox = open(&machine, &socket).await.unwrap();
    sandbox.guest().quiesce().await.unwrap();
    Blocking::connect(&socket).unwrap().write_all(b"nonsense").unwrap();
    sandbox.guest().proceed(UnixStream::connect(&socket).await.unwrap()).await.unwrap();
    assert_eq!(out(&sandbox.exec(script("echo here")).await.unwrap()), "here\n");
    sandbox.destroy().await.unwrap();
}

async fn second_sandbox_in_guest_is_refused() {
    let (machine, socket) = Process::listening(&Machines::new());
    let transport = UnixStream::connect(&socket).await.unwrap();
    let adopt = Attach::Adopt { identity: identity("none"), limits: Box::default(), gateway: None };
    let none = GuestSandbox::open(Machines::new().id(), machine.clone(), transport, adopt).await;
    let none = none.err().unwrap().to_string();
    assert!(none.contains("attach to the guest: the sandbox does not exist yet — create another sandbox"), "{none}");
    let sandbox = open(&machine, &socket).await.unwrap();
    sandbox.guest().quiesce().await.unwrap();
    let second = open(&machine, &socket).await.err().unwrap().to_string();
    assert!(second.contains("attach to the guest: the sandbox already exists — create another sandbox"), "{second}");
    sandbox.guest().proceed(UnixStream::connect(&socket).await.unwrap()).await.unwrap();
    assert_eq!(out(&sandbox.exec(script("echo here")).await.unwrap()), "here\n");
    sandbox.destroy().await.unwrap();
}

async fn shutdown_ends_guest_and_machine() {
    let guest = RunningGuest::new().await;
    let seconds = format!("6{}", std::process::id());
    let mut handle = guest.sandbox.exec_streaming(script(&format!("sleep {seconds}"))).await.unwrap();
    guest.sandbox.guest().shutdown().await;
    assert_eq!(guest.machine.wait(), Some(0));
    assert!(!support::runs(&format!("sleep {seconds}")));
    assert!(matches!(handle.wait().await, Err(IsolationError::MachineLost(_))));
    assert!(!guest.sandbox.is_alive().await);
    guest.machine.destroy().await.unwrap();
}

async fn attacks_inside_guest_are_blocked() {
    let guest = RunningGuest::new().await;
    let evidence = guest.sandbox.probe_inside().await.unwrap();
    let broken: Vec<_> = evidence.iter().filter(|evidence| evidence.result != EvidenceResult::Held).collect();
    assert!(broken.is_empty() && evidence.len() > 30, "{} attacks, of which {broken:?}", evidence.len());
    guest.sandbox.destroy().await.unwrap();
}

async fn large_file_is_read_back_unchanged() {
    let guest = RunningGuest::new().await;
    let content: Vec<u8> = (0..16_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let path = Path::new("/tmp/large");
    // Two concurrent transfers, and a command during the transfers.
    let (one, two) = (guest.sandbox.clone(), guest.sandbox.clone());
    let (a, b) = (content.clone(), content.clone());
    let first = tokio::spawn(async move { one.write_file(Path::new("/tmp/large"), &a).await });
    let second = tokio::spawn(async move { two.write_file(Path::new("/tmp/other"), &b).await });
    assert_eq!(guest.sh("echo between").await, "between\n");
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(guest.sh("cmp /tmp/large /tmp/other && stat -c %s /tmp/large").await, "16000000\n");
    assert!(guest.sandbox.read_file(path, 16_000_000).await.unwrap() == content);
    let short = guest.sandbox.read_file(path, 15_999_999).await;
    assert!(matches!(short, Err(IsolationError::File { errno: libc::EFBIG, .. })));
    let missing = guest.sandbox.write_file(Path::new("/no/such/dir/file"), &content).await;
    assert!(matches!(missing, Err(IsolationError::File { errno: libc::ENOENT, .. })), "{missing:?}");
    guest.sandbox.destroy().await.unwrap();
}
