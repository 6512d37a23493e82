//! Calls with streams in both directions.

use crate::place::{Place, call_error, interactive, shell};
use agentd_client::{ExecutionEvent, v1};
use bytes::Bytes;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn input_output_sizes_and_signals_pass_in_order() {
    let place = Place::new().await;
    let mut stream = place.operator().await.execute_stream(interactive("cat")).await.unwrap();
    let input = stream.take_input().unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(ExecutionEvent::Begun(_))));
    input.stdin(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(ExecutionEvent::Stdout(Bytes::from_static(b"one"))));
    input.resize(24, 80).await.unwrap();
    input.signal(2).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(ExecutionEvent::Stderr(Bytes::from_static(b"24x80"))));
    assert_eq!(stream.next().await.unwrap(), Some(ExecutionEvent::Stderr(Bytes::from_static(b"signal 2"))));
    input.end_of_stdin().await.unwrap();
    let Some(ExecutionEvent::Ended(outcome)) = stream.next().await.unwrap() else { panic!("not ended") };
    assert_eq!(outcome.status(), v1::IntentStatus::Finished);
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn end_of_the_stream_of_the_client_is_the_end_of_standard_input() {
    let place = Place::new().await;
    let mut stream = place.operator().await.execute_stream(interactive("cat")).await.unwrap();
    let input = stream.take_input().unwrap();
    input.stdin(Bytes::from(vec![b'y'; 300 << 10])).await.unwrap();
    drop(input);
    let mut length = 0;
    while let Some(event) = stream.next().await.unwrap() {
        if let ExecutionEvent::Stdout(bytes) = event {
            length += bytes.len();
        }
    }
    assert_eq!(length, 300 << 10);
}

#[tokio::test]
async fn client_that_does_not_read_delays_only_its_own_command() {
    let mut place = Place::new().await;
    let client = place.operator().await;
    let unread = client.execute_stream(shell("flood")).await.unwrap();
    // The same connection carries other calls while the reply to the first is not read.
    for _ in 0..20 {
        client.execute(shell("x")).await.unwrap();
    }
    drop(unread);
    assert_eq!(place.cancelled.recv().await.unwrap(), "flood");
}

#[tokio::test]
async fn command_that_does_not_read_delays_only_its_own_client() {
    let mut place = Place::new().await;
    let client = place.operator().await;
    let mut stream = client.execute_stream(interactive("deaf")).await.unwrap();
    let input = stream.take_input().unwrap();
    while !matches!(stream.next().await.unwrap(), Some(ExecutionEvent::Stderr(_))) {}
    let sender = tokio::spawn(async move {
        loop {
            if input.stdin(Bytes::from(vec![0; 64 << 10])).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..20 {
        client.execute(shell("x")).await.unwrap();
    }
    drop(stream);
    assert_eq!(place.cancelled.recv().await.unwrap(), "deaf");
    sender.await.unwrap();
}

#[tokio::test]
async fn message_to_cancel_ends_the_intent_with_its_outcome() {
    let mut place = Place::new().await;
    let mut stream = place.operator().await.execute_stream(shell("wait")).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(ExecutionEvent::Begun(_))));
    stream.take_input().unwrap().cancel().await.unwrap();
    let Some(ExecutionEvent::Ended(outcome)) = stream.next().await.unwrap() else { panic!("not ended") };
    assert_eq!((outcome.reason.as_str(), outcome.exit_code), ("cancelled", None));
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
}

#[tokio::test]
async fn stream_is_cancelled_when_its_client_has_gone() {
    let mut place = Place::new().await;
    let mut stream = place.operator().await.execute_stream(shell("wait")).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(ExecutionEvent::Begun(_))));
    drop(stream);
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
}

#[tokio::test]
async fn stream_is_cancelled_when_its_deadline_has_passed() {
    let mut place = Place::new().await;
    let client = place.operator().await;
    // On a slow machine the deadline may pass before the command begins.
    for attempt in 0.. {
        let client = client.with_timeout(Duration::from_millis(100 << attempt));
        let late = match client.execute_stream(shell("wait")).await {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(event) => assert!(event.is_some()),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        assert_eq!(call_error::<()>(Err(late)).code, Code::DeadlineExceeded);
        if place.begun.try_recv().is_ok() {
            break;
        }
    }
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
}

#[tokio::test]
async fn refused_intent_of_a_stream_has_an_outcome_with_a_receipt() {
    let place = Place::new().await;
    let request = v1::ExecuteRequest { capability: "none.v1".to_owned(), ..Default::default() };
    let mut stream = place.operator().await.execute_stream(request).await.unwrap();
    let Some(ExecutionEvent::Ended(outcome)) = stream.next().await.unwrap() else { panic!("not ended") };
    assert_eq!((outcome.status(), outcome.error.unwrap().code.as_str()), (v1::IntentStatus::Refused, "unknown-capability"));
    assert!(outcome.receipt.is_some());
}

#[tokio::test]
async fn daemon_that_stops_cancels_every_intent() {
    let mut place = Place::new().await;
    let mut stream = place.operator().await.execute_stream(shell("wait")).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(ExecutionEvent::Begun(_))));
    place.service.cancel_all();
    let Some(ExecutionEvent::Ended(outcome)) = stream.next().await.unwrap() else { panic!("not ended") };
    assert_eq!(outcome.reason, "cancelled");
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
    place.service.drain().await;
}
