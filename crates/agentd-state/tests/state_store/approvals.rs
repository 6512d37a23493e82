//! Approvals: one decision, in time.

use crate::place::{LONG, Place, finished, open, request};
use agentd_records::Timestamp;
use agentd_state::{Approval, ApprovalState, DecideApproval, IntentId, MAX_TEXT, RequestApproval, StateError, StateStore};

fn ask(place: &Place, store: &StateStore, intent: IntentId) -> Approval {
    let now = Timestamp::now();
    let request = RequestApproval { intent, text: "rm -r /srv\nreason: clean".to_owned(), expires: now.plus_seconds(60), now };
    place.runtime.block_on(store.request_approval(request)).unwrap()
}

fn decision(intent: IntentId, approve: bool) -> DecideApproval {
    DecideApproval { intent, approve, by: "uid:0".try_into().unwrap(), now: Timestamp::now() }
}

#[test]
fn approval_is_decided_once() {
    let place = Place::new();
    let (store, other) = (place.open(), open(&place.folder()));
    for approve in [true, false] {
        let intent = place.begin_new(&store, request("alice", None, "a"));
        let asked = ask(&place, &store, intent);
        assert_eq!((asked.principal.to_string(), &asked.state), ("alice".to_owned(), &ApprovalState::Pending));
        let pending = place.runtime.block_on(other.pending_approvals(Timestamp::now())).unwrap();
        assert_eq!(pending, [asked]);
        let decided = place.runtime.block_on(other.decide(decision(intent, approve))).unwrap();
        assert_eq!(matches!(decided.state, ApprovalState::Approved { .. }), approve);
        assert_eq!(matches!(decided.state, ApprovalState::Denied { .. }), !approve);
        for again in [true, false] {
            let refused = place.runtime.block_on(store.decide(decision(intent, again))).unwrap_err();
            assert!(matches!(refused, StateError::Decided(_)), "{refused}");
        }
        assert_eq!(place.runtime.block_on(store.approval(intent, Timestamp::now())).unwrap(), decided);
        assert_eq!(place.runtime.block_on(store.pending_approvals(Timestamp::now())).unwrap(), []);
    }
    place.assert_sound(&store);
}

#[test]
fn concurrent_decisions_have_one_winner() {
    let place = Place::new();
    let stores = [place.open(), open(&place.folder())];
    let intent = place.begin_new(&stores[0], request("alice", None, "a"));
    ask(&place, &stores[0], intent);
    let decisions: Vec<_> = (0..16)
        .map(|number| {
            let store = stores[number % 2].clone();
            place.runtime.spawn(async move { store.decide(decision(intent, number % 3 == 0)).await })
        })
        .collect();
    let won = decisions.into_iter().filter_map(|decision| place.runtime.block_on(decision).unwrap().ok());
    let won: Vec<_> = won.collect();
    assert_eq!(won.len(), 1);
    assert_eq!(place.runtime.block_on(stores[1].approval(intent, Timestamp::now())).unwrap(), won[0]);
}

#[test]
fn expired_approval_cannot_be_decided() {
    let place = Place::new();
    let store = place.open();
    let intent = place.begin_new(&store, request("alice", None, "a"));
    let asked = ask(&place, &store, intent);
    let late = DecideApproval { now: asked.expires, ..decision(intent, true) };
    let refused = place.runtime.block_on(store.decide(late)).unwrap_err();
    assert!(matches!(refused, StateError::Expired(_)), "{refused}");
    let expired = place.runtime.block_on(store.approval(intent, asked.expires)).unwrap();
    assert_eq!(expired.state, ApprovalState::Expired);
    assert_eq!(place.runtime.block_on(store.pending_approvals(asked.expires)).unwrap(), []);
}

#[test]
fn ended_or_unknown_intent_cannot_be_approved() {
    let place = Place::new();
    let store = place.open();
    let intent = place.begin_new(&store, request("alice", None, "a"));
    let refused = place.runtime.block_on(store.decide(decision(intent, true))).unwrap_err();
    assert!(matches!(refused, StateError::NoApproval(_)), "{refused}");
    let asked = ask(&place, &store, intent);
    let again = RequestApproval { intent, text: String::new(), expires: asked.expires, now: asked.requested };
    let refused = place.runtime.block_on(store.request_approval(again.clone())).unwrap_err();
    assert!(matches!(refused, StateError::ApprovalExists(_)), "{refused}");
    let long = RequestApproval { text: "x".repeat(MAX_TEXT + 1), ..again.clone() };
    let refused = place.runtime.block_on(store.request_approval(long)).unwrap_err();
    assert!(matches!(refused, StateError::TextTooLong { .. }), "{refused}");
    place.end(&store, finished(intent, ""));
    let refused = place.runtime.block_on(store.decide(decision(intent, true))).unwrap_err();
    assert!(matches!(refused, StateError::NotInFlight(_)), "{refused}");
    let ended = place.begin_new(&store, request("alice", None, "a"));
    place.end(&store, finished(ended, ""));
    let refused = place.runtime.block_on(store.request_approval(RequestApproval { intent: ended, ..again })).unwrap_err();
    assert!(matches!(refused, StateError::NotInFlight(_)), "{refused}");
}

#[test]
fn waiting_request_gets_the_decision_of_another_store() {
    let place = Place::new();
    let (store, other) = (place.open(), open(&place.folder()));
    let intent = place.begin_new(&store, request("alice", None, "a"));
    ask(&place, &store, intent);
    let waiting = place.runtime.spawn(async move { store.wait_for_decision(intent, LONG).await });
    let decided = place.runtime.block_on(other.decide(decision(intent, true))).unwrap();
    assert_eq!(place.runtime.block_on(waiting).unwrap().unwrap(), decided);
}
