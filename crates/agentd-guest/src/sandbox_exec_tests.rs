//! The end of a command in a guest that ignores the deadline, or that reports a false end.

use super::*;

#[tokio::test(start_paused = true)]
async fn guest_that_ignores_deadline_is_killed() {
    let (sandbox, machine) = sandbox_with_peer(|mut peer| async move {
        // The guest reads, and does not answer.
        loop {
            peer.recv().await;
        }
    })
    .await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let outcome = sandbox.exec(command).await.unwrap();
    assert_eq!((outcome.reason, outcome.shell_code()), (EndReason::WallDeadline, 124));
    assert!(machine.is_killed() && !sandbox.is_alive().await);
}

#[tokio::test(start_paused = true)]
async fn output_after_deadline_does_not_delay_kill() {
    let (sandbox, machine) = sandbox_with_peer(|mut peer| async move {
        let stream = StreamId { operation: 1, kind: StreamKind::Output };
        loop {
            peer.frame(&Frame::Data { stream, bytes: b"more".into() }).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let outcome = tokio::time::timeout(Duration::from_secs(100), sandbox.exec(command)).await.expect("the exec ends").unwrap();
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

/// How a simulated guest ends the streams of an ended command.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LateOutput {
    /// Both streams end within the timeout.
    Honest,
    /// More than the reader's pipe holds, at once and within the timeout.
    Long,
    /// A byte every second, without an end.
    Drip,
    /// As many bytes as the reader accepts, without an end.
    Flood,
}

/// Attaches to a guest that ends a command and then behaves as `late_output` specifies. Returns the sandbox, its machine, and the
/// streams of the ended command.
async fn ended_with(late_output: LateOutput) -> (Arc<GuestSandbox>, Arc<Counted>, ExecStreams) {
    let (sandbox, machine) = sandbox_with_peer(move |mut peer| async move {
        peer.recv().await;
        let end = End { reason: EndReason::Exited, exit_code: Some(0), signal: None, usage: Usage::default() };
        peer.send(FromGuest::Ended { id: 1, end }).await;
        let [output, error] = [StreamKind::Output, StreamKind::Error].map(|kind| StreamId { operation: 1, kind });
        let data = |bytes: usize| Frame::Data { stream: output, bytes: vec![b'x'; bytes].into() };
        match late_output {
            LateOutput::Honest => {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    peer.frame(&data(1)).await;
                }
            }
            LateOutput::Long => {
                for _ in 0..6 {
                    peer.frame(&data(frame::CHUNK)).await;
                }
            }
            LateOutput::Drip => loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                peer.frame(&data(1)).await;
            },
            LateOutput::Flood => {
                let (mut credit, mut received) = (flow::WINDOW, Vec::new());
                loop {
                    while credit >= 1024 {
                        peer.frame(&data(1024)).await;
                        credit -= 1024;
                    }
                    credit += peer.credit(&mut received).await;
                }
            }
        }
        peer.frame(&Frame::Eof { stream: output }).await;
        peer.frame(&Frame::Eof { stream: error }).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut handle = sandbox.exec_streaming(true_command()).await.unwrap();
    assert_eq!(handle.wait().await.unwrap().exit_code, Some(0));
    (sandbox, machine, handle.take_streams())
}

/// Reads all output of a command that ended with `late_output`. Returns true if its machine was killed.
async fn is_killed_by(late_output: LateOutput) -> bool {
    let (_sandbox, machine, streams) = ended_with(late_output).await;
    let mut stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(streams.stdout.unwrap()).unwrap();
    let read = async { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await };
    tokio::time::timeout(Duration::from_secs(100), read).await.expect("the streams end").unwrap();
    machine.is_killed()
}

/// A machine that reports why its monitor ended.
struct Explained;

#[async_trait]
impl Machine for Explained {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        Arc::new(HostDirectBackend::new(&std::env::temp_dir()))
    }

    fn kill(&self) {}

    async fn destroy(&self) -> Result<(), IsolationError> {
        Ok(())
    }

    async fn why_ended(&self) -> Option<String> {
        Some("Monitor ended: panicked".to_owned())
    }
}

#[tokio::test]
async fn machine_loss_error_contains_reason_from_monitor() {
    let (ours, theirs) = duplex(64 << 10);
    tokio::spawn(async move {
        let mut guest = Peer(theirs);
        guest.attach().await;
        guest.recv().await;
    });
    let sandbox = GuestSandbox::open(SandboxId("x".to_owned()), Arc::new(Explained), ours, attach_new()).await.unwrap();
    let error = sandbox.exec(true_command()).await.unwrap_err();
    let expected = "the connection ended: Monitor ended: panicked";
    assert!(matches!(&error, IsolationError::MachineLost(why) if why == expected), "{error}");
}

#[tokio::test(start_paused = true)]
async fn slow_output_without_end_after_exec_kills_machine() {
    assert!(!is_killed_by(LateOutput::Honest).await);
    assert!(is_killed_by(LateOutput::Drip).await);
}

/// In real time: a paused clock does not advance during a flood.
#[tokio::test]
async fn output_flood_after_exec_kills_machine() {
    assert!(is_killed_by(LateOutput::Flood).await);
}

#[tokio::test(start_paused = true)]
async fn slow_output_reader_does_not_kill_machine() {
    let (_sandbox, machine, streams) = ended_with(LateOutput::Long).await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!machine.is_killed());
    let mut stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(streams.stdout.unwrap()).unwrap();
    let read = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await.unwrap();
    assert_eq!((read, machine.is_killed()), (6 * frame::CHUNK as u64, false));
}
