//! Creating, reading, listing and removing sandboxes.

use crate::place::{StateDir, name};
use agentd_core::{Access, Grant, Root, SandboxSpec};
use agentd_sandboxes::{SandboxSettings, SandboxStore, StoreError};
use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::PathBuf,
};

fn about() -> SandboxSettings {
    SandboxSettings {
        spec: SandboxSpec {
            root: Root::Layers(vec!["/a".into(), "/b".into()]),
            deny_reasons: vec!["ask the team of the network".to_owned()],
            ..SandboxSpec::default()
        },
        image: Some("alpine:3".to_owned()),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: "/work".into(),
        idle_ttl: Some(60),
        total_ttl: None,
        owner: Some("service:ci".to_owned()),
    }
}

#[test]
fn created_sandbox_is_read_by_another_state() {
    let place = StateDir::new();
    let record = place.state.create(&name("a"), about()).unwrap();
    assert_eq!((record.name.as_str(), &record.about, record.lower.len()), ("a", &about(), 0));
    let other = SandboxStore::open(&place.at("state")).unwrap();
    assert_eq!(other.record(&name("a")).unwrap(), record);
    let upper = other.layer_paths(&record).upper;
    assert!(upper.join("tree").is_dir() && upper.join("work").is_dir() && other.log_directory(&name("a")).is_dir());
    assert_eq!(fs::metadata(upper.join("tree")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(&upper).unwrap().permissions().mode() & 0o7777, 0o700);
    place.assert_clean();
}

#[test]
fn create_with_taken_name_fails() {
    let place = StateDir::new();
    place.sandbox("a");
    assert!(matches!(place.state.create(&name("a"), about()), Err(StoreError::Taken { .. })));
    assert_eq!((place.count("layers"), place.count("staging")), (1, 0));
    place.state.remove(&name("a")).unwrap();
    assert_eq!(place.state.create(&name("a"), about()).unwrap().about, about());
}

#[test]
fn operations_on_missing_sandbox_fail() {
    let place = StateDir::new();
    let (missing, record) = (name("missing"), place.sandbox("a"));
    let not_found = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::NotFound { .. })), "{result:?}");
    not_found(place.state.record(&missing).map(drop));
    not_found(place.state.touch(&missing).map(drop));
    not_found(place.state.remove(&missing));
    not_found(place.state.squash(&missing).map(drop));
    not_found(place.state.diff(&missing, None, &[]).map(drop));
    let error = place.state.restore(&record.name, &missing).unwrap_err().to_string();
    assert!(error.contains("sandbox a has no snapshot missing"), "{error}");
}

#[test]
fn touch_changes_only_time_of_use() {
    let place = StateDir::new();
    let record = place.sandbox("a");
    let path = place.at("state/named/a/record.json");
    let text = fs::read_to_string(&path).unwrap().replace(&format!("\"used\": {}", record.used), "\"used\": 7");
    fs::write(&path, text).unwrap();
    assert_eq!(place.state.record(&name("a")).unwrap().used, 7);
    let touched = place.state.touch(&name("a")).unwrap();
    assert!(touched.used >= record.used);
    assert_eq!(place.state.record(&name("a")).unwrap(), touched);
    assert_eq!((touched.created, touched.upper), (record.created, record.upper));
    place.assert_clean();
}

#[test]
fn damaged_records_are_listed_with_valid_ones_and_can_be_removed() {
    let place = StateDir::new();
    for called in ["bad", "empty", "good", "later", "lost", "moved", "more"] {
        place.sandbox(called);
    }
    let path = |called: &str| place.at("state/named").join(called).join("record.json");
    let good = fs::read_to_string(path("good")).unwrap();
    fs::write(path("bad"), good.replace("good", "bad").replace("\"top\": \"", "\"top\": \"../")).unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("later"), good.replace("good", "later").replace("\"version\": 4", "\"version\": 5")).unwrap();
    fs::remove_file(path("lost")).unwrap();
    fs::write(path("moved"), &good).unwrap();
    fs::write(path("more"), good.replace("good", "more").replacen('{', "{\"more\": 1,", 1)).unwrap();
    let list = place.state.list().unwrap();
    let damaged = list.iter().filter_map(|found| match found {
        Err(StoreError::Damaged { name, .. }) => Some(name.as_str()),
        _ => None,
    });
    assert_eq!(damaged.collect::<Vec<_>>(), ["bad", "empty", "later", "lost", "more", "moved"]);
    assert_eq!(list.iter().flatten().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["good"]);
    // Nothing is collected while damaged records exist, because their needs are unknown.
    assert!(matches!(place.state.collect(), Err(StoreError::Damaged { .. })));
    assert!(place.state.needed_image_layers().is_err());
    assert_eq!(place.state.fsck().unwrap().iter().filter(|problem| problem.is_damage()).count(), 6);
    for called in ["bad", "empty", "later", "lost", "more", "moved"] {
        place.state.remove(&name(called)).unwrap();
    }
    assert_eq!(place.state.collect().unwrap().layers, 6);
    place.assert_clean();
}

#[test]
fn create_with_unserialisable_path_leaves_nothing() {
    let place = StateDir::new();
    let path = PathBuf::from(OsStr::from_bytes(b"/data/\xff"));
    let grant = Grant::new(path, Access::ReadOnly);
    let about =
        SandboxSettings { spec: SandboxSpec { grants: vec![grant], ..SandboxSpec::default() }, ..SandboxSettings::default() };
    assert!(matches!(place.state.create(&name("a"), about), Err(StoreError::Unwritable { .. })));
    assert_eq!(place.state.list().unwrap().len(), 0);
    place.state.collect().unwrap();
    place.assert_clean();
}

#[test]
fn needed_image_layers_are_those_of_existing_sandboxes() {
    let place = StateDir::new();
    place.state.create(&name("a"), about()).unwrap();
    let spec = SandboxSpec { root: Root::Layers(vec!["/b".into(), "/c".into()]), ..SandboxSpec::default() };
    place.state.create(&name("b"), SandboxSettings { spec, ..about() }).unwrap();
    place.state.create(&name("c"), SandboxSettings::default()).unwrap();
    let needed = || {
        let mut needed = place.state.needed_image_layers().unwrap();
        needed.sort();
        needed.dedup();
        needed
    };
    assert_eq!(needed(), ["/a", "/b", "/c"].map(PathBuf::from));
    place.state.remove(&name("b")).unwrap();
    assert_eq!(needed(), ["/a", "/b"].map(PathBuf::from));
}

#[test]
fn directory_accessible_to_others_is_refused() {
    let place = StateDir::new();
    fs::create_dir(place.at("open")).unwrap();
    fs::set_permissions(place.at("open"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(place.at("file"), "").unwrap();
    std::os::unix::fs::symlink("state", place.at("link")).unwrap();
    for bad in ["open", "file", "link"] {
        assert!(matches!(SandboxStore::open(&place.at(bad)), Err(StoreError::Place { .. })), "{bad}");
    }
}

#[test]
fn before_mount_recreates_work_directory() {
    let place = StateDir::new();
    let record = place.sandbox("a");
    let work = place.state.layer_paths(&record).upper.join("work");
    fs::create_dir_all(work.join("work/deep")).unwrap();
    fs::create_dir_all(work.join("incompat/volatile")).unwrap();
    fs::set_permissions(work.join("work"), fs::Permissions::from_mode(0o000)).unwrap();
    place.state.before_mount(&record).unwrap();
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
    fs::remove_dir(&work).unwrap();
    assert_eq!(place.state.fsck().unwrap().iter().filter(|problem| problem.is_damage()).count(), 1);
    place.state.before_mount(&record).unwrap();
    place.assert_clean();
}
