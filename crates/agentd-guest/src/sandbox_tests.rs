//! Hostile guests: whatever they send, the host's memory and waiting times stay bounded.

use super::{
    super::{
        GuestSpec, MachineIdentity, flow,
        frame::{self, Frame, MAX_FROM_GUEST, MAX_TO_GUEST},
        protocol::{End, ToGuest},
        sanitize::Failure,
        transport,
    },
    *,
};
#[path = "sandbox_copies_tests.rs"]
mod copies;
#[path = "sandbox_exec_tests.rs"]
mod exec_ends;
#[path = "sandbox_frozen_tests.rs"]
mod frozen;
#[path = "sandbox_network_tests.rs"]
mod network;

use agentd_core::{EndReason, ExecStreams, IsolationBackend, Limits, SandboxSpec};
use agentd_isolation::HostDirectBackend;
use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

#[derive(Default)]
struct Counted(AtomicU32);

#[async_trait]
impl Machine for Counted {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        Arc::new(HostDirectBackend::new(&std::env::temp_dir()))
    }

    fn kill(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.kill();
        Ok(())
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        Ok(())
    }

    /// Quiesces the guest, and then fails.
    async fn snapshot(&self, guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        guest.quiesce().await?;
        Err(self.unsupported("snapshot"))
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        Ok(())
    }
}

/// A machine whose restore takes ten seconds.
#[derive(Default)]
struct Slow(AtomicBool);

#[async_trait]
impl Machine for Slow {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        Arc::new(HostDirectBackend::new(&std::env::temp_dir()))
    }

    fn kill(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.kill();
        Ok(())
    }

    fn restores(&self, _name: &str) -> bool {
        true
    }

    async fn restore(&self, _guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        tokio::time::sleep(Duration::from_secs(10)).await;
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Counted {
    fn is_killed(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

fn attach_new() -> Attach {
    Attach::New(Box::new(GuestSpec {
        spec: SandboxSpec::default(),
        identity: Some(MachineIdentity::new("x").unwrap()),
        copies: None,
    }))
}

/// The guest's side of a transport.
struct Peer(DuplexStream);

impl Peer {
    async fn attach(&mut self) -> ToGuest {
        let (mut reader, mut writer) = tokio::io::split(&mut self.0);
        transport::greet(&mut reader, &mut writer).await.unwrap();
        let request = transport::recv(&mut reader, MAX_TO_GUEST).await.unwrap();
        transport::send(&mut writer, &FromGuest::Attached(Ok(Vec::new())), MAX_FROM_GUEST).await.unwrap();
        request
    }

    async fn recv(&mut self) -> ToGuest {
        transport::recv(&mut self.0, MAX_TO_GUEST).await.unwrap()
    }

    async fn send(&mut self, message: FromGuest) {
        self.frame(&Frame::Message(message)).await;
    }

    /// Receives the next credit and returns its bytes. `received` holds the frames after it.
    async fn credit(&mut self, received: &mut Vec<u8>) -> u32 {
        loop {
            let next = frame::decode::<ToGuest>(received, MAX_TO_GUEST).unwrap();
            let next = next.map(|(frame, length)| (if let Frame::Credit { bytes, .. } = frame { bytes } else { 0 }, length));
            match next {
                Some((credit, length)) => {
                    received.drain(..length);
                    if credit > 0 {
                        return credit;
                    }
                }
                None if self.0.read_buf(received).await.unwrap() == 0 => return std::future::pending().await,
                None => {}
            }
        }
    }

    async fn frame(&mut self, frame: &Frame<'_, FromGuest>) {
        let mut bytes = Vec::new();
        frame::encode(frame, usize::MAX, &mut bytes).unwrap();
        self.0.write_all(&bytes).await.ok();
    }
}

/// Returns a sandbox in a guest simulated by `peer`, and its machine.
async fn sandbox_with_peer<F: Future<Output = ()> + Send + 'static>(
    peer: impl FnOnce(Peer) -> F + Send + 'static,
) -> (Arc<GuestSandbox>, Arc<Counted>) {
    attached(attach_new(), peer).await
}

async fn attached<F: Future<Output = ()> + Send + 'static>(
    how: Attach,
    peer: impl FnOnce(Peer) -> F + Send + 'static,
) -> (Arc<GuestSandbox>, Arc<Counted>) {
    let (ours, theirs) = duplex(64 << 10);
    let machine = Arc::new(Counted::default());
    tokio::spawn(async move {
        let mut guest = Peer(theirs);
        guest.attach().await;
        peer(guest).await;
    });
    let sandbox = GuestSandbox::open(SandboxId("x".to_owned()), machine.clone(), ours, how).await.unwrap();
    (sandbox, machine)
}

fn true_command() -> Command {
    Command { argv: vec!["/bin/true".into()], ..Command::default() }
}

#[tokio::test]
async fn attach_to_foreign_agent_fails() {
    let mut long = frame::greeting().to_vec();
    long.extend(u32::MAX.to_le_bytes());
    for (greeting, expected) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "no greeting of an agentd agent"),
        (b"agentd\x09\x00", "create the sandbox again"),
        (&long, "over the limit"),
        (b"agen", "early eof"),
    ] {
        let (ours, mut theirs) = duplex(64 << 10);
        theirs.write_all(greeting).await.unwrap();
        theirs.shutdown().await.unwrap();
        let opened = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Counted::default()), ours, attach_new()).await;
        let error = opened.err().unwrap();
        assert!(matches!(error, IsolationError::MachineLost(_)) && error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn invalid_message_kills_machine() {
    let done = |id| FromGuest::Done { id, bytes: 0 };
    let cases = [
        (vec![FromGuest::Attached(Ok(Vec::new()))], "answered the attach request twice"),
        (vec![done(0)], "operation 0, which was never started"),
        (vec![done(7)], "operation 7, which was never started"),
        (vec![done(1), done(1)], "too many events for operation 1"),
        (vec![FromGuest::Quiesced], "unrequested quiesce"),
    ];
    for (messages, expected) in cases {
        let (sandbox, machine) = sandbox_with_peer(|mut peer| async move {
            peer.recv().await;
            for message in messages {
                peer.send(message).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut operation = sandbox.begin().unwrap();
        operation.session.request(&ToGuest::Usage { id: operation.id }).unwrap();
        // While no task waits for them, the events of the operation stay queued.
        while sandbox.is_alive().await {
            tokio::task::yield_now().await;
        }
        while operation.next_event().await.is_some() {}
        assert!(machine.is_killed());
        let error = sandbox.exec(true_command()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn answer_of_wrong_kind_is_protocol_error() {
    let (sandbox, _) = sandbox_with_peer(|mut peer| async move {
        peer.recv().await;
        peer.send(FromGuest::Done { id: 1, bytes: 5 }).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(sandbox.resource_usage().await, Err(IsolationError::Protocol(_))));
}

#[tokio::test]
async fn file_shorter_than_reported_is_protocol_error() {
    let (sandbox, _) = sandbox_with_peer(|mut peer| async move {
        peer.recv().await;
        peer.frame(&Frame::Eof { stream: StreamId { operation: 1, kind: StreamKind::Output } }).await;
        peer.send(FromGuest::Done { id: 1, bytes: 5 }).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(sandbox.read_file(Path::new("/x"), 10).await, Err(IsolationError::Protocol(_))));
}

#[tokio::test]
async fn reported_errors_and_usage_are_sanitized() {
    let (sandbox, _) = sandbox_with_peer(|mut peer| async move {
        for id in 1..=3 {
            let ToGuest::Exec(exec) = peer.recv().await else { panic!() };
            assert_eq!(exec.id, id);
            for kind in [StreamKind::Output, StreamKind::Error] {
                peer.frame(&Frame::Eof { stream: StreamId { operation: id, kind } }).await;
            }
            let usage = Usage { wall: Duration::MAX, cpu_user: Duration::MAX, cpu_system: Duration::MAX, ..Usage::default() };
            let end = End { reason: EndReason::Exited, exit_code: None, signal: Some(i32::MIN), usage };
            peer.send(match id {
                1 => FromGuest::Failed { id, failure: Failure::Spawn(libc::ENOENT) },
                2 => FromGuest::Failed { id, failure: Failure::Lost("\x1b[2Jgone".to_owned()) },
                _ => FromGuest::Ended { id, end },
            })
            .await;
        }
        std::future::pending::<()>().await;
    })
    .await;
    let error = sandbox.exec(true_command()).await.unwrap_err();
    assert!(matches!(&error, IsolationError::Spawn { program, errno: libc::ENOENT } if program == "/bin/true"), "{error}");
    let error = sandbox.exec(true_command()).await.unwrap_err().to_string();
    assert!(error.contains("gone") && !error.contains('\x1b'), "{error:?}");
    let outcome = sandbox.exec(true_command()).await.unwrap();
    assert!(outcome.usage.wall < Duration::from_secs(60));
    assert!(outcome.usage.cpu_user + outcome.usage.cpu_system < Duration::MAX);
    assert_eq!(outcome.shell_code(), 128);
}

#[tokio::test(start_paused = true)]
async fn destroy_during_restore_destroys_restored_machine() {
    let (ours, theirs) = duplex(64 << 10);
    tokio::spawn(async move {
        let mut guest = Peer(theirs);
        guest.attach().await;
        std::future::pending::<()>().await;
    });
    let machine = Arc::new(Slow::default());
    let sandbox = GuestSandbox::open(SandboxId("x".to_owned()), machine.clone(), ours, attach_new()).await.unwrap();
    let destroyed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sandbox.destroy().await.unwrap();
    };
    let (restored, ()) = tokio::join!(sandbox.restore("before"), destroyed);
    assert!(matches!(restored, Err(IsolationError::SandboxGone(_))), "{restored:?}");
    assert!(!machine.0.load(Ordering::Relaxed) && !sandbox.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn suspended_guest_is_not_killed_by_deadline() {
    let (sandbox, machine) = sandbox_with_peer(|mut peer| async move {
        loop {
            peer.recv().await;
        }
    })
    .await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let mut handle = sandbox.exec_streaming(command).await.unwrap();
    sandbox.suspend().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(sandbox.is_alive().await);
    // After the resume the guest has its full time to end the command.
    sandbox.resume().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(sandbox.is_alive().await);
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn guest_that_reads_nothing_is_killed_at_deadline() {
    let (sandbox, machine) = sandbox_with_peer(|peer| async move {
        std::future::pending::<()>().await;
        drop(peer);
    })
    .await;
    let limits = Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() };
    let input = agentd_core::StdinSource::Bytes(vec![0; 1 << 20]);
    let command = Command { limits, stdin: input, ..true_command() };
    assert_eq!(sandbox.exec(command).await.unwrap().reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn cancelled_quiesce_kills_machine() {
    let (sandbox, machine) = sandbox_with_peer(|mut peer| async move {
        loop {
            peer.recv().await;
        }
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_secs(1), sandbox.guest().quiesce()).await.is_err());
    assert!(machine.is_killed() && !sandbox.is_alive().await);
    assert!(matches!(sandbox.exec(true_command()).await, Err(IsolationError::MachineLost(_))));
}

#[tokio::test]
async fn failed_snapshot_of_quiesced_guest_kills_machine() {
    let (sandbox, machine) = sandbox_with_peer(|mut peer| async move {
        while peer.recv().await != ToGuest::Quiesce {}
        peer.send(FromGuest::Quiesced).await;
    })
    .await;
    assert!(sandbox.snapshot("x").await.is_err());
    assert!(machine.is_killed());
    let error = sandbox.exec(true_command()).await.unwrap_err().to_string();
    assert!(error.contains("left quiesced"), "{error}");
}

#[tokio::test]
async fn resume_sets_clock_unless_identity_keeps_it() {
    for right in [false, true] {
        let (requests, mut received) = tokio::sync::mpsc::unbounded_channel();
        let (ours, theirs) = duplex(64 << 10);
        tokio::spawn(async move {
            let mut peer = Peer(theirs);
            requests.send(peer.attach().await).unwrap();
            loop {
                requests.send(peer.recv().await).unwrap();
            }
        });
        let identity = MachineIdentity { realtime_ns: (!right).then_some(1), ..MachineIdentity::new("x").unwrap() };
        let how = Attach::New(Box::new(GuestSpec { spec: SandboxSpec::default(), identity: Some(identity), copies: None }));
        let sandbox = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Counted::default()), ours, how).await.unwrap();
        let Some(ToGuest::Attach(mut attaching)) = received.recv().await else { panic!() };
        // The time is that of the attach, not that of the identity's creation.
        assert!(right == attaching.realtime_ns().is_none() && attaching.realtime_ns().is_none_or(|time| *time > 1));
        sandbox.suspend().await.unwrap();
        sandbox.resume().await.unwrap();
        sandbox.begin().unwrap().session.request(&ToGuest::Usage { id: 1 }).unwrap();
        let clock = matches!(received.recv().await, Some(ToGuest::Clock { .. }));
        assert_eq!(clock, !right);
    }
}

#[tokio::test]
async fn machine_is_killed_by_drop_and_destroy_but_not_by_shutdown() {
    let (sandbox, machine) =
        sandbox_with_peer(|mut peer| async move { while !matches!(peer.recv().await, ToGuest::Shutdown) {} }).await;
    let mut handle = sandbox.exec_streaming(true_command()).await.unwrap();
    drop(sandbox);
    assert!(machine.is_killed());
    assert!(matches!(handle.wait().await, Err(IsolationError::SandboxGone(_))));
    // A guest that shuts down on request is not killed. Its machine still has to be destroyed.
    let (sandbox, machine) =
        sandbox_with_peer(|mut peer| async move { while !matches!(peer.recv().await, ToGuest::Shutdown) {} }).await;
    sandbox.guest().shutdown().await;
    assert!(!machine.is_killed());
    sandbox.destroy().await.unwrap();
    assert!(machine.is_killed());
}

#[tokio::test]
async fn spec_with_root_layers_is_refused() {
    let (ours, _theirs) = duplex(100);
    let spec = SandboxSpec { root: agentd_core::Root::Layers(vec!["/x".into()]), ..SandboxSpec::default() };
    let how = Attach::New(Box::new(GuestSpec { spec, identity: None, copies: None }));
    let opened = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Counted::default()), ours, how).await;
    assert!(matches!(opened.err(), Some(IsolationError::Invalid { .. })));
}
