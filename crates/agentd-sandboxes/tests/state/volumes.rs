//! Sandboxes with a limit: their volumes come, stay as long as anything in them is needed, and go; what is wrong with them is found.

use crate::place::{Place, limited, name};
use agentd_sandboxes::{How, Of, StateError};
use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

#[test]
fn who_can_mount_none_is_told_so_and_nothing_is_made() {
    let place = Place::new();
    let refused = place.state.create(&name("a"), limited()).unwrap_err();
    assert!(matches!(&refused, StateError::Volume(error) if error.remedy.contains("root of the host")), "{refused}");
    place.assert_clean();
    assert_eq!((place.count("named"), place.count("layers"), place.count("volumes")), (0, 0, 0));
}

#[test]
fn a_volume_stays_as_long_as_anything_in_it_is_needed() {
    let Some(place) = Place::with_volumes() else { return };
    place.limited("a");
    fs::write(place.top("a").join("file"), "a").unwrap();
    place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b")]).unwrap();
    fs::write(place.top("a").join("later"), vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(place.count("volumes"), 2);
    place.state.remove(&name("a")).unwrap();
    place.state.rest(Duration::ZERO);
    // What only the removed one had goes, in a volume that stays.
    assert_eq!(place.state.collect().unwrap().layers, 1);
    place.assert_clean();
    assert_eq!((place.count("volumes"), place.count("layers")), (2, 2));
    let (record, _held) = place.state.hold(&name("b")).unwrap();
    let layers = place.state.layer_paths(&record);
    assert_eq!(fs::read_to_string(layers.sealed[0].join("file")).unwrap(), "a");
    // What is held is not removed.
    place.state.remove(&name("b")).unwrap();
    assert_eq!(place.state.collect().unwrap().volumes, 0);
    assert!(layers.top.join("tree").exists());
    drop(_held);
    assert_eq!(place.state.collect().unwrap().volumes, 2);
    place.assert_clean();
    assert_eq!((place.count("volumes"), place.count("layers")), (0, 0));
}

#[test]
fn layers_are_merged_within_a_volume_only_and_what_is_shown_stays() {
    let Some(place) = Place::with_volumes() else { return };
    place.limited("a");
    let seal = |called: &str, number: u32| {
        fs::write(place.top(called).join(number.to_string()), called).unwrap();
        place.state.snapshot(&name(called), &name("passing"), How::Seal).unwrap();
        place.state.drop_snapshot(&name(called), &name("passing")).unwrap();
    };
    (0..7).for_each(|number| seal("a", number));
    place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b")]).unwrap();
    place.state.remove(&name("a")).unwrap();
    place.state.drop_snapshot(&name("b"), &agentd_sandboxes::Name::created()).unwrap();
    (7..15).for_each(|number| seal("b", number));
    let volume_of = |path: &PathBuf| path.ancestors().nth(4).unwrap().to_owned();
    let volumes =
        || place.state.layer_paths(&place.state.record(&name("b")).unwrap()).sealed.iter().map(volume_of).collect::<Vec<_>>();
    assert_eq!(volumes().len(), 15);
    assert_eq!(place.state.squash(&name("b")).unwrap().layers, 8);
    // Those of the one that it was forked from were not touched: 7 and a merged one.
    assert_eq!(volumes().len(), 8);
    let shown = place.trees("b").iter().map(|tree| fs::read_dir(tree).unwrap().count()).collect::<Vec<_>>();
    assert_eq!(shown, [1, 1, 1, 1, 1, 1, 1, 8, 0]);
    place.state.collect().unwrap();
    place.assert_clean();
}

#[test]
fn forks_of_forks_have_an_end_that_is_told() {
    let Some(place) = Place::with_volumes() else { return };
    place.limited("s0");
    for number in 0..=15 {
        let (of, new) = (format!("s{number}"), format!("s{}", number + 1));
        fs::write(place.top(&of).join("file"), &of).unwrap();
        let forked = place.state.fork(&name(&of), Of::Now(How::Seal), &[name(&new)]);
        if number == 15 {
            assert!(matches!(forked, Err(StateError::TooDeep { .. })), "{forked:?}");
            break;
        }
        forked.unwrap();
    }
    place.state.collect().unwrap();
    place.assert_clean();
}

/// What is found after a change to a state with a sandbox and a fork of it, both with a limit, while no volume is mounted.
fn found(spoil: impl FnOnce(&Place)) -> Vec<String> {
    let place = Place::with_volumes().unwrap();
    place.limited("a");
    fs::write(place.top("a").join("file"), "").unwrap();
    place.state.fork(&name("a"), Of::Now(How::Seal), &[name("b")]).unwrap();
    place.assert_clean();
    place.state.rest(Duration::ZERO);
    spoil(&place);
    place.problems()
}

#[test]
fn each_damage_of_a_volume_is_found() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let link = |place: &Place| place.at("state/layers").join(place.state.record(&name("a")).unwrap().top.to_string());
    let volume = |place: &Place| {
        let target = fs::read_link(link(place)).unwrap();
        place.at("state/layers").join(target.iter().take(3).collect::<PathBuf>())
    };
    let image = |place: &Place| volume(place).join("image");
    assert_eq!(found(|_| ()), Vec::<String>::new());
    // The fork has layers in it, too.
    let both = ["damage: Volume", "damage: Volume"];
    assert_eq!(found(|place| fs::remove_file(image(place)).unwrap()), both);
    assert_eq!(found(|place| fs::remove_dir_all(volume(place)).unwrap()), both);
    let spoiled = |place: &Place| fs::write(image(place), vec![0; 16 << 20]).unwrap();
    assert_eq!(found(spoiled), both);
    // Bigger than was asked for: no limit of the first, and all the fork needs.
    let grown = |place: &Place| fs::OpenOptions::new().write(true).open(image(place)).unwrap().set_len(32 << 20).unwrap();
    assert_eq!(found(grown), ["damage: Volume"]);
    let elsewhere = |place: &Place| {
        fs::remove_file(link(place)).unwrap();
        symlink("/etc", link(place)).unwrap();
    };
    assert_eq!(found(elsewhere)[..2], ["damage: Volume", "damage: Volume"]);
    // A top of a directory of the host's has no limit.
    let unlimited = |place: &Place| {
        fs::remove_file(link(place)).unwrap();
        fs::create_dir_all(link(place).join("tree")).unwrap();
        fs::create_dir_all(link(place).join("work")).unwrap();
    };
    assert_eq!(found(unlimited)[0], "damage: Volume");
    let lost = |place: &Place| fs::remove_file(link(place)).unwrap();
    assert_eq!(found(lost)[0], "damage: Missing");
    let inside = |place: &Place| {
        let top = place.state.hold(&name("a")).unwrap();
        fs::remove_dir(place.state.layer_paths(&top.0).top.join("tree")).unwrap();
    };
    assert_eq!(found(inside), ["damage: Missing"]);
}

#[test]
fn what_of_a_volume_is_no_damage_is_told_apart() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let strange = |place: &Place| fs::create_dir(place.at("state/volumes/00000000000000ff")).unwrap();
    assert_eq!(found(strange), ["Garbage"]);
    let stray = |place: &Place| {
        let (record, _held) = place.state.hold(&name("a")).unwrap();
        fs::create_dir(place.state.layer_paths(&record).top.with_file_name("00000000000000ff")).unwrap();
    };
    assert_eq!(found(stray), ["Garbage"]);
    assert_eq!(found(|place| fs::write(place.at("state/volumes/x"), "").unwrap()), ["Unknown"]);
    // Its layer, and the volume in which that is needed for as long as the layer is listed.
    assert_eq!(found(|place| place.state.remove(&name("b")).unwrap()), ["Garbage"]);
}
