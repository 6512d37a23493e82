//! Answers to duplicates, ends, recovery, waiting and retention.

use crate::place::{LONG, Place, finished, interrupted, open, request};
use agentd_records::Timestamp;
use agentd_state::{Begun, EndIntent, IntentState, MAX_OUTCOME, Retention, StateError, StateStore};
use std::{task::Poll, time::Duration};

#[test]
fn duplicate_gets_state_and_outcome_of_the_first_intent() {
    let place = Place::new();
    let store = place.open();
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    assert_eq!(place.begin(&store, request("alice", Some("k"), "a")), Begun::InFlight(id));
    place.end(&store, finished(id, "outcome"));
    let outcome = b"outcome".to_vec();
    assert_eq!(place.begin(&store, request("alice", Some("k"), "a")), Begun::Finished { id, outcome: outcome.clone() });
    drop(store);
    let store = place.open();
    assert_eq!(place.begin(&store, request("alice", Some("k"), "a")), Begun::Finished { id, outcome });
    place.assert_sound(&store);
}

#[test]
fn key_with_other_content_is_a_conflict_in_every_state() {
    let place = Place::new();
    let store = place.open();
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    assert_eq!(place.begin(&store, request("alice", Some("k"), "b")), Begun::Conflict(id));
    place.end(&store, finished(id, "secret of a"));
    assert_eq!(place.begin(&store, request("alice", Some("k"), "b")), Begun::Conflict(id));
}

#[test]
fn key_is_bound_to_its_principal() {
    let place = Place::new();
    let store = place.open();
    let alice = place.begin_new(&store, request("alice", Some("k"), "a"));
    place.end(&store, finished(alice, "alice's"));
    let bob = place.begin_new(&store, request("bob", Some("k"), "a"));
    assert_ne!(alice, bob);
    assert_ne!(place.begin_new(&store, request("alice", None, "a")), place.begin_new(&store, request("alice", None, "a")));
}

#[test]
fn intent_ends_once() {
    let place = Place::new();
    let store = place.open();
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    let other = open(&place.folder());
    let refused = place.runtime.block_on(other.end(finished(id, "from another owner"))).unwrap_err();
    assert!(matches!(refused, StateError::NotInFlight(_)), "{refused}");
    place.end(&store, finished(id, "first"));
    for again in [finished(id, "second"), interrupted(id)] {
        let refused = place.runtime.block_on(store.end(again)).unwrap_err();
        assert!(matches!(refused, StateError::NotInFlight(_)), "{refused}");
    }
    assert_eq!(place.state(&other, id), IntentState::Finished(b"first".to_vec()));
    let unknown = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let refused = place.runtime.block_on(store.end(finished(unknown, ""))).unwrap_err();
    assert!(matches!(refused, StateError::UnknownIntent(_)), "{refused}");
}

#[test]
fn request_that_is_dropped_before_its_answer_leaves_no_intent() {
    let place = Place::new();
    let store = place.open();
    let is_dropped = |key: &String| {
        place.runtime.block_on(async {
            let mut begin = std::pin::pin!(store.begin(request("alice", Some(key), "a")));
            std::future::poll_fn(|context| Poll::Ready(begin.as_mut().poll(context).is_pending())).await
        })
    };
    // A thread that is fast may have answered before the first look at the answer.
    let dropped = (0..1000).map(|number| number.to_string()).find(is_dropped).unwrap();
    place.begin_new(&store, request("alice", Some(&dropped), "a"));
    place.assert_sound(&store);
}

#[test]
fn refused_request_leaves_the_others_of_its_transaction() {
    let place = Place::new();
    let store = place.open();
    let ids: Vec<_> = (0..20).map(|_| place.begin_new(&store, request("alice", None, "a"))).collect();
    let ends = ids.iter().enumerate().map(|(number, id)| {
        let outcome = if number % 2 == 0 { vec![0; MAX_OUTCOME + 1] } else { vec![0; MAX_OUTCOME] };
        let (store, end) = (store.clone(), EndIntent { outcome, ..finished(*id, "") });
        place.runtime.spawn(async move { store.end(end).await })
    });
    let ends: Vec<_> = ends.collect();
    for (number, end) in ends.into_iter().enumerate() {
        let ended = place.runtime.block_on(end).unwrap();
        assert_eq!(matches!(ended, Err(StateError::OutcomeTooLong { .. })), number % 2 == 0, "{number}: {ended:?}");
        assert_eq!(ended.is_ok(), number % 2 == 1);
    }
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(place.state(&store, id) == IntentState::InFlight, number % 2 == 0);
    }
    place.assert_sound(&store);
}

#[test]
fn intent_of_a_closed_store_is_recovered_once_and_never_executed_again() {
    let place = Place::new();
    let store = place.open();
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    let other = open(&place.folder());
    assert_eq!(place.state(&other, id), IntentState::InFlight);
    assert_eq!(place.runtime.block_on(other.recover()).unwrap(), []);
    drop(store);
    assert_eq!(place.state(&other, id), IntentState::Orphaned);
    assert_eq!(place.begin(&other, request("alice", Some("k"), "a")), Begun::InFlight(id));
    let orphans = place.runtime.block_on(other.recover()).unwrap();
    assert_eq!(
        orphans.iter().map(|orphan| (orphan.id, orphan.principal.to_string())).collect::<Vec<_>>(),
        [(id, "alice".to_owned())]
    );
    assert_eq!(place.runtime.block_on(other.recover()).unwrap(), []);
    assert_eq!(place.state(&other, id), IntentState::InFlight, "the recovering store is the owner");
    // A recovery that dies in its turn loses nothing.
    drop(other);
    let third = place.open();
    assert_eq!(place.runtime.block_on(third.recover()).unwrap(), orphans);
    place.end(&third, interrupted(id));
    assert_eq!(place.begin(&third, request("alice", Some("k"), "a")), Begun::Interrupted { id, outcome: Vec::new() });
    place.assert_sound(&third);
    drop(third);
    let left: Vec<_> = place.folder().join("owners").read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn wait_returns_the_outcome_and_is_bounded() {
    let place = Place::new();
    let store = place.open();
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    let waited = place.runtime.block_on(store.wait(id, Duration::from_millis(1))).unwrap();
    assert_eq!(waited, IntentState::InFlight);
    let waiting = {
        let store = store.clone();
        place.runtime.spawn(async move { store.wait(id, LONG).await })
    };
    let elsewhere = {
        let store = open(&place.folder());
        place.runtime.spawn(async move { store.wait(id, LONG).await })
    };
    place.end(&store, finished(id, "outcome"));
    for waiting in [waiting, elsewhere] {
        let waited = place.runtime.block_on(waiting).unwrap().unwrap();
        assert_eq!(waited, IntentState::Finished(b"outcome".to_vec()));
    }
}

#[test]
fn wait_for_an_orphan_ends() {
    let place = Place::new();
    let (store, other) = (place.open(), open(&place.folder()));
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    let waiting = place.runtime.spawn(async move { other.wait(id, LONG).await });
    drop(store);
    assert_eq!(place.runtime.block_on(waiting).unwrap().unwrap(), IntentState::Orphaned);
}

#[test]
fn outcomes_are_removed_by_age_number_and_size() {
    let place = Place::new();
    let retention = Retention { age: Duration::from_secs(3600), intents: 3, bytes: 10 };
    let store = StateStore::open(&place.folder(), retention).unwrap();
    let is_kept = |id| match place.runtime.block_on(store.intent(id)) {
        Err(StateError::UnknownIntent(_)) => false,
        state => matches!(state.unwrap(), IntentState::Finished(_)),
    };
    let run = |principal: &str, key: &str, outcome: &str, now: Timestamp| {
        let id = place.begin_new(&store, request(principal, Some(key), "a"));
        place.end(&store, EndIntent { now, ..finished(id, outcome) });
        id
    };
    let later = |seconds| Timestamp::now().plus_seconds(seconds);
    let bob = run("bob", "old", "", later(60));
    let ids: Vec<_> = ["1", "2", "3", "4"].map(|key| run("alice", key, "x", later(60))).into();
    assert_eq!(ids.iter().map(|id| is_kept(*id)).collect::<Vec<_>>(), [false, true, true, true]);
    assert!(is_kept(bob), "the intents of one principal remove none of another");
    let long = run("alice", "5", "123456789", later(60));
    assert_eq!(ids.iter().map(|id| is_kept(*id)).collect::<Vec<_>>(), [false, false, false, true]);
    // An intent in flight is kept.
    let flying = place.begin_new(&store, request("alice", Some("6"), "a"));
    run("carol", "new", "", later(60 + 3601));
    assert_eq!([bob, ids[3], long].map(is_kept), [false; 3]);
    assert_eq!(place.state(&store, flying), IntentState::InFlight);
    assert!(matches!(place.begin(&store, request("bob", Some("old"), "a")), Begun::New(_)));
    place.assert_sound(&store);
}

#[test]
fn open_existing_creates_nothing() {
    let place = Place::new();
    assert!(StateStore::open_existing(&place.folder(), Retention::default()).unwrap().is_none());
    assert!(!place.folder().exists());
    place.open();
    assert!(StateStore::open_existing(&place.folder(), Retention::default()).unwrap().is_some());
}
