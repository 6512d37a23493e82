//! Folders and files that are refused.

use crate::place::{Place, finished, request};
use agentd_state::{Retention, StateError, StateStore};
use rustix::fs::Mode;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

fn refused(path: &Path) -> StateError {
    StateStore::open(path, Retention::default()).unwrap_err()
}

fn change(database: &Path, sql: &str) {
    rusqlite::Connection::open(database).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn new_store_is_private() {
    let place = Place::new();
    let store = place.open();
    place.begin_new(&store, request("alice", Some("k"), "a"));
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.folder()), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(place.folder()).unwrap().map(Result::unwrap) {
        let expected = if entry.path().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&entry.path()), expected, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["commits", "lock", "owners", "state.db", "state.db-shm", "state.db-wal"]);
}

#[test]
fn folder_that_is_a_link_or_open_to_others_is_refused() {
    let place = Place::new();
    drop(place.open());
    let link = place.path("link");
    symlink(place.folder(), &link).unwrap();
    assert!(matches!(refused(&link), StateError::Folder { .. }));
    for path in [place.folder(), place.folder().join("owners")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o720)).unwrap();
        assert!(matches!(refused(&place.folder()), StateError::Folder { .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    drop(place.open());
}

#[test]
fn file_that_is_a_link_special_or_open_to_others_is_refused() {
    let place = Place::new();
    for name in ["state.db", "state.db-wal", "state.db-shm", "state.db-journal", "commits", "lock"] {
        let folder = place.path(name);
        drop(StateStore::open(&folder, Retention::default()).unwrap());
        let path = folder.join(name);
        let expect = |problem: &str| {
            let error = refused(&folder);
            assert!(matches!(error, StateError::File { .. }) && error.to_string().contains(problem), "{name}: {error}");
        };
        let away = folder.join("away");
        if path.exists() {
            fs::rename(&path, &away).unwrap();
        } else {
            fs::write(&away, "").unwrap();
        }
        symlink(&away, &path).unwrap();
        expect("not a regular file");
        fs::remove_file(&path).unwrap();
        fs::hard_link(&away, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        expect("second name");
        fs::remove_file(&away).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        expect("accessible to other users");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        expect("not a regular file");
    }
}

#[test]
fn newer_or_impossible_schema_version_is_refused() {
    let place = Place::new();
    drop(place.open());
    let database = place.folder().join("state.db");
    for (version, newer) in [(4, true), (i32::MAX, true), (0, false), (-1, false)] {
        change(&database, &format!("PRAGMA user_version = {version}"));
        let error = refused(&place.folder());
        assert_eq!(matches!(error, StateError::Newer { known: 3, .. }), newer, "{error}");
        assert!(newer || matches!(error, StateError::Damaged(_)), "{error}");
    }
    change(&database, "PRAGMA user_version = 3");
    place.assert_sound(&place.open());
}

#[test]
fn store_of_the_first_version_is_migrated_with_its_intents() {
    let place = Place::new();
    let store = place.open();
    let id = place.begin_new(&store, request("alice", Some("k"), "a"));
    place.end(&store, finished(id, "done"));
    drop(store);
    let first =
        "DROP TABLE charges; DROP TABLE waiting; DROP TABLE configuration; DROP TABLE api_keys; DROP INDEX intents_by_begin;";
    change(&place.folder().join("state.db"), &format!("{first} PRAGMA user_version = 1"));
    let store = place.open();
    place.assert_sound(&store);
    assert_eq!(place.runtime.block_on(store.check()).unwrap().schema, 3);
    let answer = place.begin(&store, request("alice", Some("k"), "a"));
    assert_eq!(answer, agentd_state::Begun::Finished { id, outcome: b"done".to_vec() });
}

#[test]
fn database_of_another_program_is_refused() {
    let place = Place::new();
    drop(place.open());
    let database = place.folder().join("state.db");
    change(&database, "PRAGMA application_id = 1");
    assert!(matches!(refused(&place.folder()), StateError::Foreign(_)));
    fs::write(&database, "not a database".repeat(1000)).unwrap();
    assert!(matches!(refused(&place.folder()), StateError::Damaged(_)));
}

mod as_root {
    use super::*;

    #[test]
    fn folder_or_file_of_another_user_is_refused() {
        let place = Place::new();
        drop(place.open());
        for path in [place.folder(), place.folder().join("owners"), place.folder().join("state.db")] {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            let error = refused(&place.folder());
            assert!(error.to_string().contains("belongs to another user"), "{path:?}: {error}");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        drop(place.open());
    }
}
