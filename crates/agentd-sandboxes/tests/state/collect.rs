//! Garbage collection removes unneeded layers, and nothing else.

use crate::place::{StateDir, name};
use agentd_sandboxes::{SandboxStore, SaveMode, StoreError};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn unneeded_layers_are_collected() {
    let place = StateDir::new();
    place.sandbox("a");
    fs::write(place.upper("a").join("file"), "").unwrap();
    place.state.snapshot(&name("a"), &name("s"), SaveMode::Copy).unwrap();
    assert_eq!((place.state.collect().unwrap().layers, place.count("layers")), (0, 2));
    place.state.drop_snapshot(&name("a"), &name("s")).unwrap();
    assert_eq!((place.state.collect().unwrap().layers, place.count("layers")), (1, 1));
    place.state.remove(&name("a")).unwrap();
    assert_eq!((place.state.collect().unwrap().layers, place.count("layers")), (1, 0));
    place.assert_clean();
}

#[test]
fn held_layers_are_not_collected() {
    let place = StateDir::new();
    let record = place.sandbox("a");
    let (hold, another) = (place.state.hold(&name("a")).unwrap(), place.state.hold(&name("a")).unwrap());
    assert_eq!(hold.0, record);
    place.state.remove(&name("a")).unwrap();
    for hold in [hold, another] {
        // Opens the store again, as another process would.
        assert_eq!(SandboxStore::open(&place.at("state")).unwrap().collect().unwrap().layers, 0);
        assert!(place.tree(record.upper).exists());
        drop(hold);
    }
    assert_eq!(place.state.collect().unwrap().layers, 1);
    assert!(matches!(place.state.hold(&name("a")), Err(StoreError::NotFound { .. })));
    place.assert_clean();
    // A sandbox whose layer is lost cannot be held.
    let record = place.sandbox("b");
    fs::remove_dir_all(place.at("state/layers").join(record.upper.to_string())).unwrap();
    assert!(matches!(place.state.hold(&name("b")), Err(StoreError::Gone { .. })));
    assert_eq!(place.count("staging"), 0);
}

#[test]
fn open_removes_stale_staging_and_keeps_unknown_files() {
    let place = StateDir::new();
    let stale = place.at("state/staging/0123456789abcdef");
    fs::create_dir_all(stale.join("closed/inner")).unwrap();
    fs::set_permissions(stale.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(place.at("state/staging/draft"), "{").unwrap();
    fs::write(place.at("state/layers/mine"), "").unwrap();
    assert_eq!(place.state.fsck().unwrap().len(), 3);
    SandboxStore::open(&place.at("state")).unwrap();
    assert_eq!(place.count("staging"), 0);
    place.state.collect().unwrap();
    assert!(place.at("state/layers/mine").exists());
}

#[test]
fn deep_tree_is_removed_without_following_links() {
    let place = StateDir::new();
    place.sandbox("a");
    fs::write(place.at("kept"), "kept").unwrap();
    // The tree is deeper than the limits of open files, stack size and path length permit.
    let mut at = rustix::fs::open(place.upper("a"), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::symlinkat(place.at("kept"), &at, "link").unwrap();
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    // The name is a temporary one that the removal itself uses.
    fs::create_dir(place.upper("a").join("moved-1")).unwrap();
    place.state.snapshot(&name("a"), &name("s"), SaveMode::Copy).unwrap();
    assert_eq!(place.state.diff(&name("a"), Some(&name("s")), &[]).unwrap(), []);
    place.state.remove(&name("a")).unwrap();
    assert_eq!(place.state.collect().unwrap().layers, 2);
    assert_eq!(fs::read_to_string(place.at("kept")).unwrap(), "kept");
    place.assert_clean();
}
