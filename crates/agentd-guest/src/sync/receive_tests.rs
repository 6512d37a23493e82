//! Hostile transfers: whatever a guest sends, nothing outside of the permitted paths is changed, read or followed.

use super::*;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

/// A directory that may be changed, `inside`, next to one that must not be, `outside`.
struct ReceiveDir(tempfile::TempDir);

impl ReceiveDir {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.inside("")).unwrap();
        fs::create_dir(place.outside("")).unwrap();
        fs::write(place.outside("secret"), "secret").unwrap();
        place
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.0.path().join("inside").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.0.path().join("outside").join(name)
    }

    fn receiver(&self) -> Receiver {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(self.inside(""), flags, Mode::empty()).unwrap();
        let allow = |name: &RelativeName, _: &Content| !name.path().starts_with("protected");
        Receiver::new(Arc::new(SyncRoot { directory, only: None }), Box::new(allow), 1000)
    }

    fn take(&self, entries: &[(&str, Content)]) -> Result<(), CopyError> {
        self.take_in_pieces(entries, usize::MAX)
    }

    /// Files are filled with `x`.
    fn take_in_pieces(&self, entries: &[(&str, Content)], piece: usize) -> Result<(), CopyError> {
        let mut bytes = Vec::new();
        for (path, what) in entries {
            Entry { path: path.as_bytes().to_vec(), what: what.clone() }.encode(&mut bytes).unwrap();
            if let Content::File { size, .. } = what {
                bytes.resize(bytes.len() + usize::try_from(*size).unwrap().min(2000), b'x');
            }
        }
        bytes.extend_from_slice(&entry::END);
        let mut receiver = self.receiver();
        bytes.chunks(piece.min(bytes.len())).try_for_each(|piece| receiver.push(piece))?;
        receiver.finish()
    }

    /// Checks that nothing outside has changed, and that no incomplete file remains.
    fn check(&self) {
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.0.path()), ["inside", "outside"]);
        assert_eq!(names(&self.outside("")), ["secret"]);
        assert_eq!(fs::read(self.outside("secret")).unwrap(), b"secret");
        assert!(names(&self.inside("")).iter().all(|name| !name.to_string_lossy().starts_with(".agentd")));
    }
}

#[test]
fn refused_entry_leaves_directory_modes_set() {
    let place = ReceiveDir::new();
    assert!(matches!(place.take(&[("d", directory()), ("protected", file(1))]), Err(CopyError::Forbidden(_))));
    assert_eq!(fs::metadata(place.inside("d")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn total_length_of_names_is_limited() {
    let entry = |path: &str| Entry { path: path.as_bytes().to_vec(), what: Content::Nothing };
    let place = ReceiveDir::new();
    let mut receiver = place.receiver();
    receiver.entry(entry("four")).unwrap();
    assert_eq!(receiver.names, 4);
    receiver.names = MAX_NAMES - 4;
    assert_eq!(receiver.entry(entry("four")), Ok(()));
    assert!(matches!(receiver.entry(entry("x")), Err(CopyError::TooMuch { .. })));
}

fn file(size: u64) -> Content {
    Content::File { mode: 0o644, modified: (1_000_000_000, 5), size }
}

fn directory() -> Content {
    Content::Directory { mode: 0o755 }
}

fn link(to: &str) -> Content {
    Content::Link { to: to.as_bytes().to_vec() }
}

#[test]
fn pieces_of_any_size_are_applied() {
    for piece in [1, 2, 3, 7, 100, usize::MAX] {
        let place = ReceiveDir::new();
        fs::write(place.inside("old"), "old").unwrap();
        fs::create_dir(place.inside("empty")).unwrap();
        let entries = [
            ("gone/child", Content::Nothing),
            ("empty", Content::Nothing),
            ("old", Content::Nothing),
            ("d", Content::Directory { mode: 0o500 }),
            ("d/file", file(5)),
            ("d/none", file(0)),
            ("d/link", link("/any/where")),
        ];
        place.take_in_pieces(&entries, piece).unwrap();
        assert!(!place.inside("old").exists() && !place.inside("empty").exists());
        assert_eq!(fs::read(place.inside("d/file")).unwrap(), b"xxxxx");
        assert_eq!(fs::metadata(place.inside("d/file")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::metadata(place.inside("d/none")).unwrap().len(), 0);
        assert_eq!(fs::read_link(place.inside("d/link")).unwrap(), Path::new("/any/where"));
        assert_eq!(fs::metadata(place.inside("d")).unwrap().mode() & 0o7777, 0o500);
        // Once more, into a directory whose mode forbids changes.
        place.take(&[("d/file", file(2)), ("d/new", file(1)), ("d/none", Content::Nothing)]).unwrap();
        assert_eq!(fs::read(place.inside("d/file")).unwrap(), b"xx");
        assert!(place.inside("d/new").exists() && !place.inside("d/none").exists());
        assert_eq!(fs::metadata(place.inside("d")).unwrap().mode() & 0o7777, 0o500);
        place.check();
    }
}

#[test]
fn names_outside_copy_are_refused() {
    let place = ReceiveDir::new();
    let absolute = place.outside("secret").display().to_string();
    for name in ["../outside/secret", "..", "a/../../outside/secret", &absolute, "", ".", "a//b", "a\0b"] {
        for what in [file(1), directory(), link("x"), Content::Nothing] {
            let refused = place.take(&[("a", directory()), (name, what)]);
            assert!(matches!(refused, Err(CopyError::Name { .. })), "{name:?}: {refused:?}");
        }
    }
    place.check();
}

#[test]
fn links_of_host_and_guest_are_not_followed() {
    let place = ReceiveDir::new();
    let outside = place.outside("").display().to_string();
    symlink(&outside, place.inside("of-the-host")).unwrap();
    symlink(place.outside("secret"), place.inside("to-a-file")).unwrap();
    for through in ["of-the-host", "of-the-guest"] {
        let into = |name: &str| format!("{through}/{name}");
        let linked = ("of-the-guest", link(&outside));
        for what in [file(1), directory(), link("x")] {
            let refused = place.take(&[linked.clone(), (&into("new"), what)]);
            assert!(matches!(refused, Err(CopyError::System { .. })), "{refused:?}");
        }
        place.take(&[linked.clone(), (&into("secret"), Content::Nothing)]).unwrap();
        let refused = place.take(&[linked, (through, directory()), (&into("new"), file(1))]);
        assert!(matches!(refused, Err(CopyError::System { .. })), "{refused:?}");
    }
    // The link itself is replaced.
    place.take(&[("to-a-file", file(3))]).unwrap();
    assert_eq!(fs::read(place.inside("to-a-file")).unwrap(), b"xxx");
    place.check();
}

#[test]
fn hard_link_is_replaced_not_written_through() {
    let place = ReceiveDir::new();
    fs::hard_link(place.outside("secret"), place.inside("same")).unwrap();
    place.take(&[("same", file(3))]).unwrap();
    assert_eq!(fs::read(place.inside("same")).unwrap(), b"xxx");
    place.check();
}

#[test]
fn protected_paths_are_not_changed() {
    let place = ReceiveDir::new();
    fs::create_dir(place.inside("protected")).unwrap();
    fs::write(place.inside("protected/hook"), "mine").unwrap();
    for what in [file(1), directory(), link("x"), Content::Nothing] {
        for name in ["protected", "protected/hook", "protected/new"] {
            assert!(matches!(place.take(&[(name, what.clone())]), Err(CopyError::Forbidden(_))), "{name} {what:?}");
        }
    }
    assert_eq!(fs::read(place.inside("protected/hook")).unwrap(), b"mine");
    place.check();
}

#[test]
fn files_over_byte_limit_are_refused() {
    let place = ReceiveDir::new();
    let refused = place.take(&[("a", file(600)), ("b", file(401))]);
    assert_eq!(refused, Err(CopyError::TooMuch { what: "bytes", max: 1000 }));
    let refused = place.take(&[("huge", file(u64::MAX)), ("b", file(u64::MAX))]);
    assert!(matches!(refused, Err(CopyError::TooMuch { .. })));
    assert!(place.inside("a").exists() && !place.inside("b").exists() && !place.inside("huge").exists());
    place.check();
}

#[test]
fn set_id_bits_of_files_are_dropped() {
    let place = ReceiveDir::new();
    let file = Content::File { mode: 0o106_755, modified: (i64::MIN, u32::MAX), size: 1 };
    place.take(&[("program", file), ("d", Content::Directory { mode: 0o6755 })]).ok();
    let file = Content::File { mode: u32::MAX, modified: (0, 0), size: 1 };
    place.take(&[("program", file), ("d", Content::Directory { mode: u32::MAX })]).unwrap();
    let mode = |name: &str| fs::metadata(place.inside(name)).unwrap().permissions().mode();
    assert_eq!((mode("program") & 0o7777, mode("d") & 0o7777), (0o777, 0o3777));
    place.check();
}

#[test]
fn unknown_files_keep_their_directory() {
    let place = ReceiveDir::new();
    fs::create_dir(place.inside("d")).unwrap();
    fs::write(place.inside("d/known"), "").unwrap();
    fs::write(place.inside("d/new"), "mine").unwrap();
    place.take(&[("d/known", Content::Nothing), ("d", Content::Nothing)]).unwrap();
    assert!(!place.inside("d/known").exists());
    for instead in [file(1), link("x")] {
        assert!(matches!(place.take(&[("d", instead)]), Err(CopyError::System { .. })));
    }
    assert_eq!(fs::read(place.inside("d/new")).unwrap(), b"mine");
    place.check();
}

#[test]
fn truncated_transfer_changes_no_file() {
    let place = ReceiveDir::new();
    fs::write(place.inside("file"), "whole").unwrap();
    let mut bytes = Vec::new();
    Entry { path: b"file".to_vec(), what: file(5) }.encode(&mut bytes).unwrap();
    bytes.extend_from_slice(b"xxx");
    let mut receiver = place.receiver();
    receiver.push(&bytes).unwrap();
    assert!(matches!(receiver.finish(), Err(CopyError::Malformed(_))));
    assert_eq!(fs::read(place.inside("file")).unwrap(), b"whole");
    let mut receiver = place.receiver();
    receiver.push(&entry::END).unwrap();
    assert!(matches!(receiver.push(b"x"), Err(CopyError::Malformed(_))));
    place.check();
}

#[test]
fn whole_tree_is_transferred() {
    use super::super::{scan, send::Sender};
    let from = ReceiveDir::new();
    fs::create_dir_all(from.inside("a/b")).unwrap();
    let content: Vec<u8> = (0..400u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fs::write(from.inside("a/b/large"), &content).unwrap();
    fs::write(from.inside("a/program"), "#!").unwrap();
    fs::set_permissions(from.inside("a/program"), fs::Permissions::from_mode(0o755)).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n name");
    fs::write(from.inside("a").join(odd), "odd").unwrap();
    symlink("../nowhere", from.inside("a/link")).unwrap();
    let to = ReceiveDir::new();
    let root = from.receiver().root.clone();
    let steps = scan::steps(&scan::Scan::new(), &scan::scan(&root).unwrap());
    let (mut sender, mut receiver) = (Sender::new(root, steps), to.receiver());
    while let Some(piece) = sender.next().unwrap() {
        receiver.push(&piece).unwrap();
    }
    receiver.finish().unwrap();
    assert_eq!(fs::read(to.inside("a/b/large")).unwrap(), content);
    assert_eq!(fs::metadata(to.inside("a/program")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::read(to.inside("a").join(odd)).unwrap(), b"odd");
    assert_eq!(fs::read_link(to.inside("a/link")).unwrap(), Path::new("../nowhere"));
    let modified = |place: &ReceiveDir| fs::metadata(place.inside("a/program")).unwrap().modified().unwrap();
    assert_eq!(modified(&from), modified(&to));
}
