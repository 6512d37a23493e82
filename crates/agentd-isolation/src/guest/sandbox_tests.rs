//! Guests that are not ours: whatever they say, the host keeps its memory, its time and its temper.

use super::{
    super::{
        GuestSpec, Identity, carrier,
        frame::{self, Frame, MAX_FROM_GUEST, MAX_TO_GUEST},
        protocol::{End, ToGuest},
        told::Failure,
    },
    *,
};
#[path = "sandbox_copies_tests.rs"]
mod copies;
#[path = "sandbox_frozen_tests.rs"]
mod frozen;

use crate::HostDirectBackend;
use agentd_core::{EndReason, IsolationBackend, Limits, SandboxSpec};
use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

#[derive(Default)]
struct Counted(AtomicU32);

#[async_trait]
impl Machine for Counted {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        HostDirectBackend::new(&std::env::temp_dir())
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

    /// Fails half way.
    async fn snapshot(&self, guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        guest.quiesce().await?;
        Err(self.unsupported("snapshot"))
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        Ok(())
    }
}

/// One that takes ten seconds to go back, and then is there again.
#[derive(Default)]
struct Slow(AtomicBool);

#[async_trait]
impl Machine for Slow {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        HostDirectBackend::new(&std::env::temp_dir())
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

fn new() -> Attach {
    Attach::New(Box::new(GuestSpec { spec: SandboxSpec::default(), identity: Some(Identity::new("x").unwrap()), copies: None }))
}

/// A guest's side of a carrier.
struct Peer(DuplexStream);

impl Peer {
    async fn attach(&mut self) -> ToGuest {
        let (mut reader, mut writer) = tokio::io::split(&mut self.0);
        carrier::greet(&mut reader, &mut writer).await.unwrap();
        let asked = carrier::hear(&mut reader, MAX_TO_GUEST).await.unwrap();
        carrier::say(&mut writer, &FromGuest::Attached(Ok(Vec::new())), MAX_FROM_GUEST).await.unwrap();
        asked
    }

    async fn hear(&mut self) -> ToGuest {
        carrier::hear(&mut self.0, MAX_TO_GUEST).await.unwrap()
    }

    async fn say(&mut self, said: FromGuest) {
        self.frame(&Frame::Message(said)).await;
    }

    async fn frame(&mut self, frame: &Frame<'_, FromGuest>) {
        let mut bytes = Vec::new();
        frame::encode(frame, usize::MAX, &mut bytes).unwrap();
        self.0.write_all(&bytes).await.ok();
    }
}

/// A sandbox in a guest that is `peer`, and its machine.
async fn with<F: Future<Output = ()> + Send + 'static>(
    peer: impl FnOnce(Peer) -> F + Send + 'static,
) -> (Arc<GuestSandbox>, Arc<Counted>) {
    attached(new(), peer).await
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
async fn one_that_is_no_agent_of_ours_is_not_attached() {
    let mut long = frame::greeting().to_vec();
    long.extend(u32::MAX.to_le_bytes());
    for (said, expected) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "no greeting of agentd's"),
        (b"agentd\x09\x00", "make the guest's image anew"),
        (&long, "over the limit"),
        (b"agen", "guest"),
    ] {
        let (ours, mut theirs) = duplex(64 << 10);
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        let opened = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Counted::default()), ours, new()).await;
        let error = opened.err().unwrap();
        assert!(matches!(error, IsolationError::Lost(_)) && error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn one_that_speaks_nonsense_loses_its_machine() {
    let done = |id| FromGuest::Done { id, bytes: 0 };
    let cases = [
        (vec![FromGuest::Attached(Ok(Vec::new()))], "it attached a second time"),
        (vec![done(0)], "news of 0, which was never asked for"),
        (vec![done(7)], "news of 7, which was never asked for"),
        (vec![done(1), done(1)], "more news of 1 than there can be"),
        (vec![FromGuest::Quiesced], "it came to rest unasked"),
    ];
    for (said, expected) in cases {
        let (sandbox, machine) = with(|mut peer| async move {
            peer.hear().await;
            for said in said {
                peer.say(said).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut operation = sandbox.begin().unwrap();
        operation.session.request(&ToGuest::Usage { id: operation.id }).unwrap();
        // As long as nobody listens, nothing of its news is taken.
        while sandbox.is_alive().await {
            tokio::task::yield_now().await;
        }
        while operation.news().await.is_some() {}
        assert!(machine.is_killed());
        let error = sandbox.exec(true_command()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn an_answer_to_something_else_is_an_error() {
    let (sandbox, _) = with(|mut peer| async move {
        peer.hear().await;
        peer.say(FromGuest::Done { id: 1, bytes: 5 }).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(sandbox.resource_usage().await, Err(IsolationError::Protocol(_))));
}

#[tokio::test]
async fn a_file_that_is_shorter_than_the_guest_says_is_an_error() {
    let (sandbox, _) = with(|mut peer| async move {
        peer.hear().await;
        peer.frame(&Frame::Eof { stream: StreamId { of: 1, which: Which::Output } }).await;
        peer.say(FromGuest::Done { id: 1, bytes: 5 }).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(sandbox.read_file(Path::new("/x"), 10).await, Err(IsolationError::Protocol(_))));
}

#[tokio::test]
async fn errors_and_figures_of_a_guest_are_the_hosts_own() {
    let (sandbox, _) = with(|mut peer| async move {
        for id in 1..=3 {
            let ToGuest::Exec(exec) = peer.hear().await else { panic!() };
            assert_eq!(exec.id, id);
            for which in [Which::Output, Which::Error] {
                peer.frame(&Frame::Eof { stream: StreamId { of: id, which } }).await;
            }
            let usage = Usage { wall: Duration::MAX, cpu_user: Duration::MAX, cpu_system: Duration::MAX, ..Usage::default() };
            let end = End { reason: EndReason::Exited, exit_code: None, signal: Some(i32::MIN), usage };
            peer.say(match id {
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
async fn one_that_does_not_end_a_command_is_ended_itself() {
    let (sandbox, machine) = with(|mut peer| async move {
        // It reads, and does nothing.
        loop {
            peer.hear().await;
        }
    })
    .await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let outcome = sandbox.exec(command).await.unwrap();
    assert_eq!((outcome.reason, outcome.shell_code()), (EndReason::WallDeadline, 124));
    assert!(machine.is_killed() && !sandbox.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn one_that_says_more_instead_of_ending_a_command_gains_no_time() {
    let (sandbox, machine) = with(|mut peer| async move {
        let stream = StreamId { of: 1, which: Which::Output };
        loop {
            peer.frame(&Frame::Data { stream, bytes: b"more".into() }).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let outcome = tokio::time::timeout(Duration::from_secs(100), sandbox.exec(command)).await.expect("it is ended").unwrap();
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_end_the_streams_of_what_has_ended_is_ended_itself() {
    for honest in [false, true] {
        let (sandbox, machine) = with(move |mut peer| async move {
            peer.hear().await;
            let end = End { reason: EndReason::Exited, exit_code: Some(0), signal: None, usage: Usage::default() };
            peer.say(FromGuest::Ended { id: 1, end }).await;
            for which in [Which::Output, Which::Error] {
                let stream = StreamId { of: 1, which };
                // One that still has something to send may take its time.
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    peer.frame(&Frame::Data { stream, bytes: b"x".into() }).await;
                }
                if honest {
                    peer.frame(&Frame::Eof { stream }).await;
                }
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut handle = sandbox.exec_streaming(true_command()).await.unwrap();
        assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(machine.is_killed(), !honest);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_destroyed_while_it_goes_back_does_not_come() {
    let (ours, theirs) = duplex(64 << 10);
    tokio::spawn(async move {
        let mut guest = Peer(theirs);
        guest.attach().await;
        std::future::pending::<()>().await;
    });
    let machine = Arc::new(Slow::default());
    let sandbox = GuestSandbox::open(SandboxId("x".to_owned()), machine.clone(), ours, new()).await.unwrap();
    let destroyed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sandbox.destroy().await.unwrap();
    };
    let (restored, ()) = tokio::join!(sandbox.restore("before"), destroyed);
    assert!(matches!(restored, Err(IsolationError::Lost(_))), "{restored:?}");
    assert!(!machine.0.load(Ordering::Relaxed) && !sandbox.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_still_is_not_ended_by_a_deadline() {
    let (sandbox, machine) = with(|mut peer| async move {
        loop {
            peer.hear().await;
        }
    })
    .await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let mut handle = sandbox.exec_streaming(command).await.unwrap();
    sandbox.suspend().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(sandbox.is_alive().await);
    // It has its time when it goes on.
    sandbox.resume().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(sandbox.is_alive().await);
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_nothing_holds_no_deadline_up() {
    let (sandbox, machine) = with(|peer| async move {
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
async fn one_that_does_not_come_to_rest_is_ended_when_that_is_given_up() {
    let (sandbox, machine) = with(|mut peer| async move {
        loop {
            peer.hear().await;
        }
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_secs(1), sandbox.guest().quiesce()).await.is_err());
    assert!(machine.is_killed() && !sandbox.is_alive().await);
    assert!(matches!(sandbox.exec(true_command()).await, Err(IsolationError::Lost(_))));
}

#[tokio::test]
async fn one_that_is_left_at_rest_is_ended() {
    let (sandbox, machine) = with(|mut peer| async move {
        while peer.hear().await != ToGuest::Quiesce {}
        peer.say(FromGuest::Quiesced).await;
    })
    .await;
    assert!(sandbox.snapshot("x").await.is_err());
    assert!(machine.is_killed());
    let error = sandbox.exec(true_command()).await.unwrap_err().to_string();
    assert!(error.contains("left at rest"), "{error}");
}

#[tokio::test]
async fn a_machine_that_stood_still_is_told_the_time_unless_its_clock_is_right() {
    for right in [false, true] {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let (ours, theirs) = duplex(64 << 10);
        tokio::spawn(async move {
            let mut peer = Peer(theirs);
            told.send(peer.attach().await).unwrap();
            loop {
                told.send(peer.hear().await).unwrap();
            }
        });
        let identity = Identity { realtime_ns: (!right).then_some(1), ..Identity::new("x").unwrap() };
        let how = Attach::New(Box::new(GuestSpec { spec: SandboxSpec::default(), identity: Some(identity), copies: None }));
        let sandbox = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Counted::default()), ours, how).await.unwrap();
        let Some(ToGuest::Attach(mut attaching)) = heard.recv().await else { panic!() };
        // That of the moment, and not what it was when it was made.
        assert!(right == attaching.realtime_ns().is_none() && attaching.realtime_ns().is_none_or(|time| *time > 1));
        sandbox.suspend().await.unwrap();
        sandbox.resume().await.unwrap();
        sandbox.begin().unwrap().session.request(&ToGuest::Usage { id: 1 }).unwrap();
        let clock = matches!(heard.recv().await, Some(ToGuest::Clock { .. }));
        assert_eq!(clock, !right);
    }
}

#[tokio::test]
async fn what_is_dropped_or_destroyed_ends() {
    let (sandbox, machine) = with(|mut peer| async move { while !matches!(peer.hear().await, ToGuest::Shutdown) {} }).await;
    let mut handle = sandbox.exec_streaming(true_command()).await.unwrap();
    drop(sandbox);
    assert!(machine.is_killed());
    assert!(matches!(handle.wait().await, Err(IsolationError::Lost(_))));
    // One that ends when it is told to is not killed; what is to be destroyed still is.
    let (sandbox, machine) = with(|mut peer| async move { while !matches!(peer.hear().await, ToGuest::Shutdown) {} }).await;
    sandbox.guest().shutdown().await;
    assert!(!machine.is_killed());
    sandbox.destroy().await.unwrap();
    assert!(machine.is_killed());
}

#[tokio::test]
async fn what_a_machine_is_made_of_is_not_left_out_unsaid() {
    let (ours, _theirs) = duplex(100);
    let spec = SandboxSpec { root: agentd_core::Root::Layers(vec!["/x".into()]), ..SandboxSpec::default() };
    let how = Attach::New(Box::new(GuestSpec { spec, identity: None, copies: None }));
    let opened = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Counted::default()), ours, how).await;
    assert!(matches!(opened.err(), Some(IsolationError::Invalid { .. })));
}
