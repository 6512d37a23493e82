//! Changes of policies and quotas: each gets one leaf, and what is not valid changes nothing.

use crate::place::{ALL, Place, intent};
use agentd_engine::Engine;
use agentd_policy::PolicySet;
use agentd_records::{AuditEvent, ContentDigest, Leaf, Timestamp};
use serde_json::json;
use std::fs;

const NONE: &str = r#"@id("none") forbid (principal, action, resource);"#;

/// Returns the changes in the audit log: the set, and the digests before and after.
fn changes(place: &Place) -> Vec<(String, Option<String>, Option<String>)> {
    let text = |digest: Option<ContentDigest>| digest.map(|digest| digest.to_string());
    let change = |event| match event {
        AuditEvent::PolicyChange { set, before, after, principal } => {
            assert_eq!(principal.to_string(), "uid:7");
            Some((set.to_string(), text(before), text(after)))
        }
        AuditEvent::Administrative { act, details, .. } => {
            let detail = |name: &str| details.get(&name.try_into().unwrap()).map(ToString::to_string);
            Some((act.to_string(), detail("before"), detail("after")))
        }
        _ => None,
    };
    place.events().into_iter().filter_map(change).collect()
}

fn reload(place: &Place, engine: &Engine) -> agentd_engine::Reloaded {
    place.runtime.block_on(engine.reload()).unwrap()
}

#[test]
fn each_change_of_policies_and_quotas_gets_one_leaf() {
    let place = Place::new();
    drop(place.start());
    assert_eq!(
        place.records().reader().checkpoint(&place.records().ring().unwrap()).ok().map(|_| ()),
        None,
        "no change, no leaf"
    );
    let engine = place.engine(ALL);
    drop(place.start());
    let digest = |set: &PolicySet| Some(set.digest().to_owned());
    let first = digest(&reload(&place, &engine).policies.unwrap().enforced);
    let mut expected = vec![("enforced".to_owned(), None, first.clone())];
    assert_eq!(changes(&place), expected);
    place.write("policy/enforced/test.cedar", NONE);
    place.write("policy/shadow/test.cedar", ALL);
    let sets = reload(&place, &engine).policies.unwrap();
    expected.push(("enforced".to_owned(), first, digest(&sets.enforced)));
    expected.push(("shadow".to_owned(), None, digest(sets.shadow.as_ref().unwrap())));
    assert_eq!(changes(&place), expected);
    place.write("quotas.toml", "[default]\nconcurrency = 9");
    let quotas = reload(&place, &engine).quotas.unwrap().digest().unwrap().to_string();
    expected.push(("quotas-changed".to_owned(), Some("default".to_owned()), Some(quotas.clone())));
    assert_eq!(changes(&place), expected);
    fs::remove_file(place.path("quotas.toml")).unwrap();
    fs::remove_dir_all(place.path("policy/shadow")).unwrap();
    drop(place.start());
    expected.push(("shadow".to_owned(), expected[2].2.clone(), None));
    expected.push(("quotas-changed".to_owned(), Some(quotas), Some("default".to_owned())));
    assert_eq!(changes(&place), expected);
}

#[test]
fn set_that_is_not_valid_is_reported_and_replaces_nothing() {
    let place = Place::new();
    place.write("quotas.toml", "[default]\nconcurrency = 1");
    let engine = place.engine(ALL);
    let before = changes(&place);
    place.write("policy/enforced/test.cedar", "permit (principal, action, resource);");
    place.write("quotas.toml", "[default]\nconcurrency = 0");
    let reloaded = reload(&place, &engine);
    assert!(reloaded.policies.unwrap_err().to_string().contains("policies are refused"));
    assert!(reloaded.quotas.unwrap_err().to_string().contains("quotas are refused"));
    place.finish(place.execution(&engine, None));
    assert_eq!(changes(&place), before);
    // What is valid takes effect at once, in the same engine.
    place.write("policy/enforced/test.cedar", NONE);
    assert!(reload(&place, &engine).policies.is_ok());
    assert_eq!(place.ended(&engine, intent("make", None)).object["reason"], "denied");
}

#[test]
fn change_that_a_killed_process_left_pending_is_recorded_once() {
    for is_recorded in [false, true] {
        let place = Place::new();
        place.write("policy/enforced/test.cedar", ALL);
        let engine = place.start();
        let known = changes(&place);
        let after = Some(ContentDigest::of(b"another set"));
        let state = place.state();
        let change = place.runtime.block_on(async {
            let lock = state.lock_configuration().await.unwrap();
            state.begin_change(&lock, "enforced".try_into().unwrap(), after).await.unwrap().unwrap()
        });
        assert!(!change.is_old);
        if is_recorded {
            let (principal, set) = ("uid:7".try_into().unwrap(), "enforced".try_into().unwrap());
            let event = AuditEvent::PolicyChange { principal, set, before: change.before, after };
            place.records().recorder().unwrap().record(&Leaf::new(Timestamp::now(), event)).unwrap();
        }
        drop((state, engine));
        drop(place.start());
        let found = changes(&place);
        let digest = known[0].2.clone();
        let other = after.map(|after| after.to_string());
        let expected = [("enforced".to_owned(), digest.clone(), other.clone()), ("enforced".to_owned(), other, digest)];
        assert_eq!(found[1..], expected, "recorded before: {is_recorded}");
    }
}

#[test]
fn several_engines_that_find_a_change_record_it_once() {
    let place = Place::new();
    place.write("policy/enforced/test.cedar", ALL);
    let engines: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..4).map(|_| scope.spawn(|| drop(Place::at(&place).start()))).collect();
        started.into_iter().map(|started| started.join().unwrap()).collect()
    });
    assert_eq!((engines.len(), changes(&place).len()), (4, 1));
}

#[test]
fn decision_of_the_shadow_policies_is_recorded_if_it_differs() {
    let place = Place::new();
    place.write("policy/shadow/test.cedar", NONE);
    let engine = place.engine(ALL);
    let ended = place.finish(place.execution(&engine, None));
    assert_eq!(
        (&ended.object["decision"]["allowed"], &ended.object["decision"]["shadow"]["denial"]),
        (&json!(true), &json!("forbidden"))
    );
    let shadow = place.events().into_iter().find_map(|event| match event {
        AuditEvent::ShadowDecision { id, allowed, policies, .. } => Some((id.to_string(), allowed, policies.len())),
        _ => None,
    });
    assert_eq!(shadow, Some((ended.object["intent"].as_str().unwrap().to_owned(), false, 1)));
    // A request that is denied, and that the shadow policies would permit.
    place.write("policy/shadow/test.cedar", r#"@id("new") @timeout("9s") permit (principal, action, resource);"#);
    let denying = place.engine(NONE);
    let refused = place.ended(&denying, intent("make", None));
    assert_eq!(refused.object["decision"]["shadow"]["policies"], json!(["new"]));
    let obligations = place.events().into_iter().rev().find_map(|event| match event {
        AuditEvent::ShadowDecision { allowed: true, obligations, .. } => Some(obligations),
        _ => None,
    });
    let timeout = obligations.unwrap().into_iter().find(|(name, _)| name.to_string() == "timeout").unwrap();
    assert_eq!(timeout.1.to_string(), "9s");
    // No leaf if both decide the same.
    place.write("policy/shadow/test.cedar", ALL);
    let engine = place.engine(ALL);
    let before = place.events().len();
    place.finish(place.execution(&engine, None));
    assert_eq!(place.leaves()[before..], ["intent", "decision", "outcome"]);
}

#[test]
fn decision_of_an_approver_is_recorded_also_if_the_waiting_process_is_killed() {
    let place = Place::new();
    let engine = place.engine(r#"@id("ask") @approval("ask") permit (principal, action, resource);"#);
    let agentd_engine::Submitted::Hold(held) = place.submit(&engine, intent("make", None)) else { panic!("no approval") };
    let decision =
        agentd_state::DecideApproval { intent: held.id(), approve: true, by: "uid:9".try_into().unwrap(), now: Timestamp::now() };
    place.runtime.block_on(place.state().decide(decision)).unwrap();
    drop(held);
    drop(engine);
    drop(place.start());
    drop(place.start());
    assert_eq!(place.leaves(), ["policy-change", "intent", "decision", "approval", "outcome"]);
}
