//! Guests whose files are to rest, and that do as they like.

use super::*;
use agentd_core::{Layer, LayerReport, LayerStatus};
use tokio::sync::mpsc;

/// A sandbox in a guest that says `answers` to what it is asked, one after the other, and what it was asked.
async fn answering(answers: Vec<Option<FromGuest>>) -> (Arc<GuestSandbox>, Arc<Counted>, mpsc::UnboundedReceiver<ToGuest>) {
    let (told, heard) = mpsc::unbounded_channel();
    let (sandbox, machine) = with(move |mut peer| async move {
        let mut answers = answers.into_iter();
        loop {
            told.send(peer.hear().await).ok();
            if let Some(answer) = answers.next().flatten() {
                peer.say(answer).await;
            }
        }
    })
    .await;
    (sandbox, machine, heard)
}

fn done(id: u32) -> Option<FromGuest> {
    Some(FromGuest::Done { id, bytes: 0 })
}

#[tokio::test(start_paused = true)]
async fn one_that_never_comes_to_rest_is_given_up_and_goes_on() {
    // Then it says so, late: nobody waits for it.
    let (sandbox, machine, mut heard) = answering(vec![None, done(1), done(3)]).await;
    let error = sandbox.guest().freeze().await.err().unwrap();
    assert!(matches!(&error, IsolationError::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut), "{error}");
    assert_eq!(heard.recv().await, Some(ToGuest::Freeze { id: 1 }));
    assert_eq!(heard.recv().await, Some(ToGuest::Thaw { id: 2 }));
    // It can be asked again.
    drop(sandbox.guest().freeze().await.unwrap());
    assert_eq!(heard.recv().await, Some(ToGuest::Freeze { id: 3 }));
    assert!(sandbox.is_alive().await && !machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_lets_the_guest_go_on() {
    let (sandbox, machine, mut heard) = answering(vec![None, None, done(3)]).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), sandbox.guest().freeze()).await.is_err());
    assert_eq!(heard.recv().await, Some(ToGuest::Freeze { id: 1 }));
    assert_eq!(heard.recv().await, Some(ToGuest::Thaw { id: 2 }));
    drop(sandbox.guest().freeze().await.unwrap());
    assert_eq!(heard.recv().await, Some(ToGuest::Freeze { id: 3 }));
    assert_eq!(heard.recv().await, Some(ToGuest::Thaw { id: 4 }));
    assert!(sandbox.is_alive().await && !machine.is_killed());
}

#[tokio::test(start_paused = true)]
async fn rest_that_ended_early_or_never_was_is_an_error() {
    let early = FromGuest::Failed { id: 2, failure: Failure::Other("it went on by itself".to_owned()) };
    let other = |id| Some(FromGuest::Used { id, usage: Usage::default() });
    for (answers, frozen) in [
        (vec![done(1), Some(early)], true),
        (vec![done(1), other(2)], true),
        // It says nothing.
        (vec![done(1)], true),
        (vec![other(1)], false),
        (vec![Some(FromGuest::Failed { id: 1, failure: Failure::Lost("no".to_owned()) })], false),
    ] {
        let (sandbox, _, mut heard) = answering(answers.clone()).await;
        let rest = sandbox.guest().freeze().await;
        assert_eq!(rest.is_ok(), frozen, "{answers:?}");
        if let Ok(rest) = rest {
            assert!(rest.thaw().await.is_err(), "{answers:?}");
        }
        assert_eq!(heard.recv().await, Some(ToGuest::Freeze { id: 1 }));
        assert_eq!(heard.recv().await, Some(ToGuest::Thaw { id: 2 }), "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_files_rest_is_not_ended_by_a_deadline() {
    let (sandbox, machine, _heard) = answering(vec![None, done(2)]).await;
    let command = Command { limits: Limits { wall: Some(Duration::from_secs(1)), ..Limits::default() }, ..true_command() };
    let mut handle = sandbox.exec_streaming(command).await.unwrap();
    let rest = sandbox.guest().freeze().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(sandbox.is_alive().await);
    drop(rest);
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::WallDeadline);
    assert!(machine.is_killed());
}

#[tokio::test]
async fn a_sandbox_does_not_come_back_weaker_than_it_was() {
    let (sandbox, _) = with(|peer| async move {
        std::future::pending::<()>().await;
        drop(peer);
    })
    .await;
    let layer = LayerReport { layer: Layer::Seccomp, status: LayerStatus::Enforced, detail: String::new() };
    for (layers, expected) in [(vec![layer], false), (Vec::new(), true)] {
        let (ours, theirs) = duplex(64 << 10);
        tokio::spawn(async move {
            let mut peer = Peer(theirs);
            let (mut reader, mut writer) = tokio::io::split(&mut peer.0);
            carrier::greet(&mut reader, &mut writer).await.unwrap();
            assert!(matches!(carrier::hear(&mut reader, MAX_TO_GUEST).await.unwrap(), ToGuest::Attach(_)));
            carrier::say(&mut writer, &FromGuest::Attached(Ok(layers)), MAX_FROM_GUEST).await.unwrap();
            std::future::pending::<()>().await;
        });
        let renewed = sandbox.guest().renew(ours, &SandboxSpec::default(), Identity::new("x").unwrap()).await;
        assert_eq!((renewed.is_ok(), sandbox.is_alive().await), (expected, expected), "{renewed:?}");
    }
}
