//! The engine against a model, under random interleavings of duplicates, crashes and retries with quotas: every intent has
//! exactly one execution and one outcome, and places are neither lost nor exceeded.

use crate::place::{ALL, Place, finished, intent};
use agentd_engine::{Engine, Execution, Intent, Submitted};
use agentd_policy::{PolicyPrincipal, PrincipalKind};
use agentd_records::{AuditEvent, Timestamp};
use agentd_state::AccountName;
use proptest::prelude::*;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration, vec::IntoIter};

/// The principals. Each has two places at most, the group of both has three.
const PRINCIPALS: [&str; 2] = ["a", "b"];
const OWN: usize = 2;
const SHARED: usize = 3;
const QUOTAS: &str = "[default]\nconcurrency = 2\nwaiting = 0\n[group.all]\nconcurrency = 3";

#[derive(Debug, Clone)]
enum Step {
    /// A principal submits an intent with one of a few keys, or without a key.
    Submit { engine: usize, principal: usize, key: Option<usize> },
    /// One of the executions of the engine ends.
    Finish { engine: usize, execution: prop::sample::Index },
    /// The engine is dropped with its executions, and started again.
    Crash { engine: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let submit = (0..2usize, 0..2usize, prop::option::weighted(0.7, 0..3usize));
    let step = prop_oneof![
        5 => submit.prop_map(|(engine, principal, key)| Step::Submit { engine, principal, key }),
        3 => (0..2usize, any::<prop::sample::Index>()).prop_map(|(engine, execution)| Step::Finish { engine, execution }),
        1 => (0..2usize).prop_map(|engine| Step::Crash { engine }),
    ];
    prop::collection::vec(step, 1..24)
}

/// The known facts about an intent with a key.
#[derive(Debug, Clone)]
enum Known {
    Running,
    /// The outcome that every duplicate gets.
    Ended(Value),
    /// The first duplicate learns the outcome.
    Interrupted,
}

#[derive(Default)]
struct Model {
    keyed: BTreeMap<(usize, usize), Known>,
    /// The principal, and the key, of each execution of each engine.
    running: [Vec<(usize, Option<usize>)>; 2],
    outcomes: u32,
}

impl Model {
    fn has_place(&self, principal: usize) -> bool {
        let own = self.running.iter().flatten().filter(|(of, _)| *of == principal).count();
        own < OWN && self.running.iter().map(Vec::len).sum::<usize>() < SHARED
    }

    fn crash(&mut self, engine: usize) {
        for (principal, key) in std::mem::take(&mut self.running[engine]) {
            self.keyed.extend(key.map(|key| ((principal, key), Known::Interrupted)));
        }
    }
}

fn wanted(principal: usize, key: Option<usize>) -> Intent {
    let (kind, name) = (PrincipalKind::Agent, PRINCIPALS[principal].to_owned());
    let principal = PolicyPrincipal { kind, name, groups: vec!["all".to_owned()], acts_for: None };
    Intent { principal, ..intent("make", key.map(|key| key.to_string()).as_deref()) }
}

fn submit<'e>(
    place: &Place,
    engine: &'e Engine,
    (model, own): (&mut Model, usize),
    (principal, key): (usize, Option<usize>),
) -> Option<Execution<'e>> {
    let known = key.and_then(|key| model.keyed.get(&(principal, key)).cloned());
    if matches!(known, Some(Known::Running)) {
        // It would wait for the first one.
        return None;
    }
    match (place.submit(engine, wanted(principal, key)), known) {
        (Submitted::Execute(execution), None) => {
            assert!(model.has_place(principal), "a limit was exceeded");
            model.running[own].push((principal, key));
            model.keyed.extend(key.map(|key| ((principal, key), Known::Running)));
            return Some(*execution);
        }
        (Submitted::Ended(ended), None) => {
            assert_eq!(ended.object["reason"], "quota-exceeded");
            assert!(!model.has_place(principal), "a place was lost");
        }
        (Submitted::Ended(ended), Some(Known::Ended(outcome))) => {
            assert_eq!((&ended.object["duplicate"], &ended.object["result"]), (&true.into(), &outcome));
        }
        (Submitted::Ended(ended), Some(Known::Interrupted)) => assert_eq!(ended.object["status"], "interrupted"),
        _ => panic!("an intent is executed again, or waits"),
    }
    None
}

fn finish(place: &Place, executions: &mut Vec<Execution<'_>>, (model, own): (&mut Model, usize), index: prop::sample::Index) {
    if executions.is_empty() {
        return;
    }
    let at = index.index(executions.len());
    model.outcomes += 1;
    let ended = place.finish_as(executions.remove(at), finished(model.outcomes.to_string().as_bytes(), Duration::ZERO));
    let (principal, key) = model.running[own].remove(at);
    model.keyed.extend(key.map(|key| ((principal, key), Known::Ended(ended.object["result"].clone()))));
}

/// Compares the places that the store counts with those of the model.
fn assert_places(place: &Place, model: &Model) {
    let account = |name: &str, is_shared| AccountName { name: name.try_into().unwrap(), is_shared, rate: None };
    let accounts = vec![account("agent:a", false), account("agent:b", false), account("group:all", true)];
    let used = place.runtime.block_on(place.state().usage(accounts, Timestamp::now())).unwrap();
    let of = |principal| model.running.iter().flatten().filter(|(of, _)| *of == principal).count();
    let expected = [of(0), of(1), of(0) + of(1)].map(|count| u64::try_from(count).unwrap());
    assert_eq!(used.iter().map(|used| used.in_flight).collect::<Vec<_>>(), expected);
}

/// The first engine lives as long as the outer loop, the second as long as the inner one.
fn interleave(place: &Place, model: &mut Model, steps: &mut IntoIter<Step>) {
    loop {
        let first = place.start();
        let mut of_first = Vec::new();
        let crashed = loop {
            let second = place.start();
            let mut of_second = Vec::new();
            let crashed = loop {
                assert_places(place, model);
                match steps.next() {
                    None => break None,
                    Some(Step::Crash { engine }) => break Some(engine),
                    Some(Step::Submit { engine: 0, principal, key }) => {
                        of_first.extend(submit(place, &first, (model, 0), (principal, key)));
                    }
                    Some(Step::Submit { principal, key, .. }) => {
                        of_second.extend(submit(place, &second, (model, 1), (principal, key)));
                    }
                    Some(Step::Finish { engine: 0, execution }) => finish(place, &mut of_first, (model, 0), execution),
                    Some(Step::Finish { execution, .. }) => finish(place, &mut of_second, (model, 1), execution),
                }
            };
            // A crash of the first engine ends both here, because the second one is in its scope.
            model.crash(1);
            if crashed != Some(1) {
                break crashed;
            }
        };
        model.crash(0);
        if crashed.is_none() {
            return;
        }
    }
}

fn run(steps: Vec<Step>) {
    let place = Place::new();
    place.write("quotas.toml", QUOTAS);
    place.write("policy/enforced/test.cedar", ALL);
    let mut model = Model::default();
    interleave(&place, &mut model, &mut steps.into_iter());
    let last = place.start();
    assert_places(&place, &model);
    for (principal, key) in model.keyed.clone().into_keys() {
        submit(&place, &last, (&mut model, 0), (principal, Some(key)));
    }
    let mut counts: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    for event in place.events() {
        match event {
            AuditEvent::Intent { id, .. } => counts.entry(id.to_string()).or_default()[0] += 1,
            AuditEvent::Outcome { id, .. } => counts.entry(id.to_string()).or_default()[1] += 1,
            _ => {}
        }
    }
    assert!(counts.values().all(|counts| *counts == [1, 1]), "{counts:?}");
    assert_eq!(place.runtime.block_on(place.state().check()).unwrap().problems, [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn every_intent_has_one_execution_and_one_outcome_and_places_are_exact(steps in steps()) {
        run(steps);
    }
}
