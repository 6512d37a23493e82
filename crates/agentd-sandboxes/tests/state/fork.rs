//! Forks of sandboxes.

use crate::{
    layers::shown,
    place::{StateDir, name},
};
use agentd_sandboxes::{ForkSource, Name, SaveMode, StoreError};
use std::fs;

#[test]
fn forks_start_with_content_of_origin_and_diverge() {
    for how in [SaveMode::Commit, SaveMode::Copy] {
        let place = StateDir::new();
        place.sandbox("a");
        fs::write(place.upper("a").join("file"), "common").unwrap();
        let forks = place.state.fork(&name("a"), ForkSource::Now(how), &[name("b"), name("c"), name("d")]).unwrap();
        let called: Vec<_> = forks.iter().map(|fork| fork.name.as_str()).collect();
        assert_eq!(called, ["b", "c", "d"]);
        assert!(forks.iter().all(|fork| fork.lower == forks[0].lower && fork.parent.as_deref() == Some("a")));
        for called in ["a", "b", "c", "d"] {
            fs::write(place.upper(called).join("own"), called).unwrap();
        }
        for called in ["a", "b", "c", "d"] {
            let seen = shown(&place.trees(called));
            assert_eq!(seen.len(), 2);
            assert!(seen.values().any(|what| what.ends_with(&format!("{called:?}"))), "{seen:?}");
            assert!(seen.values().any(|what| what.ends_with("\"common\"")), "{seen:?}");
        }
        place.assert_clean();
        // Removing the origin keeps the layers that its forks need.
        place.state.remove(&name("a")).unwrap();
        place.state.collect().unwrap();
        assert_eq!(shown(&place.trees("b")).len(), 2);
        place.assert_clean();
    }
}

#[test]
fn fork_of_snapshot_has_content_of_snapshot() {
    let place = StateDir::new();
    place.sandbox("a");
    fs::write(place.upper("a").join("old"), "").unwrap();
    place.state.snapshot(&name("a"), &name("s"), SaveMode::Commit).unwrap();
    fs::write(place.upper("a").join("new"), "").unwrap();
    place.state.snapshot(&name("a"), &name("later"), SaveMode::Commit).unwrap();
    let forks = place.state.fork(&name("a"), ForkSource::Snapshot(&name("s")), &[name("b")]).unwrap();
    assert_eq!(forks[0].parent.as_deref(), Some("a@s"));
    assert_eq!(forks[0].snapshots.keys().collect::<Vec<_>>(), [&Name::created(), &name("s")]);
    assert_eq!(shown(&place.trees("b")).into_keys().collect::<Vec<_>>(), ["old".as_ref() as &std::path::Path]);
    place.assert_clean();
}

#[test]
fn forks_restore_snapshots_of_removed_origin() {
    for how in [SaveMode::Commit, SaveMode::Copy] {
        let place = StateDir::new();
        place.sandbox("a");
        fs::write(place.upper("a").join("old"), "").unwrap();
        place.state.snapshot(&name("a"), &name("clean"), how).unwrap();
        fs::write(place.upper("a").join("new"), "").unwrap();
        place.state.fork(&name("a"), ForkSource::Now(how), &[name("b"), name("c")]).unwrap();
        place.state.remove(&name("a")).unwrap();
        place.state.collect().unwrap();
        assert_eq!(shown(&place.trees("b")).len(), 2);
        place.state.restore(&name("b"), &name("clean")).unwrap();
        assert_eq!(shown(&place.trees("b")).into_keys().collect::<Vec<_>>(), ["old".as_ref() as &std::path::Path]);
        place.state.drop_snapshot(&name("c"), &name("clean")).unwrap();
        place.state.restore(&name("b"), &Name::created()).unwrap();
        assert_eq!(shown(&place.trees("b")).len(), 2);
        place.state.collect().unwrap();
        place.assert_clean();
    }
}

#[test]
fn fork_of_unchanged_sandbox_commits_no_layer() {
    let place = StateDir::new();
    let origin = place.sandbox("a");
    let forks = place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b")]).unwrap();
    assert_eq!((forks[0].lower.len(), place.state.record(&name("a")).unwrap()), (0, origin));
}

#[test]
fn fork_with_one_taken_name_creates_nothing() {
    let place = StateDir::new();
    place.sandbox("taken");
    let origin = place.sandbox("a");
    fs::write(place.upper("a").join("file"), "").unwrap();
    for names in [["b", "taken"], ["b", "b"], ["a", "b"]] {
        let forked = place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &names.map(name));
        assert!(matches!(forked, Err(StoreError::Taken { .. })), "{names:?}");
    }
    assert_eq!(place.state.record(&name("a")).unwrap(), origin);
    assert_eq!(place.state.list().unwrap().len(), 2);
    place.assert_clean();
}

#[test]
fn interrupted_fork_is_completed_by_next_operation() {
    let place = StateDir::new();
    place.sandbox("a");
    place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b"), name("c")]).unwrap();
    // The state after a kill between the renames of a fork.
    let interrupt = || {
        fs::create_dir(place.at("state/promised")).unwrap();
        fs::rename(place.at("state/named/c"), place.at("state/promised/c")).unwrap();
    };
    interrupt();
    assert_eq!(place.state.list().unwrap().len(), 3);
    interrupt();
    assert_eq!(place.state.record(&name("c")).unwrap().name, name("c"));
    interrupt();
    assert!(matches!(
        place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("c")]),
        Err(StoreError::Taken { .. })
    ));
    interrupt();
    assert_eq!(place.state.collect().unwrap().layers, 0);
    place.assert_clean();
}
