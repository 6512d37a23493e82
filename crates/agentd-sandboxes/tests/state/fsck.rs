//! What is wrong is found.

use crate::place::{Place, name};
use agentd_sandboxes::{How, Of};
use std::fs;

/// What is found after a change to a state with sandboxes a and b, of one sealed layer and a top each.
fn found(spoil: impl FnOnce(&Place)) -> Vec<String> {
    let place = Place::new();
    place.sandbox("a");
    fs::write(place.top("a").join("file"), "").unwrap();
    place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b")]).unwrap();
    place.assert_clean();
    spoil(&place);
    place.problems()
}

#[test]
fn each_damage_is_found() {
    let top = |place: &Place, called: &str| place.state.record(&name(called)).unwrap().top;
    let edit = |place: &Place, from: String, to: String| {
        let path = place.at("state/named/a/record.json");
        fs::write(&path, fs::read_to_string(&path).unwrap().replace(&from, &to)).unwrap();
    };
    assert_eq!(found(|_| ()), Vec::<String>::new());
    assert_eq!(found(|place| fs::remove_dir(place.tree(top(place, "a"))).unwrap()), ["damage: Missing"]);
    assert_eq!(found(|place| fs::remove_dir(place.top("a").with_file_name("work")).unwrap()), ["damage: Missing"]);
    // Who shares a layer shares its loss.
    let sealed = |place: &Place| place.tree(place.state.record(&name("a")).unwrap().sealed[0]);
    assert_eq!(found(|place| fs::remove_dir_all(sealed(place)).unwrap()), ["damage: Missing", "damage: Missing"]);
    // A link is no tree, wherever it leads.
    let link = |place: &Place| {
        fs::remove_dir(place.top("a")).unwrap_or_default();
        std::os::unix::fs::symlink("/", place.tree(top(place, "a"))).unwrap();
    };
    assert_eq!(found(link), ["damage: Missing"]);
    let shared = |place: &Place| edit(place, top(place, "a").to_string(), top(place, "b").to_string());
    assert_eq!(found(shared), ["damage: SharedTop", "Garbage"]);
    let sealed_top = |place: &Place| {
        let sealed = place.state.record(&name("a")).unwrap().sealed[0];
        edit(place, sealed.to_string(), top(place, "b").to_string());
    };
    assert_eq!(found(sealed_top), ["damage: SealedTop"]);
    assert_eq!(found(|place| fs::write(place.at("state/named/a/record.json"), "x").unwrap()), ["damage: Record"]);
}

#[test]
fn what_is_no_damage_is_told_apart() {
    assert_eq!(found(|place| place.state.remove(&name("b")).unwrap()), ["Garbage"]);
    for strange in ["x", "named/X", "named/a/x", "layers/x", "staging/../x"] {
        assert_eq!(found(|place| fs::write(place.at("state").join(strange), "").unwrap()), ["Unknown"], "{strange}");
    }
}
