//! A copied upper layer equals the original in everything that a payload can see.

use crate::{
    layers::{opaque, whiteout},
    place::{StateDir, name},
};
use agentd_sandboxes::SaveMode;
use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Seek, SeekFrom as From, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Returns the metadata and content of each path of a tree. A file with several hard links is identified by the first path.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut seen, mut firsts) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting = vec![PathBuf::new()];
    while let Some(at) = waiting.pop() {
        let path = if at.as_os_str().is_empty() { root.to_owned() } else { root.join(&at) };
        let found = fs::symlink_metadata(&path).unwrap();
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names).unwrap();
        let mut attributes = BTreeMap::new();
        for attribute in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&path, OsStr::from_bytes(attribute), &mut value).unwrap();
            attributes.insert(attribute.to_owned(), value[..length].to_owned());
        }
        let content = if found.is_file() {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        } else if found.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        let first: &PathBuf = firsts.entry(found.ino()).or_insert_with(|| at.clone());
        let mut what = format!(
            "{:o} {}:{} {} {}.{} {:?} {content} ",
            found.mode(),
            found.uid(),
            found.gid(),
            found.rdev(),
            found.mtime(),
            found.mtime_nsec(),
            attributes
        );
        what.push_str(&format!("{first:?} {}", if found.is_dir() { 0 } else { found.nlink() }));
        seen.insert(at.clone(), what);
        if found.is_dir() {
            let mut inner: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| at.join(entry.unwrap().file_name())).collect();
            inner.sort();
            waiting.extend(inner.into_iter().rev());
        }
    }
    seen
}

fn fill(tree: &Path) {
    let set = |path: &Path, name: &str, value: &[u8]| rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    fs::hard_link(tree.join("file"), tree.join("other name")).unwrap();
    set(&tree.join("file"), "user.comment", &[7; 3000]);
    set(&tree.join("file"), "user.overlay.origin", b"x");
    fs::create_dir_all(tree.join("d/e")).unwrap();
    fs::hard_link(tree.join("file"), tree.join("d/e/third")).unwrap();
    opaque(&tree.join("d"));
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("..", tree.join("d/up")).unwrap();
    whiteout(&tree.join("d/gone"));
    rustix::fs::mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::from(0o622), 0).unwrap();
    rustix::fs::mknodat(CWD, tree.join("socket"), FileType::Socket, Mode::from(0o600), 0).unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"\xff\n")), "").unwrap();
    fs::write(tree.join("set-id"), "").unwrap();
    if rustix::process::geteuid().is_root() {
        set(&tree.join("d/e"), "trusted.overlay.opaque", b"y");
        set(&tree.join("link"), "trusted.note", b"z");
        for (path, uid) in [("set-id", 4321), ("link", 7), ("d/e", 8), ("fifo", 9)] {
            std::os::unix::fs::lchown(tree.join(path), Some(uid), Some(uid + 1)).unwrap();
        }
    }
    for (path, mode) in [("set-id", 0o6755), ("d/e", 0o000), ("d", 0o1500), ("file", 0o000)] {
        // Innermost first, because these modes also keep an ordinary user out.
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let times = |seconds| Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    for (path, at) in [("file", 1), ("d", 1_000_000_000), ("link", -5), ("fifo", 42)] {
        let times = Timestamps { last_access: times(at), last_modification: times(at) };
        rustix::fs::utimensat(CWD, tree.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[test]
fn copied_tree_equals_original() {
    let place = StateDir::new();
    let record = place.sandbox("a");
    let tree = place.tree(record.upper);
    fill(&tree);
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o1777)).unwrap();
    let saved = place.state.snapshot(&name("a"), &name("s"), SaveMode::Copy).unwrap();
    let copy = place.tree(saved.snapshots[&name("s")].layers[0]);
    assert_eq!(saved.upper, record.upper);
    // Compares the modes before they are changed to read the files.
    for path in ["file", "d", "set-id"] {
        let mode = |tree: &Path| fs::symlink_metadata(tree.join(path)).unwrap().mode();
        assert_eq!(mode(&copy), mode(&tree), "{path}");
    }
    let inner = |tree: &Path| {
        for path in ["file", "d", "d/e"] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o700)).unwrap();
        }
        seen(tree)
    };
    let mode = |tree: &Path| {
        fs::set_permissions(tree.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::symlink_metadata(tree.join("d/e")).unwrap().mode() & 0o7777
    };
    assert_eq!((mode(&copy), mode(&tree)), (0, 0));
    let (copied, original) = (inner(&copy), inner(&tree));
    assert_eq!(original.len(), 13);
    assert_eq!(copied, original);
    place.assert_clean();
}

#[test]
fn sparse_file_stays_sparse_in_copy() {
    let place = StateDir::new();
    let record = place.sandbox("a");
    let mut file = File::create(place.tree(record.upper).join("sparse")).unwrap();
    file.write_all(b"begin").unwrap();
    file.seek(From::Start(8 << 20)).unwrap();
    file.write_all(b"middle").unwrap();
    file.set_len(64 << 20).unwrap();
    let saved = place.state.snapshot(&name("a"), &name("s"), SaveMode::Copy).unwrap();
    let copy = File::open(place.tree(saved.snapshots[&name("s")].layers[0]).join("sparse")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), 64 << 20);
    let mut middle = [0; 6];
    copy.read_exact_at(&mut middle, 8 << 20).unwrap();
    assert_eq!(&middle, b"middle");
    // Only if the file system supports holes.
    if rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap() < 8 << 20 {
        assert!(copy.metadata().unwrap().blocks() <= 64);
    }
}

#[test]
fn copy_does_not_follow_file_replaced_by_link() {
    let place = StateDir::new();
    let record = place.sandbox("a");
    let tree = place.tree(record.upper);
    fs::write(place.at("secret"), "secret").unwrap();
    fs::create_dir(place.at("secrets")).unwrap();
    fs::write(place.at("secrets/file"), "secret").unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::write(tree.join("file"), "own").unwrap();
                fs::create_dir(tree.join("d")).unwrap();
                fs::write(tree.join("d/file"), "own").unwrap();
                fs::remove_file(tree.join("file")).unwrap();
                fs::remove_dir_all(tree.join("d")).unwrap();
                std::os::unix::fs::symlink(place.at("secret"), tree.join("file")).unwrap();
                std::os::unix::fs::symlink(place.at("secrets"), tree.join("d")).unwrap();
                fs::remove_file(tree.join("file")).unwrap();
                fs::remove_file(tree.join("d")).unwrap();
            }
        });
        for round in 0..200 {
            let saved = place.state.snapshot(&name("a"), &name(&format!("s{round}")), SaveMode::Copy);
            let saved = saved.inspect_err(|_| stop.store(true, std::sync::atomic::Ordering::Relaxed)).unwrap();
            for layer in &saved.snapshots[&name(&format!("s{round}"))].layers {
                for path in ["file", "d/file"] {
                    let copy = place.tree(*layer).join(path);
                    let inside = !fs::symlink_metadata(copy.parent().unwrap()).is_ok_and(|found| found.is_symlink());
                    if inside && fs::symlink_metadata(&copy).is_ok_and(|found| found.is_file()) {
                        assert_ne!(fs::read_to_string(&copy).unwrap(), "secret");
                    }
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
