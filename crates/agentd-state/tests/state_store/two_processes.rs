//! Several processes use one store.

use crate::{
    child::{self, OtherProcess},
    place::{LONG, Place, finished, open, request, runtime},
};
use agentd_state::{Begun, IntentState};
use std::{collections::BTreeSet, path::Path};

const TEST: &str = "two_processes::each_key_is_executed_by_one_of_several_processes";

const PROCESSES: usize = 3;
const KEYS: usize = 150;

/// Tries all keys from several tasks. Sends the keys that it executes, and the outcome that it gets for the others.
fn race(folder: &Path) {
    let (store, runtime) = (open(folder), runtime());
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let store = store.clone();
            runtime.spawn(async move {
                for key in (task..KEYS).step_by(4).map(|key| key.to_string()) {
                    match store.begin(request("alice", Some(&key), &key)).await.unwrap() {
                        Begun::New(id) => {
                            child::send(&format!("executed {key}"));
                            store.end(finished(id, &format!("outcome {key}"))).await.unwrap();
                        }
                        Begun::InFlight(id) => match store.wait(id, LONG).await.unwrap() {
                            IntentState::Finished(outcome) => child::send(&String::from_utf8(outcome).unwrap()),
                            other => panic!("{key}: {other:?}"),
                        },
                        Begun::Finished { outcome, .. } => child::send(&String::from_utf8(outcome).unwrap()),
                        other => panic!("{key}: {other:?}"),
                    }
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
}

#[test]
fn each_key_is_executed_by_one_of_several_processes() {
    if let Some(folder) = child::folder() {
        return race(&folder);
    }
    let place = Place::new();
    let processes: Vec<_> = (0..PROCESSES).map(|_| OtherProcess::start(TEST, &place.folder())).collect();
    let lines: Vec<_> = processes.into_iter().flat_map(OtherProcess::join).collect();
    let executed: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("executed ")).collect();
    assert_eq!((executed.len(), executed.iter().collect::<BTreeSet<_>>().len()), (KEYS, KEYS));
    for key in 0..KEYS {
        let outcome = format!("outcome {key}");
        assert_eq!(lines.iter().filter(|line| **line == outcome).count(), PROCESSES - 1, "{key}");
    }
    let store = place.open();
    assert_eq!(place.runtime.block_on(store.check()).unwrap().ended, u64::try_from(KEYS).unwrap());
    place.assert_sound(&store);
}
