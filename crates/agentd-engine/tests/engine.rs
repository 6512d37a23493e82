//! The engine with a store and an audit log, and without sandboxes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use agentd_core::{Captured, EndReason, Outcome, Usage};
use agentd_engine::{
    CapabilityRegistry, EndedIntent, Engine, EngineParts, Executed, Execution, Intent, Ran, Submitted, vocabulary,
};
use agentd_policy::{PolicyFile, PolicyPrincipal, PolicySet, PolicySets, PrincipalKind, RequestSource, RequestedConfinement};
use agentd_records::{AuditEvent, ContentDigest, Leaf, Records, Timestamp, verify};
use agentd_state::{Quota, Rate, Retention, StateStore};
use serde_json::{Value, json};
use std::{num::NonZeroU32, path::Path, time::Duration};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ALL: &str = r#"@id("all") @egress("any") permit (principal, action, resource);"#;

/// A place with a store and an audit log.
struct Place {
    directory: TempDir,
    runtime: Runtime,
}

impl Place {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { directory: tempfile::tempdir().unwrap(), runtime }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn records(&self) -> Records {
        Records::at(&self.path().join("records"))
    }

    fn engine(&self, policy: &str, quota: Quota) -> Engine {
        let capabilities = CapabilityRegistry::built_in().unwrap();
        let words = vocabulary(&capabilities, [("container", true), ("linux-native", true)]).unwrap();
        let file = PolicyFile { name: "test".to_owned(), text: policy.to_owned() };
        let policies = PolicySets { enforced: PolicySet::parse(&[file], &words).unwrap(), shadow: None, is_default: false };
        let records = self.records();
        records.keys().unwrap();
        let state = StateStore::open(&self.path().join("state"), Retention::default()).unwrap();
        let isolated = ["container", "linux-native"].map(str::to_owned).into();
        let parts = EngineParts { capabilities, policies, isolated, quota, state, records };
        self.runtime.block_on(Engine::start(parts)).unwrap()
    }

    fn submit<'e>(&self, engine: &'e Engine, intent: Intent) -> Submitted<'e> {
        self.runtime.block_on(engine.submit(intent)).unwrap()
    }

    fn execution<'e>(&self, engine: &'e Engine, key: Option<&str>) -> Execution<'e> {
        match self.submit(engine, intent("make", key)) {
            Submitted::Execute(execution) => *execution,
            Submitted::Hold(_) => panic!("the intent waits for an approval"),
            Submitted::Ended(ended) => panic!("{ended:?}"),
        }
    }

    fn ended(&self, engine: &Engine, intent: Intent) -> EndedIntent {
        match self.submit(engine, intent) {
            Submitted::Ended(ended) => ended,
            _ => panic!("the intent is executed"),
        }
    }

    fn finish(&self, execution: Execution<'_>) -> EndedIntent {
        let outcome = Outcome {
            reason: EndReason::Exited,
            exit_code: Some(0),
            signal: None,
            usage: Usage::default(),
            stdout: Captured { head: b"out".to_vec(), ..Captured::default() },
            stderr: Captured::default(),
        };
        let ran = Ran::Command(Ok(outcome), [b"out".as_slice(), b""].map(ContentDigest::of));
        let executed = Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran };
        self.runtime.block_on(execution.finish(executed)).unwrap()
    }

    /// Returns the kinds of all leaves, after a verification of the log.
    fn leaves(&self) -> Vec<&'static str> {
        let records = self.records();
        let (reader, ring) = (records.reader(), records.ring().unwrap());
        let size = verify(&reader, &ring, None).unwrap().checkpoint.size;
        let bytes = (0..size.div_ceil(256)).flat_map(|bundle| reader.bundle(size, bundle).unwrap());
        bytes.map(|bytes| Leaf::parse(&bytes).unwrap().event.kind()).collect()
    }
}

fn intent(command: &str, key: Option<&str>) -> Intent {
    Intent {
        principal: PolicyPrincipal { kind: PrincipalKind::User, name: "uid:7".to_owned(), groups: Vec::new(), acts_for: None },
        source: RequestSource { transport: "command-line".to_owned(), address: None },
        capability: "shell.exec.v1".to_owned(),
        parameters: json!({ "command": command }).as_object().unwrap().clone(),
        confinement: RequestedConfinement::default(),
        secrets: Vec::new(),
        workspace: None,
        key: key.map(|key| key.parse().unwrap()),
        received: Timestamp::now(),
    }
}

fn word(ended: &EndedIntent) -> &Value {
    &ended.object["reason"]
}

#[test]
fn finished_intent_is_replayed_also_after_a_restart_and_when_the_policies_deny() {
    let place = Place::new();
    let engine = place.engine(ALL, Quota::default());
    let first = place.finish(place.execution(&engine, Some("k")));
    assert_eq!(first.object["result"]["stdout"]["text"], "out");
    let again = place.ended(&engine, intent("make", Some("k")));
    assert_eq!((&again.object["duplicate"], &again.receipt), (&json!(true), &first.receipt));
    drop(engine);
    let engine = place.engine(r#"@id("none") forbid (principal, action, resource);"#, Quota::default());
    assert_eq!(place.ended(&engine, intent("make", Some("k"))).object["result"], first.object["result"]);
    assert_eq!(word(&place.ended(&engine, intent("other", Some("k")))), "key-conflict");
    assert_eq!(word(&place.ended(&engine, intent("make", Some("l")))), "denied");
    assert_eq!(place.leaves(), ["intent", "decision", "outcome"].repeat(3));
}

#[test]
fn key_of_another_principal_is_another_intent() {
    let place = Place::new();
    let engine = place.engine(ALL, Quota::default());
    place.finish(place.execution(&engine, Some("k")));
    let mut other = intent("make", Some("k"));
    other.principal.name = "uid:8".to_owned();
    assert!(matches!(place.submit(&engine, other), Submitted::Execute(_)));
}

#[test]
fn dropped_execution_ends_as_interrupted_once_with_a_receipt() {
    let place = Place::new();
    let engine = place.engine(ALL, Quota::default());
    drop(place.execution(&engine, Some("k")));
    drop(engine);
    for _ in 0..2 {
        let engine = place.engine(ALL, Quota::default());
        let ended = place.ended(&engine, intent("make", Some("k")));
        assert_eq!((&ended.object["status"], word(&ended)), (&json!("interrupted"), &json!("interrupted")));
        assert!(ended.receipt.is_some());
    }
    assert_eq!(place.leaves(), ["intent", "decision", "outcome"]);
}

#[test]
fn intent_whose_outcome_is_in_the_audit_log_gets_no_second_outcome() {
    let place = Place::new();
    let engine = place.engine(ALL, Quota::default());
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
    let engine = place.engine(ALL, Quota::default());
    let ended = place.ended(&engine, intent("make", Some("k")));
    assert_eq!((word(&ended), &ended.object["exit_code"]), (&json!("exited"), &json!(3)));
    assert_eq!(place.leaves(), ["intent", "decision", "outcome"]);
}

#[test]
fn exceeded_quota_is_refused_with_the_time_of_the_next_attempt() {
    let place = Place::new();
    let rate = Rate { intents: NonZeroU32::new(1).unwrap(), interval: Duration::from_secs(3600) };
    let engine = place.engine(ALL, Quota { rate: Some(rate), ..Quota::default() });
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
    let engine = place.engine(ALL, Quota::default());
    let execution = place.execution(&engine, Some("k"));
    let captured = Captured { head: vec![1; 512 << 10], ..Captured::default() };
    let outcome = Outcome {
        reason: EndReason::Exited,
        exit_code: Some(0),
        signal: None,
        usage: Usage::default(),
        stdout: captured.clone(),
        stderr: captured,
    };
    let ran = Ran::Command(Ok(outcome), [b"".as_slice(), b""].map(ContentDigest::of));
    let executed = Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran };
    let first = place.runtime.block_on(execution.finish(executed)).unwrap();
    assert_eq!(first.object["result"]["stdout"]["bytes"], 512 << 10);
    let again = place.ended(&engine, intent("make", Some("k")));
    assert_eq!((&again.object["result"], again.object["result_sha256"].is_string()), (&Value::Null, true));
}
