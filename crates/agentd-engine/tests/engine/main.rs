//! The engine with a store and an audit log, and without sandboxes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use agentd_engine::{EndedIntent, Submitted};
use agentd_records::{AuditEvent, ContentDigest, Leaf, Timestamp};
use place::{ALL, Place, finished, intent};
use serde_json::{Value, json};
use std::time::Duration;

mod configuration;
mod model;
mod place;
mod quotas;

fn word(ended: &EndedIntent) -> &Value {
    &ended.object["reason"]
}

#[test]
fn finished_intent_is_replayed_also_after_a_restart_and_when_the_policies_deny() {
    let place = Place::new();
    let engine = place.engine(ALL);
    let first = place.finish(place.execution(&engine, Some("k")));
    assert_eq!(first.object["result"]["stdout"]["text"], "out");
    let again = place.ended(&engine, intent("make", Some("k")));
    assert_eq!((&again.object["duplicate"], &again.receipt), (&json!(true), &first.receipt));
    drop(engine);
    let engine = place.engine(r#"@id("none") forbid (principal, action, resource);"#);
    assert_eq!(place.ended(&engine, intent("make", Some("k"))).object["result"], first.object["result"]);
    assert_eq!(word(&place.ended(&engine, intent("other", Some("k")))), "key-conflict");
    assert_eq!(word(&place.ended(&engine, intent("make", Some("l")))), "denied");
    let (change, intent) = (["policy-change"].as_slice(), ["intent", "decision", "outcome"]);
    assert_eq!(place.leaves(), [change, &intent, change, &intent, &intent].concat());
}

#[test]
fn key_of_another_principal_is_another_intent() {
    let place = Place::new();
    let engine = place.engine(ALL);
    place.finish(place.execution(&engine, Some("k")));
    let mut other = intent("make", Some("k"));
    other.principal.name = "uid:8".to_owned();
    assert!(matches!(place.submit(&engine, other), Submitted::Execute(_)));
}

#[test]
fn dropped_execution_ends_as_interrupted_once_with_a_receipt() {
    let place = Place::new();
    let engine = place.engine(ALL);
    drop(place.execution(&engine, Some("k")));
    drop(engine);
    for _ in 0..2 {
        let engine = place.engine(ALL);
        let ended = place.ended(&engine, intent("make", Some("k")));
        assert_eq!((&ended.object["status"], word(&ended)), (&json!("interrupted"), &json!("interrupted")));
        assert!(ended.receipt.is_some());
    }
    assert_eq!(place.leaves(), ["policy-change", "intent", "decision", "outcome"]);
}

#[test]
fn intent_whose_outcome_is_in_the_audit_log_gets_no_second_outcome() {
    let place = Place::new();
    let engine = place.engine(ALL);
    let execution = place.execution(&engine, Some("k"));
    let event = AuditEvent::Outcome {
        id: execution.id().label().unwrap(),
        intent: ContentDigest::of(execution.document().as_bytes()),
        reason: "exited".try_into().unwrap(),
        exit_code: Some(3),
        signal: None,
        receipt: None,
    };
    place.records().recorder().unwrap().record(&Leaf::new(Timestamp::now(), event)).unwrap();
    drop(execution);
    drop(engine);
    let engine = place.engine(ALL);
    let ended = place.ended(&engine, intent("make", Some("k")));
    assert_eq!((word(&ended), &ended.object["exit_code"]), (&json!("exited"), &json!(3)));
    assert_eq!(place.leaves(), ["policy-change", "intent", "decision", "outcome"]);
}

#[test]
fn exceeded_quota_is_refused_with_the_time_of_the_next_attempt() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nrate = \"1/h\"");
    let engine = place.engine(ALL);
    place.finish(place.execution(&engine, Some("k")));
    let refused = place.ended(&engine, intent("make", Some("l")));
    assert_eq!(word(&refused), "quota-exceeded");
    assert!(refused.object["error"]["retry_after_ms"].as_u64().is_some_and(|wait| wait > 1000));
    // A duplicate costs nothing.
    assert_eq!(place.ended(&engine, intent("make", Some("k"))).object["duplicate"], true);
}

#[test]
fn long_result_is_returned_and_replayed_as_its_digest() {
    let place = Place::new();
    let engine = place.engine(ALL);
    let execution = place.execution(&engine, Some("k"));
    let first = place.finish_as(execution, finished(&[1; 512 << 10], Duration::ZERO));
    assert_eq!(first.object["result"]["stdout"]["bytes"], 512 << 10);
    let again = place.ended(&engine, intent("make", Some("k")));
    assert_eq!((&again.object["result"], again.object["result_sha256"].is_string()), (&Value::Null, true));
}
