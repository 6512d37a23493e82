//! Guests that answer a freeze wrongly, late or not at all.

use super::*;
use agentd_core::{Control, ControlReport, ControlStatus};
use tokio::sync::mpsc;

/// Attaches to a guest that answers its requests with `answers`, in order. Returns the sandbox, its machine and the received
/// requests.
async fn answering(answers: Vec<Option<FromGuest>>) -> (Arc<GuestSandbox>, Arc<Counted>, mpsc::UnboundedReceiver<ToGuest>) {
    let (requests, received) = mpsc::unbounded_channel();
    let (sandbox, machine) = sandbox_with_peer(move |mut peer| async move {
        let mut answers = answers.into_iter();
        loop {
            requests.send(peer.recv().await).ok();
            if let Some(answer) = answers.next().flatten() {
                peer.send(answer).await;
            }
        }
    })
    .await;
    (sandbox, machine, received)
}

fn done(id: u32) -> Option<FromGuest> {
    Some(FromGuest::Done { id, bytes: 0 })
}

#[tokio::test(start_paused = true)]
async fn unanswered_freeze_times_out_and_guest_keeps_running() {
    // The answer to the first freeze arrives late, without a receiver.
    let (sandbox, machine, mut received) = answering(vec![None, done(1), done(3)]).await;
    let error = sandbox.guest().freeze().await.err().unwrap();
    assert!(matches!(&error, IsolationError::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut), "{error}");
    assert_eq!(received.recv().await, Some(ToGuest::Freeze { id: 1 }));
    assert_eq!(received.recv().await, Some(ToGuest::Thaw { id: 2 }));
    // Another freeze is possible.
    drop(sandbox.guest().freeze().await.unwrap());
    assert_eq!(received.recv().await, Some(ToGuest::Freeze { id: 3 }));
    assert!(sandbox.is_alive().await && !machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn cancelled_freeze_sends_thaw() {
    let (sandbox, machine, mut received) = answering(vec![None, None, done(3)]).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), sandbox.guest().freeze()).await.is_err());
    assert_eq!(received.recv().await, Some(ToGuest::Freeze { id: 1 }));
    assert_eq!(received.recv().await, Some(ToGuest::Thaw { id: 2 }));
    drop(sandbox.guest().freeze().await.unwrap());
    assert_eq!(received.recv().await, Some(ToGuest::Freeze { id: 3 }));
    assert_eq!(received.recv().await, Some(ToGuest::Thaw { id: 4 }));
    assert!(sandbox.is_alive().await && !machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn freeze_without_valid_answer_fails() {
    let early = FromGuest::Failed { id: 2, failure: Failure::Other("thawed by itself".to_owned()) };
    let other = |id| Some(FromGuest::Used { id, usage: Usage::default() });
    for (answers, frozen) in [
        (vec![done(1), Some(early)], true),
        (vec![done(1), other(2)], true),
        // The guest does not answer.
        (vec![done(1)], true),
        (vec![other(1)], false),
        (vec![Some(FromGuest::Failed { id: 1, failure: Failure::Lost("no".to_owned()) })], false),
    ] {
        let (sandbox, _, mut received) = answering(answers.clone()).await;
        let freeze = sandbox.guest().freeze().await;
        assert_eq!(freeze.is_ok(), frozen, "{answers:?}");
        if let Ok(freeze) = freeze {
            assert!(freeze.thaw().await.is_err(), "{answers:?}");
        }
        assert_eq!(received.recv().await, Some(ToGuest::Freeze { id: 1 }));
        assert_eq!(received.recv().await, Some(ToGuest::Thaw { id: 2 }), "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn frozen_guest_is_not_killed_by_deadline() {
    let (sandbox, machine, _received) = answering(vec![None, done(2)]).await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let mut handle = sandbox.exec_streaming(command).await.unwrap();
    let freeze = sandbox.guest().freeze().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(sandbox.is_alive().await);
    drop(freeze);
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

#[tokio::test]
async fn renew_with_other_controls_fails() {
    let (sandbox, _) = sandbox_with_peer(|peer| async move {
        std::future::pending::<()>().await;
        drop(peer);
    })
    .await;
    let control = ControlReport { control: Control::Seccomp, status: ControlStatus::Enforced, detail: String::new() };
    for (controls, expected) in [(vec![control], false), (Vec::new(), true)] {
        let (ours, theirs) = duplex(64 << 10);
        tokio::spawn(async move {
            let mut peer = Peer(theirs);
            let (mut reader, mut writer) = tokio::io::split(&mut peer.0);
            transport::greet(&mut reader, &mut writer).await.unwrap();
            assert!(matches!(transport::recv(&mut reader, MAX_TO_GUEST).await.unwrap(), ToGuest::Attach(_)));
            transport::send(&mut writer, &FromGuest::Attached(Ok(controls)), MAX_FROM_GUEST).await.unwrap();
            std::future::pending::<()>().await;
        });
        let renewed = sandbox.guest().renew(ours, &SandboxSpec::default(), MachineIdentity::new("x").unwrap()).await;
        assert_eq!((renewed.is_ok(), sandbox.is_alive().await), (expected, expected), "{renewed:?}");
    }
}
