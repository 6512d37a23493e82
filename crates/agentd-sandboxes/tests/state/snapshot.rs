//! Sandboxes are saved and become again what they were.

use crate::{
    layers::shown,
    place::{Place, name},
};
use agentd_sandboxes::{How, StateError};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn a_sandbox_becomes_what_it_was_whichever_way_it_was_saved() {
    for how in [How::Seal, How::Copy] {
        let place = Place::new();
        let first = place.sandbox("a");
        fs::write(place.top("a").join("one"), "1").unwrap();
        let saved = place.state.snapshot(&name("a"), &name("s1"), how).unwrap();
        // A copy leaves the top to those who write to it.
        assert_eq!(saved.top == first.top, how == How::Copy);
        assert_eq!(saved.sealed.len(), usize::from(how == How::Seal));
        let then = shown(&place.trees("a"));
        fs::write(place.top("a").join("two"), "2").unwrap();
        fs::write(place.top("a").join("one"), "changed").unwrap();
        place.state.snapshot(&name("a"), &name("s2"), how).unwrap();
        let later = shown(&place.trees("a"));
        fs::write(place.top("a").join("three"), "3").unwrap();

        place.state.restore(&name("a"), &name("s1")).unwrap();
        assert_eq!(shown(&place.trees("a")), then, "{how:?}");
        place.state.restore(&name("a"), &name("s2")).unwrap();
        assert_eq!(shown(&place.trees("a")), later, "{how:?}");
        assert_ne!(then, later);
        place.state.collect().unwrap();
        assert_eq!(shown(&place.trees("a")), later, "{how:?}");
        place.assert_clean();
    }
}

#[test]
fn a_name_of_a_snapshot_is_given_once_until_it_is_dropped() {
    let place = Place::new();
    place.sandbox("a");
    let snapshot = || place.state.snapshot(&name("a"), &name("s"), How::Seal);
    snapshot().unwrap();
    assert!(matches!(snapshot(), Err(StateError::SnapshotTaken { .. })));
    assert!(place.state.drop_snapshot(&name("a"), &name("s")).unwrap().snapshots.is_empty());
    assert!(matches!(place.state.drop_snapshot(&name("a"), &name("s")), Err(StateError::NoSnapshot { .. })));
    snapshot().unwrap();
}

#[test]
fn where_nothing_was_changed_nothing_is_sealed() {
    for how in [How::Seal, How::Copy] {
        let place = Place::new();
        let made = place.sandbox("a");
        let saved = place.state.snapshot(&name("a"), &name("s"), how).unwrap();
        assert_eq!((saved.top, saved.sealed.len(), saved.snapshots[&name("s")].layers.len()), (made.top, 0, 0));
        // The root's own mode is a change.
        fs::set_permissions(place.top("a"), fs::Permissions::from_mode(0o711)).unwrap();
        let saved = place.state.snapshot(&name("a"), &name("t"), how).unwrap();
        assert_eq!(saved.snapshots[&name("t")].layers.len(), 1);
        let mode = || fs::metadata(place.top("a")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o711);
        place.state.restore(&name("a"), &name("s")).unwrap();
        assert_eq!(mode(), 0o755);
        place.state.restore(&name("a"), &name("t")).unwrap();
        assert_eq!(mode(), 0o711);
        let again = place.state.snapshot(&name("a"), &name("u"), how).unwrap();
        assert_eq!(again.snapshots[&name("u")].layers, again.snapshots[&name("t")].layers);
    }
}
