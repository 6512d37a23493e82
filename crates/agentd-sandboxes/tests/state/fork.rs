//! Sandboxes that begin as another one.

use crate::{
    layers::shown,
    place::{Place, name},
};
use agentd_sandboxes::{How, Name, Of, StateError};
use std::fs;

#[test]
fn forks_begin_as_their_origin_and_go_their_own_ways() {
    for how in [How::Seal, How::Copy] {
        let place = Place::new();
        place.sandbox("a");
        fs::write(place.top("a").join("file"), "common").unwrap();
        let forks = place.state.fork(&name("a"), Of::Now(how), &[name("b"), name("c"), name("d")]).unwrap();
        let called: Vec<_> = forks.iter().map(|fork| fork.name.as_str()).collect();
        assert_eq!(called, ["b", "c", "d"]);
        assert!(forks.iter().all(|fork| fork.sealed == forks[0].sealed && fork.parent.as_deref() == Some("a")));
        for called in ["a", "b", "c", "d"] {
            fs::write(place.top(called).join("own"), called).unwrap();
        }
        for called in ["a", "b", "c", "d"] {
            let seen = shown(&place.trees(called));
            assert_eq!(seen.len(), 2);
            assert!(seen.values().any(|what| what.ends_with(&format!("{called:?}"))), "{seen:?}");
            assert!(seen.values().any(|what| what.ends_with("\"common\"")), "{seen:?}");
        }
        place.assert_clean();
        // The origin goes and its layers stay.
        place.state.remove(&name("a")).unwrap();
        place.state.collect().unwrap();
        assert_eq!(shown(&place.trees("b")).len(), 2);
        place.assert_clean();
    }
}

#[test]
fn a_snapshot_is_forked_as_it_was() {
    let place = Place::new();
    place.sandbox("a");
    fs::write(place.top("a").join("old"), "").unwrap();
    place.state.snapshot(&name("a"), &name("s"), How::Seal).unwrap();
    fs::write(place.top("a").join("new"), "").unwrap();
    let forks = place.state.fork(&name("a"), Of::Snapshot(&name("s")), &[name("b")]).unwrap();
    assert_eq!(forks[0].parent.as_deref(), Some("a@s"));
    assert_eq!(forks[0].snapshots.keys().collect::<Vec<_>>(), [&Name::created()]);
    assert_eq!(shown(&place.trees("b")).into_keys().collect::<Vec<_>>(), ["old".as_ref() as &std::path::Path]);
    place.assert_clean();
}

#[test]
fn where_nothing_was_changed_nothing_is_sealed() {
    let place = Place::new();
    let origin = place.sandbox("a");
    let forks = place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b")]).unwrap();
    assert_eq!((forks[0].sealed.len(), place.state.record(&name("a")).unwrap()), (0, origin));
}

#[test]
fn who_cannot_have_all_names_has_none_and_has_changed_nothing() {
    let place = Place::new();
    place.sandbox("taken");
    let origin = place.sandbox("a");
    fs::write(place.top("a").join("file"), "").unwrap();
    for names in [["b", "taken"], ["b", "b"], ["a", "b"]] {
        let forked = place.state.fork(&name("a"), Of::Now(How::Seal), &names.map(name));
        assert!(matches!(forked, Err(StateError::Taken { .. })), "{names:?}");
    }
    assert_eq!(place.state.record(&name("a")).unwrap(), origin);
    assert_eq!(place.state.list().unwrap().len(), 2);
    place.assert_clean();
}

#[test]
fn what_was_promised_by_one_who_died_is_there_for_all() {
    let place = Place::new();
    place.sandbox("a");
    place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b"), name("c")]).unwrap();
    // As after a kill between the moves.
    let promise = || {
        fs::create_dir(place.at("state/promised")).unwrap();
        fs::rename(place.at("state/named/c"), place.at("state/promised/c")).unwrap();
    };
    promise();
    assert_eq!(place.state.list().unwrap().len(), 3);
    promise();
    assert_eq!(place.state.record(&name("c")).unwrap().name, name("c"));
    promise();
    assert!(matches!(place.state.fork(&name("a"), Of::Now(How::Seal), &[name("c")]), Err(StateError::Taken { .. })));
    promise();
    assert_eq!(place.state.collect().unwrap().layers, 0);
    place.assert_clean();
}
