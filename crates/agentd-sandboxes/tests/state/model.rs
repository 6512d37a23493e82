//! Any layers: what a stack shows is the same before and after it is squashed, and what a comparison tells is what differs between what
//! is shown. What is shown is found by `layers`, in another way than by the code that is tested.

use crate::{
    layers::{has_stray_whiteout, opaque, shown, whiteout},
    place::{Place, name},
};
use agentd_sandboxes::{How, Kind};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// One entry of a layer.
#[derive(Debug, Clone)]
enum What {
    File(u8),
    Link(u8),
    Whiteout,
    Directory { opaque: bool, mode: u32, inner: Vec<(u8, What)> },
}

fn what() -> impl Strategy<Value = What> {
    let leaf = prop_oneof![(0..3u8).prop_map(What::File), (0..2u8).prop_map(What::Link), Just(What::Whiteout)];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let mode = prop_oneof![4 => Just(0o755), 1 => Just(0o700), 1 => Just(0o1777)];
        (proptest::bool::weighted(0.25), mode, proptest::collection::vec((0..4u8, inner), 0..4))
            .prop_map(|(opaque, mode, inner)| What::Directory { opaque, mode, inner })
    })
}

fn layer() -> impl Strategy<Value = Vec<(u8, What)>> {
    proptest::collection::vec((0..4u8, what()), 0..4)
}

fn make(tree: &Path, entries: &[(u8, What)]) {
    for (called, what) in entries {
        let path = tree.join(called.to_string());
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match what {
            What::File(content) => fs::write(&path, content.to_string()).unwrap(),
            What::Link(target) => std::os::unix::fs::symlink(target.to_string(), &path).unwrap(),
            What::Whiteout => whiteout(&path),
            What::Directory { opaque: hides, mode, inner } => {
                fs::create_dir(&path).unwrap();
                make(&path, inner);
                if *hides {
                    opaque(&path);
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        // Two files of the same content are the same file, as after a copy up.
        let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// A sandbox whose sealed layers are these; each is there even if it is empty.
fn stacked(place: &Place, layers: &[Vec<(u8, What)>]) {
    place.sandbox("a");
    for layer in layers {
        make(&place.top("a"), layer);
        // So that none is left out.
        fs::write(place.top("a").join("mark"), "").unwrap();
        let sealed = place.state.snapshot(&name("a"), &name("passing"), How::Seal).unwrap();
        place.state.drop_snapshot(&name("a"), &name("passing")).unwrap();
        fs::remove_file(place.tree(*sealed.sealed.last().unwrap()).join("mark")).unwrap();
    }
}

/// What is told of what is shown, but for what goes or changes its type with a directory above it.
fn expected(before: &[PathBuf], after: &[PathBuf]) -> BTreeSet<(PathBuf, Kind)> {
    let (before, after) = (shown(before), shown(after));
    let mut expected = BTreeSet::new();
    for path in before.keys().chain(after.keys()) {
        let kind = match (before.get(path), after.get(path)) {
            (None, Some(_)) => Kind::Added,
            (Some(_), None) if path.parent().is_none_or(|above| above == Path::new("") || is_directory(after.get(above))) => {
                Kind::Removed
            }
            (Some(old), Some(new)) if old != new => Kind::Changed,
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
    fn a_squashed_stack_shows_what_it_showed(
        image in proptest::collection::vec(layer(), 0..3),
        layers in proptest::collection::vec(layer(), 13..15),
    ) {
        let place = Place::new();
        let image = laid_out(&place, &image);
        stacked(&place, &layers);
        // Over any image.
        let seen = || shown(&[&image[..], &place.trees("a")].concat());
        let before = seen();
        prop_assert_eq!(place.state.squash(&name("a")).unwrap().layers, layers.len());
        prop_assert_eq!(seen(), before);
        prop_assert!(!has_stray_whiteout(&place.trees("a")[0], false));
        place.state.collect().unwrap();
        place.assert_clean();
    }

    #[test]
    fn a_comparison_tells_what_differs(
        image in proptest::collection::vec(layer(), 0..3),
        layers in proptest::collection::vec(layer(), 0..4),
        since in proptest::collection::vec(layer(), 0..3),
        other in layer(),
        copied in any::<bool>(),
    ) {
        let place = Place::new();
        let image = laid_out(&place, &image);
        stacked(&place, &layers);
        if copied {
            // The snapshot has a layer that the sandbox has not.
            make(&place.top("a"), &other);
        }
        let saved = place.state.snapshot(&name("a"), &name("s"), How::Copy).unwrap();
        let old: Vec<_> = saved.snapshots[&name("s")].layers.iter().map(|layer| place.tree(*layer)).collect();
        place.state.restore(&name("a"), &name("s")).unwrap();
        for layer in &since {
            make(&place.top("a"), layer);
            place.state.snapshot(&name("a"), &name("passing"), How::Seal).unwrap();
            place.state.drop_snapshot(&name("a"), &name("passing")).unwrap();
        }
        let new = place.trees("a");
        let told = |against: Option<&str>| {
            let changes = place.state.diff(&name("a"), against.map(name).as_ref(), &image).unwrap();
            let told: BTreeSet<_> = changes.iter().map(|change| (change.path.clone(), change.kind)).collect();
            assert_eq!(told.len(), changes.len());
            told
        };
        let over = |layers: &[PathBuf]| [&image[..], layers].concat();
        prop_assert_eq!(told(None), expected(&image, &over(&new)));
        prop_assert_eq!(told(Some("s")), expected(&over(&old), &over(&new)));
        if copied && !old.is_empty() {
            // As if what was copied had been left: both stacks have layers that the other has not.
            place.state.snapshot(&name("a"), &name("later"), How::Seal).unwrap();
            place.state.restore(&name("a"), &name("s")).unwrap();
            prop_assert_eq!(told(Some("later")), expected(&over(&new), &over(&place.trees("a"))));
        }
    }
}

/// The trees of an image.
fn laid_out(place: &Place, layers: &[Vec<(u8, What)>]) -> Vec<PathBuf> {
    let tree = |(number, layer): (usize, &Vec<(u8, What)>)| {
        let tree = place.at(&format!("image{number}"));
        fs::create_dir(&tree).unwrap();
        make(&tree, layer);
        tree
    };
    layers.iter().enumerate().map(tree).collect()
}
