//! Sandboxes with a disk limit: their volumes are kept while a layer in them is needed, and fsck finds damage of volumes.

use crate::place::{StateDir, limited, name};
use agentd_sandboxes::{ForkSource, SaveMode, StoreError};
use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

#[test]
fn create_with_limit_without_volumes_fails_and_creates_nothing() {
    let place = StateDir::new();
    let refused = place.state.create(&name("a"), limited()).unwrap_err();
    assert!(matches!(&refused, StoreError::Volume(error) if error.remedy.as_str().contains("root of the host")), "{refused}");
    place.assert_clean();
    assert_eq!((place.count("named"), place.count("layers"), place.count("volumes")), (0, 0, 0));
}

#[test]
fn volume_is_kept_while_a_layer_in_it_is_needed() {
    let Some(place) = StateDir::with_volumes() else { return };
    place.limited("a");
    fs::write(place.upper("a").join("file"), "a").unwrap();
    place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b")]).unwrap();
    fs::write(place.upper("a").join("later"), vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(place.count("volumes"), 2);
    place.state.remove(&name("a")).unwrap();
    place.state.unmount_unused(Duration::ZERO);
    // The upper layer of the removed sandbox is collected. Its volume is kept, because the fork needs the other layer.
    assert_eq!(place.state.collect().unwrap().layers, 1);
    place.assert_clean();
    assert_eq!((place.count("volumes"), place.count("layers")), (2, 2));
    let (record, _held) = place.state.hold(&name("b")).unwrap();
    let layers = place.state.layer_paths(&record);
    assert_eq!(fs::read_to_string(layers.lower[0].join("file")).unwrap(), "a");
    // Held layers and their volumes are not removed.
    place.state.remove(&name("b")).unwrap();
    assert_eq!(place.state.collect().unwrap().volumes, 0);
    assert!(layers.upper.join("tree").exists());
    drop(_held);
    assert_eq!(place.state.collect().unwrap().volumes, 2);
    place.assert_clean();
    assert_eq!((place.count("volumes"), place.count("layers")), (0, 0));
}

#[test]
fn squash_merges_only_layers_of_one_volume() {
    let Some(place) = StateDir::with_volumes() else { return };
    place.limited("a");
    let commit = |called: &str, number: u32| {
        fs::write(place.upper(called).join(number.to_string()), called).unwrap();
        place.state.snapshot(&name(called), &name("passing"), SaveMode::Commit).unwrap();
        place.state.drop_snapshot(&name(called), &name("passing")).unwrap();
    };
    (0..7).for_each(|number| commit("a", number));
    place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b")]).unwrap();
    place.state.remove(&name("a")).unwrap();
    place.state.drop_snapshot(&name("b"), &agentd_sandboxes::Name::created()).unwrap();
    (7..15).for_each(|number| commit("b", number));
    let volume_of = |path: &PathBuf| path.ancestors().nth(4).unwrap().to_owned();
    let volumes =
        || place.state.layer_paths(&place.state.record(&name("b")).unwrap()).lower.iter().map(volume_of).collect::<Vec<_>>();
    assert_eq!(volumes().len(), 15);
    assert_eq!(place.state.squash(&name("b")).unwrap().layers, 8);
    // The 7 layers in the origin's volume are unchanged, and the 8 layers of the fork are merged into one.
    assert_eq!(volumes().len(), 8);
    let shown = place.trees("b").iter().map(|tree| fs::read_dir(tree).unwrap().count()).collect::<Vec<_>>();
    assert_eq!(shown, [1, 1, 1, 1, 1, 1, 1, 8, 0]);
    place.state.collect().unwrap();
    place.assert_clean();
}

#[test]
fn fork_beyond_maximum_volumes_fails() {
    let Some(place) = StateDir::with_volumes() else { return };
    place.limited("s0");
    for number in 0..=15 {
        let (of, new) = (format!("s{number}"), format!("s{}", number + 1));
        fs::write(place.upper(&of).join("file"), &of).unwrap();
        let forked = place.state.fork(&name(&of), ForkSource::Now(SaveMode::Commit), &[name(&new)]);
        if number == 15 {
            assert!(matches!(forked, Err(StoreError::TooDeep { .. })), "{forked:?}");
            break;
        }
        forked.unwrap();
    }
    place.state.collect().unwrap();
    place.assert_clean();
}

/// Creates a store with a sandbox `a` and its fork `b`, both with a disk limit, and unmounts all volumes. Calls `spoil`, and
/// returns the problems that fsck finds.
fn problems_after(spoil: impl FnOnce(&StateDir)) -> Vec<String> {
    let place = StateDir::with_volumes().unwrap();
    place.limited("a");
    fs::write(place.upper("a").join("file"), "").unwrap();
    place.state.fork(&name("a"), ForkSource::Now(SaveMode::Commit), &[name("b")]).unwrap();
    place.assert_clean();
    place.state.unmount_unused(Duration::ZERO);
    spoil(&place);
    place.problems()
}

/// Tests that need root. An ordinary user skips them: `--skip as_root::`.
mod as_root {
    use super::*;

    #[test]
    fn fsck_finds_each_volume_damage() {
        let link = |place: &StateDir| place.at("state/layers").join(place.state.record(&name("a")).unwrap().upper.to_string());
        let volume = |place: &StateDir| {
            let target = fs::read_link(link(place)).unwrap();
            place.at("state/layers").join(target.iter().take(3).collect::<PathBuf>())
        };
        let image = |place: &StateDir| volume(place).join("image");
        assert_eq!(problems_after(|_| ()), Vec::<String>::new());
        // The fork also needs a layer in the volume.
        let both = ["damage: Volume", "damage: Volume"];
        assert_eq!(problems_after(|place| fs::remove_file(image(place)).unwrap()), both);
        assert_eq!(problems_after(|place| fs::remove_dir_all(volume(place)).unwrap()), both);
        let spoiled = |place: &StateDir| fs::write(image(place), vec![0; 16 << 20]).unwrap();
        assert_eq!(problems_after(spoiled), both);
        // The image exceeds the limit in the record of `a`. The layer that the fork needs is intact.
        let grown = |place: &StateDir| fs::OpenOptions::new().write(true).open(image(place)).unwrap().set_len(32 << 20).unwrap();
        assert_eq!(problems_after(grown), ["damage: Volume"]);
        let elsewhere = |place: &StateDir| {
            fs::remove_file(link(place)).unwrap();
            symlink("/etc", link(place)).unwrap();
        };
        assert_eq!(problems_after(elsewhere)[..2], ["damage: Volume", "damage: Volume"]);
        // An upper layer in a plain directory of the host has no disk limit.
        let unlimited = |place: &StateDir| {
            fs::remove_file(link(place)).unwrap();
            fs::create_dir_all(link(place).join("tree")).unwrap();
            fs::create_dir_all(link(place).join("work")).unwrap();
        };
        assert_eq!(problems_after(unlimited)[0], "damage: Volume");
        let lost = |place: &StateDir| fs::remove_file(link(place)).unwrap();
        assert_eq!(problems_after(lost)[0], "damage: Missing");
        let inside = |place: &StateDir| {
            let upper = place.state.hold(&name("a")).unwrap();
            fs::remove_dir(place.state.layer_paths(&upper.0).upper.join("tree")).unwrap();
        };
        assert_eq!(problems_after(inside), ["damage: Missing"]);
    }

    #[test]
    fn fsck_distinguishes_volume_garbage_from_damage() {
        let strange = |place: &StateDir| fs::create_dir(place.at("state/volumes/00000000000000ff")).unwrap();
        assert_eq!(problems_after(strange), ["Garbage"]);
        let stray = |place: &StateDir| {
            let (record, _held) = place.state.hold(&name("a")).unwrap();
            fs::create_dir(place.state.layer_paths(&record).upper.with_file_name("00000000000000ff")).unwrap();
        };
        assert_eq!(problems_after(stray), ["Garbage"]);
        assert_eq!(problems_after(|place| fs::write(place.at("state/volumes/x"), "").unwrap()), ["Unknown"]);
        // Only the layer is garbage: its volume is needed as long as the layer exists.
        assert_eq!(problems_after(|place| place.state.remove(&name("b")).unwrap()), ["Garbage"]);
    }
}
