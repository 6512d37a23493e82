//! Snapshots and their restore.

use crate::{
    layers::shown,
    place::{StateDir, name},
};
use agentd_sandboxes::{SaveMode, StoreError};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn restore_returns_content_of_snapshot_for_each_save_mode() {
    for how in [SaveMode::Commit, SaveMode::Copy] {
        let place = StateDir::new();
        let first = place.sandbox("a");
        fs::write(place.upper("a").join("one"), "1").unwrap();
        let saved = place.state.snapshot(&name("a"), &name("s1"), how).unwrap();
        // A copy leaves the upper layer in place, because running commands write to it.
        assert_eq!(saved.upper == first.upper, how == SaveMode::Copy);
        assert_eq!(saved.lower.len(), usize::from(how == SaveMode::Commit));
        let then = shown(&place.trees("a"));
        fs::write(place.upper("a").join("two"), "2").unwrap();
        fs::write(place.upper("a").join("one"), "changed").unwrap();
        place.state.snapshot(&name("a"), &name("s2"), how).unwrap();
        let later = shown(&place.trees("a"));
        fs::write(place.upper("a").join("three"), "3").unwrap();

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
fn snapshot_name_is_unique_until_dropped() {
    let place = StateDir::new();
    place.sandbox("a");
    let snapshot = || place.state.snapshot(&name("a"), &name("s"), SaveMode::Commit);
    snapshot().unwrap();
    assert!(matches!(snapshot(), Err(StoreError::SnapshotTaken { .. })));
    assert!(place.state.drop_snapshot(&name("a"), &name("s")).unwrap().snapshots.is_empty());
    assert!(matches!(place.state.drop_snapshot(&name("a"), &name("s")), Err(StoreError::NoSnapshot { .. })));
    snapshot().unwrap();
}

#[test]
fn snapshot_of_unchanged_sandbox_adds_no_layer() {
    for how in [SaveMode::Commit, SaveMode::Copy] {
        let place = StateDir::new();
        let made = place.sandbox("a");
        let saved = place.state.snapshot(&name("a"), &name("s"), how).unwrap();
        assert_eq!((saved.upper, saved.lower.len(), saved.snapshots[&name("s")].layers.len()), (made.upper, 0, 0));
        // A new mode of the root directory is a change.
        fs::set_permissions(place.upper("a"), fs::Permissions::from_mode(0o711)).unwrap();
        let saved = place.state.snapshot(&name("a"), &name("t"), how).unwrap();
        assert_eq!(saved.snapshots[&name("t")].layers.len(), 1);
        let mode = || fs::metadata(place.upper("a")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o711);
        place.state.restore(&name("a"), &name("s")).unwrap();
        assert_eq!(mode(), 0o755);
        place.state.restore(&name("a"), &name("t")).unwrap();
        assert_eq!(mode(), 0o711);
        let again = place.state.snapshot(&name("a"), &name("u"), how).unwrap();
        assert_eq!(again.snapshots[&name("u")].layers, again.snapshots[&name("t")].layers);
    }
}
