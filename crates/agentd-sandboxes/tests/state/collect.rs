//! What nothing needs goes, and nothing else.

use crate::place::{Place, name};
use agentd_sandboxes::{How, State, StateError};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn layers_go_when_the_last_that_needs_them_is_gone() {
    let place = Place::new();
    place.sandbox("a");
    fs::write(place.top("a").join("file"), "").unwrap();
    place.state.snapshot(&name("a"), &name("s"), How::Copy).unwrap();
    assert_eq!((place.state.collect().unwrap().layers, place.count("layers")), (0, 2));
    place.state.drop_snapshot(&name("a"), &name("s")).unwrap();
    assert_eq!((place.state.collect().unwrap().layers, place.count("layers")), (1, 1));
    place.state.remove(&name("a")).unwrap();
    assert_eq!((place.state.collect().unwrap().layers, place.count("layers")), (1, 0));
    place.assert_clean();
}

#[test]
fn what_is_held_stays_until_it_is_let_go() {
    let place = Place::new();
    let record = place.sandbox("a");
    let (hold, another) = (place.state.hold(&name("a")).unwrap(), place.state.hold(&name("a")).unwrap());
    assert_eq!(hold.0, record);
    place.state.remove(&name("a")).unwrap();
    for hold in [hold, another] {
        // As another process would.
        assert_eq!(State::open(&place.at("state")).unwrap().collect().unwrap().layers, 0);
        assert!(place.tree(record.top).exists());
        drop(hold);
    }
    assert_eq!(place.state.collect().unwrap().layers, 1);
    assert!(matches!(place.state.hold(&name("a")), Err(StateError::NotFound { .. })));
    place.assert_clean();
    // What is lost is not held.
    let record = place.sandbox("b");
    fs::remove_dir_all(place.at("state/layers").join(record.top.to_string())).unwrap();
    assert!(matches!(place.state.hold(&name("b")), Err(StateError::Gone { .. })));
    assert_eq!(place.count("staging"), 0);
}

#[test]
fn what_the_dead_left_goes_and_what_is_unknown_stays() {
    let place = Place::new();
    let dead = place.at("state/staging/0123456789abcdef");
    fs::create_dir_all(dead.join("closed/inner")).unwrap();
    fs::set_permissions(dead.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(place.at("state/staging/draft"), "{").unwrap();
    fs::write(place.at("state/layers/mine"), "").unwrap();
    assert_eq!(place.state.fsck().unwrap().len(), 3);
    State::open(&place.at("state")).unwrap();
    assert_eq!(place.count("staging"), 0);
    place.state.collect().unwrap();
    assert!(place.at("state/layers/mine").exists());
}

#[test]
fn a_tree_goes_however_deep_it_is_and_where_its_links_lead_stays() {
    let place = Place::new();
    place.sandbox("a");
    fs::write(place.at("kept"), "kept").unwrap();
    // Deeper than descriptors, stack or a path would reach.
    let mut at = rustix::fs::open(place.top("a"), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::symlinkat(place.at("kept"), &at, "link").unwrap();
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    // A name that the eraser would have taken.
    fs::create_dir(place.top("a").join("moved-1")).unwrap();
    place.state.snapshot(&name("a"), &name("s"), How::Copy).unwrap();
    assert_eq!(place.state.diff(&name("a"), Some(&name("s")), &[]).unwrap(), []);
    place.state.remove(&name("a")).unwrap();
    assert_eq!(place.state.collect().unwrap().layers, 2);
    assert_eq!(fs::read_to_string(place.at("kept")).unwrap(), "kept");
    place.assert_clean();
}
