//! A process that begins and ends intents is killed at many moments. Nothing that was acknowledged may be missing.

use crate::{
    child::{self, OtherProcess},
    place::{Place, finished, interrupted, open, request, runtime},
};
use agentd_state::{Begun, IntentId, IntentState, StateStore};
use std::{collections::BTreeMap, path::Path};

const TEST: &str = "killed::acknowledged_intents_and_outcomes_survive_every_kill";

/// Kills of the process.
const KILLS: usize = 40;

/// Begins intents without end, from several tasks, and ends each of them. Sends what was acknowledged.
fn work(folder: &Path) {
    let (store, runtime) = (open(folder), runtime());
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            runtime.spawn(async move {
                for number in 0.. {
                    let key = format!("{}-{task}-{number}", std::process::id());
                    let answer = store.begin(request("alice", Some(&key), &key)).await.unwrap();
                    let id = crate::place::new_id(answer);
                    child::send(&format!("begun {id} {key}"));
                    store.end(finished(id, &key)).await.unwrap();
                    child::send(&format!("ended {id} {key}"));
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
}

/// What the killed processes have acknowledged: for each intent its key, and whether it has ended.
type Acknowledged = BTreeMap<IntentId, (String, bool)>;

fn add(line: &str, acknowledged: &mut Acknowledged) {
    let mut words = line.split(' ');
    let (what, id, key) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    acknowledged.insert(id.parse().unwrap(), (key.to_owned(), what == "ended"));
}

#[test]
fn acknowledged_intents_and_outcomes_survive_every_kill() {
    if let Some(folder) = child::folder() {
        return work(&folder);
    }
    let place = Place::new();
    let (mut all, mut ended_by_recovery) = (Acknowledged::new(), Vec::new());
    for kill in 0..KILLS {
        let (mut child, mut acknowledged) = (OtherProcess::start(TEST, &place.folder()), Acknowledged::new());
        for _ in 0..1 + kill * 7 % 50 {
            add(&child.recv().expect("the process works until it is killed"), &mut acknowledged);
        }
        child.kill().iter().for_each(|line| add(line, &mut acknowledged));
        let store = place.open();
        place.assert_sound(&store);
        for orphan in place.runtime.block_on(store.recover()).unwrap() {
            assert!(acknowledged.get(&orphan.id).is_none_or(|(_, ended)| !ended), "an acknowledged end is missing");
            place.end(&store, interrupted(orphan.id));
            ended_by_recovery.push(orphan.id);
        }
        assert_kept(&place, &store, &acknowledged);
        all.extend(acknowledged);
    }
    let store = place.open();
    assert_kept(&place, &store, &all);
    for id in &ended_by_recovery {
        assert_eq!(place.state(&store, *id), IntentState::Interrupted(Vec::new()));
    }
    assert!(!ended_by_recovery.is_empty() && all.values().any(|(_, ended)| *ended));
}

/// Repeats each acknowledged request: none is executed again, and each acknowledged outcome is returned.
fn assert_kept(place: &Place, store: &StateStore, acknowledged: &Acknowledged) {
    for (id, (key, ended)) in acknowledged {
        let answer = place.begin(store, request("alice", Some(key), key));
        let finished = Begun::Finished { id: *id, outcome: key.clone().into_bytes() };
        // A process that was killed before its message may have ended the intent.
        let interrupted = Begun::Interrupted { id: *id, outcome: Vec::new() };
        assert!(answer == finished || !ended && answer == interrupted, "{key}: {answer:?}");
    }
}
