//! Property tests of unpacking: random archives of entries that attacks use must change nothing outside their layer.
//!
//! **These tests cannot reach anything outside their own directory, even if the tested code is broken.** A layer lies 200
//! directories deep in the test's directory. A name has at most 4 `..` components, and the kernel follows at most 40 links per
//! name (`man 7 path_resolution`), so no name leads up by 200. Every absolute name begins with the test's directory.

use crate::{
    fixtures::{Entry, archive, device, dir, fifo, file, hard_link, symlink},
    place::{StoreDir, open_up},
};
use agentd_image::unpack::{Bounds, Ownership, unpack};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};
use tar::Header;

/// The placeholder of the test's directory in a generated name.
const PLACE: &str = "PLACE";
const DEPTH: usize = 200;

/// Mode, links, size, times and content.
type FoundFile = (u32, u64, u64, i64, i64, Vec<u8>);

/// A layer's directory, and files around it that must not change.
struct Scene {
    place: StoreDir,
    layer: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let place = StoreDir::new();
        let deep: PathBuf = std::iter::repeat_n("n", DEPTH).collect();
        let around = place.path().join(deep);
        let layer = around.join("layer");
        fs::create_dir_all(&layer).unwrap();
        for around in [place.path(), &around] {
            fs::create_dir(around.join("b")).unwrap();
            fs::write(around.join("a"), "sentinel").unwrap();
            fs::write(around.join("b/a"), "sentinel").unwrap();
            std::os::unix::fs::symlink("b", around.join("c")).unwrap();
        }
        Self { place, layer }
    }

    /// Returns all files and directories outside the layer.
    fn around(&self) -> BTreeMap<PathBuf, FoundFile> {
        let mut all = BTreeMap::new();
        let mut left = vec![self.place.path().to_owned()];
        while let Some(path) = left.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            if path == self.layer {
                continue;
            }
            if found.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let content = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            all.insert(path, (found.mode(), found.nlink(), found.size(), found.mtime_nsec(), found.ctime_nsec(), content));
        }
        all
    }

    fn unpack(&self, bytes: &[u8]) {
        // An earlier archive may have removed permissions of the directory.
        fs::set_permissions(&self.layer, fs::Permissions::from_mode(0o700)).unwrap();
        let root = File::open(&self.layer).unwrap();
        let bounds = Bounds { total: 1 << 20, ..Bounds::default() };
        let _ = unpack(bytes, root.as_fd(), Ownership::of_this_process(), &bounds);
    }

    /// Empties the layer for the next archive.
    fn clear(&self) {
        open_up(&self.layer);
        fs::remove_dir_all(&self.layer).unwrap();
        fs::create_dir(&self.layer).unwrap();
    }

    /// Replaces the placeholder in the names of an entry by the test's directory.
    fn fill_in(&self, mut entry: Entry) -> Entry {
        for name in [&mut entry.path, &mut entry.link] {
            let text = String::from_utf8(name.clone()).unwrap();
            *name = text.replace(PLACE, self.place.path().to_str().unwrap()).into_bytes();
        }
        entry
    }
}

fn name() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "c"]),
        1 => prop::sample::select(vec!["..", ".", "", ".wh.a", ".wh.b", ".wh..", ".wh..wh..opq", ".wh..wh.x", "\u{e9}", "a\nb"]),
    ];
    let relative = prop::collection::vec(component, 1..5).prop_map(|components| components.join("/"));
    // An absolute name must begin with the test's directory.
    let relative = relative.prop_map(|name| name.trim_start_matches('/').to_owned());
    prop_oneof![8 => relative.clone(), 1 => relative.prop_map(|name| format!("{PLACE}/{name}"))]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => name(),
        1 => prop::sample::select(vec![".", "..", "../..", "../../..", "../../../..", "../a", "../b", "../c/a", PLACE])
            .prop_map(str::to_owned),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let modes = prop::sample::select(vec![0o644, 0o755, 0o000, 0o6777, 0o1777, 0o111]);
    (0..8u8, name(), target(), modes, 0..3u64).prop_map(|(kind, name, target, mode, owner)| {
        let entry = match kind {
            0 | 1 => file(&name, "hostile"),
            2 => dir(&name),
            3 | 4 => symlink(&name, &target),
            5 => hard_link(&name, &target),
            6 => fifo(&name),
            _ => device(&name),
        };
        entry.mode(mode).owner(owner, owner)
    })
}

/// Runs `attack` with many values in one scene; nothing outside the layer may change.
fn attack<T: std::fmt::Debug>(values: impl Strategy<Value = T>, attack: impl Fn(&Scene, T)) {
    let scene = Scene::new();
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&values, |value| {
        scene.clear();
        let known = scene.around();
        attack(&scene, value);
        prop_assert_eq!(scene.around(), known);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn hostile_archive_changes_nothing_outside_its_layer() {
    attack(prop::collection::vec(entry(), 1..30), |scene, entries| {
        let entries: Vec<_> = entries.into_iter().map(|entry| scene.fill_in(entry)).collect();
        // Each entry is in a separate archive, because a refused entry ends an archive; then all in one archive.
        for entry in &entries {
            scene.unpack(&archive(std::slice::from_ref(entry)));
        }
        scene.unpack(&archive(&entries));
    });
}

#[test]
fn archive_with_flipped_bytes_changes_nothing_outside_its_layer() {
    let flips = prop::collection::vec((any::<prop::sample::Index>(), 100..157usize, any::<u8>()), 1..8);
    attack((prop::collection::vec(entry(), 1..6), flips), |scene, (entries, flips)| {
        let entries: Vec<_> = entries.into_iter().map(|entry| scene.fill_in(entry)).collect();
        let mut bytes = archive(&entries);
        let blocks = bytes.len() / 512;
        for (block, at, with) in flips {
            // Names stay unchanged: a changed name could lead out of the test's directory.
            let block = block.index(blocks) * 512;
            bytes[block + at] = with;
            let mut header = Header::from_byte_slice(&bytes[block..block + 512]).clone();
            header.set_cksum();
            bytes[block..block + 512].copy_from_slice(header.as_bytes());
        }
        scene.unpack(&bytes);
    });
}

#[test]
fn random_bytes_change_nothing_outside_the_layer() {
    attack(prop::collection::vec(any::<u8>(), 0..2000), |scene, bytes| scene.unpack(&bytes));
}

#[test]
fn scene_detects_changed_link_count() {
    let scene = Scene::new();
    let known = scene.around();
    fs::hard_link(scene.layer.join("../a"), scene.layer.join("x")).unwrap();
    assert_ne!(scene.around(), known);
    assert!(Path::new(&scene.layer).ancestors().count() > DEPTH);
}
