//! The store against a model, under random interleavings of duplicates, crashes and retries. Every intent has at most one
//! execution and exactly one outcome.

use crate::place::{Place, finished, interrupted, request};
use agentd_state::{Begun, EndIntent, IntentId, IntentState, StateStore};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PRINCIPALS: [&str; 2] = ["alice", "bob"];
const KEYS: [&str; 2] = ["1", "2"];
const CONTENTS: [&str; 2] = ["a", "b"];

/// One step. Stores, and the entries of the tables above, are given by index.
#[derive(Debug, Clone)]
enum Step {
    Begin {
        store: usize,
        principal: usize,
        key: Option<usize>,
        content: usize,
    },
    /// The store tries to end one of all intents, with an outcome of its own.
    End {
        store: usize,
        intent: prop::sample::Index,
        outcome: u8,
    },
    /// The store is closed with its intents in flight, and opened again.
    Crash {
        store: usize,
    },
    /// The store takes over what is orphaned, and ends it as interrupted, or crashes before the end.
    Recover {
        store: usize,
        ends: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let begin = (0..2usize, 0..2usize, prop::option::weighted(0.9, 0..2usize), 0..2usize);
    let step = prop_oneof![
        4 => begin.prop_map(|(store, principal, key, content)| Step::Begin { store, principal, key, content }),
        3 => (0..2usize, any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(store, intent, outcome)| Step::End { store, intent, outcome }),
        1 => (0..2usize).prop_map(|store| Step::Crash { store }),
        1 => (0..2usize, any::<bool>()).prop_map(|(store, ends)| Step::Recover { store, ends }),
    ];
    prop::collection::vec(step, 1..40)
}

/// The known facts about an intent that has begun.
#[derive(Debug, Clone)]
struct Known {
    content: usize,
    /// The store that owns the intent, if it lives.
    owner: Option<usize>,
    end: Option<EndIntent>,
}

#[derive(Default)]
struct Model {
    intents: BTreeMap<IntentId, Known>,
    keys: BTreeMap<(usize, usize), IntentId>,
}

impl Model {
    fn begun(&mut self, (principal, key, content): (usize, Option<usize>, usize), store: usize, answer: Begun) {
        let first = key.and_then(|key| self.keys.get(&(principal, key)).copied());
        let Some(first) = first else {
            let Begun::New(id) = answer else { panic!("{answer:?} for a new intent") };
            let known = Known { content, owner: Some(store), end: None };
            assert!(self.intents.insert(id, known).is_none());
            self.keys.extend(key.map(|key| ((principal, key), id)));
            return;
        };
        let known = &self.intents[&first];
        let expected = match &known.end {
            _ if known.content != content => Begun::Conflict(first),
            None => Begun::InFlight(first),
            Some(EndIntent { ending: agentd_state::Ending::Finished, outcome, .. }) => {
                Begun::Finished { id: first, outcome: outcome.clone() }
            }
            Some(EndIntent { outcome, .. }) => Begun::Interrupted { id: first, outcome: outcome.clone() },
        };
        assert_eq!(answer, expected);
    }

    fn state(&self, id: IntentId) -> IntentState {
        let known = &self.intents[&id];
        match (&known.end, known.owner) {
            (Some(EndIntent { ending: agentd_state::Ending::Finished, outcome, .. }), _) => {
                IntentState::Finished(outcome.clone())
            }
            (Some(EndIntent { outcome, .. }), _) => IntentState::Interrupted(outcome.clone()),
            (None, Some(_)) => IntentState::InFlight,
            (None, None) => IntentState::Orphaned,
        }
    }

    fn crash(&mut self, store: usize) {
        self.intents.values_mut().filter(|known| known.owner == Some(store)).for_each(|known| known.owner = None);
    }

    fn orphans(&self) -> Vec<IntentId> {
        self.intents.iter().filter(|(_, known)| known.owner.is_none() && known.end.is_none()).map(|(id, _)| *id).collect()
    }
}

fn run(steps: Vec<Step>) {
    let place = Place::new();
    let mut stores = [Some(place.open()), Some(place.open())];
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Begin { store, principal, key, content } => {
                let wanted = request(PRINCIPALS[principal], key.map(|key| KEYS[key]), CONTENTS[content]);
                let answer = place.begin(stores[store].as_ref().unwrap(), wanted);
                model.begun((principal, key, content), store, answer);
            }
            Step::End { store, intent, outcome } if !model.intents.is_empty() => {
                let id = *model.intents.keys().nth(intent.index(model.intents.len())).unwrap();
                let end = finished(id, &outcome.to_string());
                let ended = place.runtime.block_on(stores[store].as_ref().unwrap().end(end.clone()));
                let known = model.intents.get_mut(&id).unwrap();
                assert_eq!(ended.is_ok(), known.owner == Some(store) && known.end.is_none(), "{ended:?}");
                if ended.is_ok() {
                    known.end = Some(end);
                }
            }
            Step::End { .. } => {}
            Step::Crash { store } => {
                reopen(&place, &mut stores[store]);
                model.crash(store);
            }
            Step::Recover { store, ends } => recover(&place, &mut stores[store], store, ends, &mut model),
        }
    }
    stores = [None, None];
    drop(stores);
    model.crash(0);
    model.crash(1);
    let mut last = Some(place.open());
    recover(&place, &mut last, 0, true, &mut model);
    let last = last.unwrap();
    for (id, known) in &model.intents {
        assert!(known.end.is_some());
        assert_eq!(place.state(&last, *id), model.state(*id));
    }
    place.assert_sound(&last);
}

fn reopen(place: &Place, store: &mut Option<StateStore>) {
    *store = None;
    *store = Some(place.open());
}

fn recover(place: &Place, store: &mut Option<StateStore>, number: usize, ends: bool, model: &mut Model) {
    let opened = store.as_ref().unwrap();
    let mut found: Vec<_> = place.runtime.block_on(opened.recover()).unwrap().into_iter().map(|orphan| orphan.id).collect();
    found.sort();
    assert_eq!(found, model.orphans());
    if !ends {
        // The model's intents stay orphans.
        reopen(place, store);
        return model.crash(number);
    }
    for id in found {
        place.end(opened, interrupted(id));
        model.intents.get_mut(&id).unwrap().end = Some(interrupted(id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_intent_has_one_execution_and_one_outcome(steps in steps()) {
        run(steps);
    }
}
