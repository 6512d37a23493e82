//! Calls with one reply.

use crate::place::{Place, call_error, shell};
use agentd_client::{ClientError, ExecutionEvent, v1};
use agentd_proto::v1::agentd_server::SERVICE_NAME;
use std::time::Duration;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

#[tokio::test]
async fn outcome_has_result_receipt_and_sandbox() {
    let place = Place::new().await;
    let outcome = place.operator().await.execute(shell("hello")).await.unwrap();
    assert_eq!((outcome.status(), outcome.reason.as_str(), outcome.exit_code), (v1::IntentStatus::Finished, "exited", Some(0)));
    let result: serde_json::Value = serde_json::from_str(outcome.result_json()).unwrap();
    assert_eq!(result["stdout"]["text"], "hello");
    assert_eq!(outcome.sandbox.unwrap().backend, "container");
    assert!(outcome.receipt.unwrap().contains("payload"));
    assert!(outcome.decision.unwrap().allowed);
    assert_eq!(outcome.notices, ["a notice"]);
}

#[tokio::test]
async fn request_with_the_key_of_another_request_is_not_executed() {
    let place = Place::new().await;
    let client = place.operator().await;
    let keyed = |command| v1::ExecuteRequest { idempotency_key: Some("k".to_owned()), ..shell(command) };
    let first = client.execute(keyed("one")).await.unwrap();
    let again = client.execute(keyed("one")).await.unwrap();
    assert_eq!((again.duplicate, &again.intent, &again.result_json), (true, &first.intent, &first.result_json));
    let conflict = call_error(client.execute(keyed("two")).await);
    assert_eq!((conflict.code, conflict.reason.as_str()), (Code::AlreadyExists, "key-conflict"));
    assert!(!place.user(8).await.execute(keyed("two")).await.unwrap().duplicate);
}

#[tokio::test]
async fn call_is_cancelled_when_its_deadline_has_passed() {
    let mut place = Place::new().await;
    let client = place.operator().await;
    // On a slow machine the deadline may pass before the command begins.
    for attempt in 0.. {
        let client = client.with_timeout(Duration::from_millis(100 << attempt));
        assert_eq!(call_error(client.execute(shell("wait")).await).code, Code::DeadlineExceeded);
        if place.begun.try_recv().is_ok() {
            break;
        }
    }
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
}

#[tokio::test]
async fn call_is_cancelled_when_its_client_has_gone() {
    let mut place = Place::new().await;
    let client = place.operator().await;
    let call = tokio::spawn(async move { client.execute(shell("wait")).await });
    assert_eq!(place.begun.recv().await.unwrap(), "wait");
    call.abort();
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
}

#[tokio::test]
async fn only_the_principal_of_an_intent_cancels_it() {
    let mut place = Place::new().await;
    let mut stream = place.user(8).await.execute_stream(shell("wait")).await.unwrap();
    let Some(ExecutionEvent::Begun(begun)) = stream.next().await.unwrap() else { panic!("not begun") };
    let unknown = "0".repeat(32);
    for client in [place.user(10).await, place.operator().await] {
        // The errors do not tell which of both intents exists.
        let others = call_error(client.cancel(&begun.intent).await);
        let none = call_error(client.cancel(&unknown).await);
        assert_eq!((others.code, others.reason.as_str()), (Code::NotFound, "unknown-intent"));
        assert_eq!(others.message.replace(&begun.intent, &unknown), none.message);
    }
    assert!(place.cancelled.try_recv().is_err());
    place.user(8).await.cancel(&begun.intent).await.unwrap();
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
    let Some(ExecutionEvent::Ended(outcome)) = stream.next().await.unwrap() else { panic!("not ended") };
    assert_eq!(outcome.reason, "cancelled");
    let ended = call_error(place.user(8).await.cancel(&begun.intent).await);
    assert_eq!(ended.code, Code::NotFound);
}

#[tokio::test]
async fn capabilities_are_listed_in_pages_without_a_gap() {
    let place = Place::new().await;
    let client = place.operator().await;
    let all = client.capabilities().await.unwrap();
    let expected: Vec<String> = place.service.capabilities().iter().map(|capability| capability.id()).collect();
    let mut names: Vec<_> = all.iter().map(|capability| capability.name.clone()).collect();
    names.sort();
    let mut sorted = expected;
    sorted.sort();
    assert_eq!(names, sorted);
    let shell = client.capability("shell.exec.v1").await.unwrap();
    let schema: serde_json::Value = serde_json::from_str(&shell.parameters_schema_json).unwrap();
    assert_eq!(schema["type"], "object");
    assert_eq!(call_error(client.capability("none.v1").await).reason, "unknown-capability");
}

#[tokio::test]
async fn intent_waits_until_the_operator_decides() {
    let place = Place::new().await;
    let (waiting, other, operator) = (place.user(9).await, place.user(8).await, place.operator().await);
    let mut stream = waiting.execute_stream(shell("hello")).await.unwrap();
    let Some(ExecutionEvent::Held(held)) = stream.next().await.unwrap() else { panic!("not held") };
    assert!(other.approvals().await.unwrap().is_empty());
    assert_eq!(waiting.approvals().await.unwrap().len(), 1);
    assert!(operator.approvals().await.unwrap()[0].text.contains("ask the team"));
    for client in [&waiting, &other] {
        for intent in [&held.intent, "none"] {
            let refused = call_error(client.decide(intent, v1::ApprovalDecision::Approve).await);
            assert_eq!((refused.code, refused.reason.as_str()), (Code::PermissionDenied, "not-an-approver"));
        }
    }
    let undecided = operator.decide(&held.intent, v1::ApprovalDecision::Unspecified).await;
    assert_eq!(call_error(undecided).code, Code::InvalidArgument);
    operator.decide(&held.intent, v1::ApprovalDecision::Approve).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Some(ExecutionEvent::Begun(_))));
    let again = call_error(operator.decide(&held.intent, v1::ApprovalDecision::Deny).await);
    assert_eq!(again.reason, "approval-decided");
    let none = call_error(operator.decide(&"0".repeat(32), v1::ApprovalDecision::Deny).await);
    assert_eq!(none.reason, "no-approval");
}

#[tokio::test]
async fn intent_that_waits_is_cancelled_by_its_principal() {
    let place = Place::new().await;
    let client = place.user(9).await;
    let mut stream = client.execute_stream(shell("hello")).await.unwrap();
    let Some(ExecutionEvent::Held(held)) = stream.next().await.unwrap() else { panic!("not held") };
    client.cancel(&held.intent).await.unwrap();
    let Some(ExecutionEvent::Ended(outcome)) = stream.next().await.unwrap() else { panic!("not ended") };
    assert_eq!((outcome.status(), outcome.reason.as_str()), (v1::IntentStatus::Refused, "cancelled"));
}

#[tokio::test]
async fn health_follows_the_readiness_of_the_daemon() {
    let place = Place::new().await;
    let client = place.operator().await;
    assert!(client.health().await.unwrap().ready);
    let socket = place.socket();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut health = HealthClient::new(channel);
    let mut watches = Vec::new();
    for name in ["", SERVICE_NAME] {
        let mut watch = health.watch(HealthCheckRequest { service: name.to_owned() }).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watches.push(watch);
    }
    place.service.drain().await;
    for mut watch in watches {
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
    assert!(!client.health().await.unwrap().ready);
    let stopping = call_error(client.execute(shell("x")).await);
    assert_eq!((stopping.code, stopping.reason.as_str()), (Code::Unavailable, "stopping"));
    assert!(stopping.retry_after.is_some());
    let unknown = health.check(HealthCheckRequest { service: "none".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn call_without_a_caller_is_refused() {
    let place = Place::new().await;
    let nobody = place.nobody().await;
    let refused = |error: ClientError| call_error::<()>(Err(error)).code;
    assert_eq!(refused(nobody.execute(shell("x")).await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(refused(nobody.execute_stream(shell("x")).await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(refused(nobody.capabilities().await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(refused(nobody.capability("shell.exec.v1").await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(refused(nobody.approvals().await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(refused(nobody.cancel(&"0".repeat(32)).await.unwrap_err()), Code::Unauthenticated);
    assert_eq!(refused(nobody.health().await.unwrap_err()), Code::Unauthenticated);
}
