//! Hostile guests: whatever they send, nothing outside of what they may change is changed, read or followed.

use super::*;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

/// A directory to be changed, `inside`, beside one that must not be, `outside`.
struct Place(tempfile::TempDir);

impl Place {
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

    fn taker(&self) -> Taker {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(self.inside(""), flags, Mode::empty()).unwrap();
        let allow = |name: &Name, _: &What| !name.path().starts_with("protected");
        Taker::new(Arc::new(Root { directory, only: None }), Box::new(allow), 1000)
    }

    fn take(&self, entries: &[(&str, What)]) -> Result<(), CopyError> {
        self.take_in_pieces(entries, usize::MAX)
    }

    /// Files hold `x`.
    fn take_in_pieces(&self, entries: &[(&str, What)], piece: usize) -> Result<(), CopyError> {
        let mut bytes = Vec::new();
        for (path, what) in entries {
            Entry { path: path.as_bytes().to_vec(), what: what.clone() }.encode(&mut bytes).unwrap();
            if let What::File { size, .. } = what {
                bytes.resize(bytes.len() + usize::try_from(*size).unwrap().min(2000), b'x');
            }
        }
        bytes.extend_from_slice(&entry::END);
        let mut taker = self.taker();
        bytes.chunks(piece.min(bytes.len())).try_for_each(|piece| taker.push(piece))?;
        taker.finish()
    }

    /// Nothing outside is changed, and nothing is left that was not whole.
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
fn directories_get_their_modes_also_where_something_is_refused() {
    let place = Place::new();
    assert!(matches!(place.take(&[("d", directory()), ("protected", file(1))]), Err(CopyError::Forbidden(_))));
    assert_eq!(fs::metadata(place.inside("d")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn names_have_a_bound_together() {
    let entry = |path: &str| Entry { path: path.as_bytes().to_vec(), what: What::Nothing };
    let place = Place::new();
    let mut taker = place.taker();
    taker.entry(entry("four")).unwrap();
    assert_eq!(taker.names, 4);
    taker.names = MOST_NAMES - 4;
    assert_eq!(taker.entry(entry("four")), Ok(()));
    assert!(matches!(taker.entry(entry("x")), Err(CopyError::TooMuch { .. })));
}

fn file(size: u64) -> What {
    What::File { mode: 0o644, modified: (1_000_000_000, 5), size }
}

fn directory() -> What {
    What::Directory { mode: 0o755 }
}

fn link(to: &str) -> What {
    What::Link { to: to.as_bytes().to_vec() }
}

#[test]
fn what_is_sent_is_made_in_pieces_of_any_size() {
    for piece in [1, 2, 3, 7, 100, usize::MAX] {
        let place = Place::new();
        fs::write(place.inside("old"), "old").unwrap();
        fs::create_dir(place.inside("empty")).unwrap();
        let entries = [
            ("gone/child", What::Nothing),
            ("empty", What::Nothing),
            ("old", What::Nothing),
            ("d", What::Directory { mode: 0o500 }),
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
        // And once more, into a directory that may not be changed.
        place.take(&[("d/file", file(2)), ("d/new", file(1)), ("d/none", What::Nothing)]).unwrap();
        assert_eq!(fs::read(place.inside("d/file")).unwrap(), b"xx");
        assert!(place.inside("d/new").exists() && !place.inside("d/none").exists());
        assert_eq!(fs::metadata(place.inside("d")).unwrap().mode() & 0o7777, 0o500);
        place.check();
    }
}

#[test]
fn no_name_leads_out() {
    let place = Place::new();
    let absolute = place.outside("secret").display().to_string();
    for name in ["../outside/secret", "..", "a/../../outside/secret", &absolute, "", ".", "a//b", "a\0b"] {
        for what in [file(1), directory(), link("x"), What::Nothing] {
            let refused = place.take(&[("a", directory()), (name, what)]);
            assert!(matches!(refused, Err(CopyError::Name { .. })), "{name:?}: {refused:?}");
        }
    }
    place.check();
}

#[test]
fn no_link_is_followed_whoever_made_it() {
    let place = Place::new();
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
        place.take(&[linked.clone(), (&into("secret"), What::Nothing)]).unwrap();
        let refused = place.take(&[linked, (through, directory()), (&into("new"), file(1))]);
        assert!(matches!(refused, Err(CopyError::System { .. })), "{refused:?}");
    }
    // The link itself is replaced.
    place.take(&[("to-a-file", file(3))]).unwrap();
    assert_eq!(fs::read(place.inside("to-a-file")).unwrap(), b"xxx");
    place.check();
}

#[test]
fn another_name_of_a_file_is_not_written_through() {
    let place = Place::new();
    fs::hard_link(place.outside("secret"), place.inside("same")).unwrap();
    place.take(&[("same", file(3))]).unwrap();
    assert_eq!(fs::read(place.inside("same")).unwrap(), b"xxx");
    place.check();
}

#[test]
fn what_is_protected_stays_as_it_is() {
    let place = Place::new();
    fs::create_dir(place.inside("protected")).unwrap();
    fs::write(place.inside("protected/hook"), "mine").unwrap();
    for what in [file(1), directory(), link("x"), What::Nothing] {
        for name in ["protected", "protected/hook", "protected/new"] {
            assert!(matches!(place.take(&[(name, what.clone())]), Err(CopyError::Forbidden(_))), "{name} {what:?}");
        }
    }
    assert_eq!(fs::read(place.inside("protected/hook")).unwrap(), b"mine");
    place.check();
}

#[test]
fn no_more_comes_than_may() {
    let place = Place::new();
    let refused = place.take(&[("a", file(600)), ("b", file(401))]);
    assert_eq!(refused, Err(CopyError::TooMuch { what: "bytes", most: 1000 }));
    let refused = place.take(&[("huge", file(u64::MAX)), ("b", file(u64::MAX))]);
    assert!(matches!(refused, Err(CopyError::TooMuch { .. })));
    assert!(place.inside("a").exists() && !place.inside("b").exists() && !place.inside("huge").exists());
    place.check();
}

#[test]
fn nobody_gets_rights_by_a_mode() {
    let place = Place::new();
    let file = What::File { mode: 0o106_755, modified: (i64::MIN, u32::MAX), size: 1 };
    place.take(&[("program", file), ("d", What::Directory { mode: 0o6755 })]).ok();
    let file = What::File { mode: u32::MAX, modified: (0, 0), size: 1 };
    place.take(&[("program", file), ("d", What::Directory { mode: u32::MAX })]).unwrap();
    let mode = |name: &str| fs::metadata(place.inside(name)).unwrap().permissions().mode();
    assert_eq!((mode("program") & 0o7777, mode("d") & 0o7777), (0o777, 0o1777));
    place.check();
}

#[test]
fn what_the_other_side_does_not_know_of_is_not_removed() {
    let place = Place::new();
    fs::create_dir(place.inside("d")).unwrap();
    fs::write(place.inside("d/known"), "").unwrap();
    fs::write(place.inside("d/new"), "mine").unwrap();
    place.take(&[("d/known", What::Nothing), ("d", What::Nothing)]).unwrap();
    assert!(!place.inside("d/known").exists());
    for instead in [file(1), link("x")] {
        assert!(matches!(place.take(&[("d", instead)]), Err(CopyError::System { .. })));
    }
    assert_eq!(fs::read(place.inside("d/new")).unwrap(), b"mine");
    place.check();
}

#[test]
fn what_is_cut_off_changes_no_file() {
    let place = Place::new();
    fs::write(place.inside("file"), "whole").unwrap();
    let mut bytes = Vec::new();
    Entry { path: b"file".to_vec(), what: file(5) }.encode(&mut bytes).unwrap();
    bytes.extend_from_slice(b"xxx");
    let mut taker = place.taker();
    taker.push(&bytes).unwrap();
    assert!(matches!(taker.finish(), Err(CopyError::Malformed(_))));
    assert_eq!(fs::read(place.inside("file")).unwrap(), b"whole");
    let mut taker = place.taker();
    taker.push(&entry::END).unwrap();
    assert!(matches!(taker.push(b"x"), Err(CopyError::Malformed(_))));
    place.check();
}

#[test]
fn all_of_a_tree_comes_over() {
    use super::super::{send::Sender, survey};
    let from = Place::new();
    fs::create_dir_all(from.inside("a/b")).unwrap();
    let content: Vec<u8> = (0..400u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fs::write(from.inside("a/b/large"), &content).unwrap();
    fs::write(from.inside("a/program"), "#!").unwrap();
    fs::set_permissions(from.inside("a/program"), fs::Permissions::from_mode(0o755)).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n name");
    fs::write(from.inside("a").join(odd), "odd").unwrap();
    symlink("../nowhere", from.inside("a/link")).unwrap();
    let to = Place::new();
    let root = from.taker().root.clone();
    let steps = survey::steps(&survey::Survey::new(), &survey::survey(&root).unwrap());
    let (mut sender, mut taker) = (Sender::new(root, steps), to.taker());
    while let Some(piece) = sender.next().unwrap() {
        taker.push(&piece).unwrap();
    }
    taker.finish().unwrap();
    assert_eq!(fs::read(to.inside("a/b/large")).unwrap(), content);
    assert_eq!(fs::metadata(to.inside("a/program")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::read(to.inside("a").join(odd)).unwrap(), b"odd");
    assert_eq!(fs::read_link(to.inside("a/link")).unwrap(), Path::new("../nowhere"));
    let modified = |place: &Place| fs::metadata(place.inside("a/program")).unwrap().modified().unwrap();
    assert_eq!(modified(&from), modified(&to));
}
