//! Problems that fsck finds.

use crate::place::{StateDir, name};
use agentd_sandboxes::{ForkSource, SaveMode};
use std::fs;

/// Creates a store with sandboxes `a` and `b`, which share a committed layer and have an upper layer each. Calls `spoil`, and
/// returns the problems that fsck finds.
fn problems_after(spoil: impl FnOnce(&StateDir)) -> Vec<String> {
    let place = StateDir::new();
    place.sandbox("a");
    fs::write(place.upper("a").join("file"), "").unwrap();
    place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b")]).unwrap();
    place.assert_clean();
    spoil(&place);
    place.problems()
}

#[test]
fn fsck_finds_each_damage() {
    let upper = |place: &StateDir, called: &str| place.state.record(&name(called)).unwrap().upper;
    let edit = |place: &StateDir, from: String, to: String| {
        let path = place.at("state/named/a/record.json");
        fs::write(&path, fs::read_to_string(&path).unwrap().replace(&from, &to)).unwrap();
    };
    assert_eq!(problems_after(|_| ()), Vec::<String>::new());
    assert_eq!(problems_after(|place| fs::remove_dir(place.tree(upper(place, "a"))).unwrap()), ["damage: Missing"]);
    assert_eq!(problems_after(|place| fs::remove_dir(place.upper("a").with_file_name("work")).unwrap()), ["damage: Missing"]);
    // The loss of a shared layer damages both sandboxes.
    let lower = |place: &StateDir| place.tree(place.state.record(&name("a")).unwrap().lower[0]);
    assert_eq!(problems_after(|place| fs::remove_dir_all(lower(place)).unwrap()), ["damage: Missing", "damage: Missing"]);
    // A symbolic link is not a tree, even if it points to a directory.
    let link = |place: &StateDir| {
        fs::remove_dir(place.upper("a")).unwrap_or_default();
        std::os::unix::fs::symlink("/", place.tree(upper(place, "a"))).unwrap();
    };
    assert_eq!(problems_after(link), ["damage: Missing"]);
    let shared = |place: &StateDir| edit(place, upper(place, "a").to_string(), upper(place, "b").to_string());
    assert_eq!(problems_after(shared), ["damage: SharedUpper", "Garbage"]);
    let committed_upper = |place: &StateDir| {
        let lower = place.state.record(&name("a")).unwrap().lower[0];
        edit(place, lower.to_string(), upper(place, "b").to_string());
    };
    assert_eq!(problems_after(committed_upper), ["damage: CommittedUpper"]);
    assert_eq!(problems_after(|place| fs::write(place.at("state/named/a/record.json"), "x").unwrap()), ["damage: Record"]);
}

#[test]
fn fsck_distinguishes_garbage_and_unknown_files_from_damage() {
    assert_eq!(problems_after(|place| place.state.remove(&name("b")).unwrap()), ["Garbage"]);
    for strange in ["x", "named/X", "named/a/x", "layers/x", "staging/../x"] {
        assert_eq!(problems_after(|place| fs::write(place.at("state").join(strange), "").unwrap()), ["Unknown"], "{strange}");
    }
}
