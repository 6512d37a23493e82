//! Property tests with random layers: a squash does not change the merged view of a stack, and a diff lists exactly the
//! differences between two views. The module `layers` computes the views independently of the tested code.

use crate::{
    layers::{has_stray_whiteout, opaque, shown, whiteout},
    place::{StateDir, name},
};
use agentd_sandboxes::{ChangeKind, SaveMode};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// One entry of a layer.
#[derive(Debug, Clone)]
enum LayerEntry {
    File(u8),
    Link(u8),
    Whiteout,
    Directory { opaque: bool, mode: u32, inner: Vec<(u8, LayerEntry)> },
}

fn what() -> impl Strategy<Value = LayerEntry> {
    let leaf = prop_oneof![(0..3u8).prop_map(LayerEntry::File), (0..2u8).prop_map(LayerEntry::Link), Just(LayerEntry::Whiteout)];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let mode = prop_oneof![4 => Just(0o755), 1 => Just(0o700), 1 => Just(0o1777)];
        (proptest::bool::weighted(0.25), mode, proptest::collection::vec((0..4u8, inner), 0..4))
            .prop_map(|(opaque, mode, inner)| LayerEntry::Directory { opaque, mode, inner })
    })
}

fn layer() -> impl Strategy<Value = Vec<(u8, LayerEntry)>> {
    proptest::collection::vec((0..4u8, what()), 0..4)
}

fn make(tree: &Path, entries: &[(u8, LayerEntry)]) {
    for (called, what) in entries {
        let path = tree.join(called.to_string());
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match what {
            LayerEntry::File(content) => fs::write(&path, content.to_string()).unwrap(),
            LayerEntry::Link(target) => std::os::unix::fs::symlink(target.to_string(), &path).unwrap(),
            LayerEntry::Whiteout => whiteout(&path),
            LayerEntry::Directory { opaque: hides, mode, inner } => {
                fs::create_dir(&path).unwrap();
                make(&path, inner);
                if *hides {
                    opaque(&path);
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        // With equal times, files of equal content count as the same file, as after a copy-up.
        let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Creates a sandbox with these committed layers. Empty layers are also committed.
fn stacked(place: &StateDir, layers: &[Vec<(u8, LayerEntry)>]) {
    place.sandbox("a");
    for layer in layers {
        make(&place.upper("a"), layer);
        // An empty layer would not be committed.
        fs::write(place.upper("a").join("mark"), "").unwrap();
        let lower = place.state.snapshot(&name("a"), &name("passing"), SaveMode::Commit).unwrap();
        place.state.drop_snapshot(&name("a"), &name("passing")).unwrap();
        fs::remove_file(place.tree(*lower.lower.last().unwrap()).join("mark")).unwrap();
    }
}

/// Returns the expected diff of two stacks. A removed path is not listed if its parent directory was also removed or replaced.
fn expected(before: &[PathBuf], after: &[PathBuf]) -> BTreeSet<(PathBuf, ChangeKind)> {
    let (before, after) = (shown(before), shown(after));
    let mut expected = BTreeSet::new();
    for path in before.keys().chain(after.keys()) {
        let kind = match (before.get(path), after.get(path)) {
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) if path.parent().is_none_or(|above| above == Path::new("") || is_directory(after.get(above))) => {
                ChangeKind::Removed
            }
            (Some(old), Some(new)) if old != new => ChangeKind::Changed,
            _ => continue,
        };
        expected.insert((path.clone(), kind));
    }
    expected
}

fn is_directory(what: Option<&String>) -> bool {
    what.is_some_and(|what| what.starts_with("directory"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn squash_of_random_layers_shows_same_tree(
        image in proptest::collection::vec(layer(), 0..3),
        layers in proptest::collection::vec(layer(), 13..15),
    ) {
        let place = StateDir::new();
        let image = laid_out(&place, &image);
        stacked(&place, &layers);
        // The stack lies on an arbitrary image.
        let seen = || shown(&[&image[..], &place.trees("a")].concat());
        let before = seen();
        prop_assert_eq!(place.state.squash(&name("a")).unwrap().layers, layers.len());
        prop_assert_eq!(seen(), before);
        prop_assert!(!has_stray_whiteout(&place.trees("a")[0], false));
        place.state.collect().unwrap();
        place.assert_clean();
    }

    #[test]
    fn diff_of_random_layers_lists_exact_differences(
        image in proptest::collection::vec(layer(), 0..3),
        layers in proptest::collection::vec(layer(), 0..4),
        since in proptest::collection::vec(layer(), 0..3),
        other in layer(),
        copied in any::<bool>(),
    ) {
        let place = StateDir::new();
        let image = laid_out(&place, &image);
        stacked(&place, &layers);
        if copied {
            // The snapshot has a layer that the sandbox lacks.
            make(&place.upper("a"), &other);
        }
        let saved = place.state.snapshot(&name("a"), &name("s"), SaveMode::Copy).unwrap();
        let old: Vec<_> = saved.snapshots[&name("s")].layers.iter().map(|layer| place.tree(*layer)).collect();
        place.state.restore(&name("a"), &name("s")).unwrap();
        for layer in &since {
            make(&place.upper("a"), layer);
            place.state.snapshot(&name("a"), &name("passing"), SaveMode::Commit).unwrap();
            place.state.drop_snapshot(&name("a"), &name("passing")).unwrap();
        }
        let new = place.trees("a");
        let diff = |against: Option<&str>| {
            let changes = place.state.diff(&name("a"), against.map(name).as_ref(), &image).unwrap();
            let found: BTreeSet<_> = changes.iter().map(|change| (change.path.clone(), change.kind)).collect();
            assert_eq!(found.len(), changes.len());
            found
        };
        let over = |layers: &[PathBuf]| [&image[..], layers].concat();
        prop_assert_eq!(diff(None), expected(&image, &over(&new)));
        prop_assert_eq!(diff(Some("s")), expected(&over(&old), &over(&new)));
        if copied && !old.is_empty() {
            // Each of the two stacks has layers that the other lacks.
            place.state.snapshot(&name("a"), &name("later"), SaveMode::Commit).unwrap();
            place.state.restore(&name("a"), &name("s")).unwrap();
            prop_assert_eq!(diff(Some("later")), expected(&over(&new), &over(&place.trees("a"))));
        }
    }
}

/// Creates the trees of an image.
fn laid_out(place: &StateDir, layers: &[Vec<(u8, LayerEntry)>]) -> Vec<PathBuf> {
    let tree = |(number, layer): (usize, &Vec<(u8, LayerEntry)>)| {
        let tree = place.at(&format!("image{number}"));
        fs::create_dir(&tree).unwrap();
        make(&tree, layer);
        tree
    };
    layers.iter().enumerate().map(tree).collect()
}
