//! Tests of unpacking a layer: the files that its entries become, and the entries that are refused.

use crate::{
    fixtures::{Entry, archive, device, dir, fifo, file, hard_link, symlink},
    place::StoreDir,
};
use agentd_image::unpack::{Bound, Bounds, Ownership, UnpackError, Unpacked, unpack};
use rustix::fs::{AtFlags, CWD, FileType, Stat};
use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

/// Unpacks these entries into a new directory; returns the directory and the result.
fn unpacked(entries: &[Entry]) -> (StoreDir, Unpacked) {
    let place = StoreDir::new();
    let result = unpack_into(place.path(), entries, &Bounds::default()).unwrap();
    (place, result)
}

fn unpack_into(root: &Path, entries: &[Entry], bounds: &Bounds) -> Result<Unpacked, UnpackError> {
    let root = File::open(root).unwrap();
    unpack(&archive(entries)[..], root.as_fd(), Ownership::of_this_process(), bounds)
}

fn refused(entries: &[Entry]) -> UnpackError {
    unpack_into(StoreDir::new().path(), entries, &Bounds::default()).unwrap_err()
}

fn is_root() -> bool {
    Ownership::of_this_process() == Ownership::Kept
}

fn stat(path: &Path) -> Stat {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).unwrap()
}

fn is_whiteout(path: &Path) -> bool {
    FileType::from_raw_mode(stat(path).st_mode) == FileType::CharacterDevice && stat(path).st_rdev == 0
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 100];
    rustix::fs::lgetxattr(path, name, &mut value[..]).ok().map(|length| value[..length].to_vec())
}

fn is_opaque(path: &Path) -> bool {
    let marked = |name| attribute(path, name).as_deref() == Some(b"y");
    assert!(!is_root() || marked("trusted.overlay.opaque") == marked("user.overlay.opaque"));
    marked("user.overlay.opaque")
}

#[test]
fn unpacked_entries_have_content_mode_and_times_of_archive() {
    let long = "n".repeat(200);
    let (place, result) = unpacked(&[
        dir("./").mode(0o751),
        dir("d/").mode(0o2555),
        file("d/f", "data").mode(0o640).owner(3, 4),
        file(&long, "long"),
        symlink("d/s", "/nowhere/../x"),
        hard_link("h", "d/f"),
        fifo("p"),
        file("implied/parent/f", ""),
    ]);
    let at = |name: &str| place.at(name);
    assert_eq!(fs::read(at("d/f")).unwrap(), b"data");
    assert_eq!(fs::read(at(&long)).unwrap(), b"long");
    assert_eq!(fs::read_link(at("d/s")).unwrap(), Path::new("/nowhere/../x"));
    assert_eq!(stat(&at("h")).st_ino, stat(&at("d/f")).st_ino);
    assert_eq!(FileType::from_raw_mode(stat(&at("p")).st_mode), FileType::Fifo);
    let modes = [("", 0o751), ("d", if is_root() { 0o2555 } else { 0o555 }), ("d/f", 0o640), ("p", 0o640), ("implied", 0o755)];
    for (name, mode) in modes {
        assert_eq!(stat(&at(name)).st_mode & 0o7777, mode, "{name}");
    }
    for name in ["d", "d/f", "d/s", "p"] {
        assert_eq!(stat(&at(name)).st_mtime, 1_700_000_000, "{name}");
    }
    assert_eq!((result.entries, result.bytes), (8, 8));
}

#[test]
fn owners_and_set_id_bits_are_kept_only_as_root() {
    let (place, _) = unpacked(&[file("f", "").mode(0o6755).owner(3, 4), symlink("s", "f").owner(5, 6)]);
    let (file, link) = (stat(&place.at("f")), stat(&place.at("s")));
    let me = fs::metadata(place.path()).unwrap().uid();
    if is_root() {
        assert_eq!((file.st_uid, file.st_gid, file.st_mode & 0o7777), (3, 4, 0o6755));
        assert_eq!((link.st_uid, link.st_gid), (5, 6));
    } else {
        assert_eq!((file.st_uid, file.st_mode & 0o7777, link.st_uid), (me, 0o755, me));
    }
}

#[test]
fn device_entries_are_skipped_and_counted() {
    let (place, result) =
        unpacked(&[device("dev/null"), Entry { kind: tar::EntryType::Block, ..device("dev/sda") }, file("f", "")]);
    assert_eq!(result.skipped_devices, 2);
    assert!(!place.at("dev/null").exists());
}

#[test]
fn attributes_that_grant_authority_are_skipped_and_counted() {
    let (place, result) = unpacked(&[
        file("f", "")
            .attribute("SCHILY.xattr.user.note", b"two\nlines")
            .attribute("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
            .attribute("SCHILY.xattr.user.overlay.redirect", b"/elsewhere"),
        dir("d").attribute("SCHILY.xattr.trusted.overlay.opaque", b"y").attribute("SCHILY.xattr.user.overlay.opaque", b"y"),
    ]);
    assert_eq!(attribute(&place.at("f"), "user.note").unwrap(), b"two\nlines");
    assert_eq!(attribute(&place.at("f"), "security.capability"), None);
    assert_eq!(attribute(&place.at("f"), "user.overlay.redirect"), None);
    assert!(!is_opaque(&place.at("d")));
    assert_eq!(result.skipped_attributes, 4);
}

#[test]
fn whiteout_and_opaque_entries_become_overlayfs_marks() {
    let (place, result) =
        unpacked(&[dir("d"), file("d/.wh.gone", ""), file(".wh.top", ""), dir("o"), file("o/.wh..wh..opq", ""), file("o/f", "")]);
    assert!(is_whiteout(&place.at("d/gone")) && is_whiteout(&place.at("top")));
    assert!(is_opaque(&place.at("o")) && !is_opaque(&place.at("d")));
    assert!(place.at("o/f").exists() && !place.at("o/.wh..wh..opq").exists());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
    assert!(!result.hides_all_below);
}

#[test]
fn opaque_mark_at_root_hides_all_lower_layers() {
    assert!(unpacked(&[file(".wh..wh..opq", "")]).1.hides_all_below);
}

#[test]
fn entry_with_whiteout_in_same_layer_replaces_lower_entry() {
    for order in [0, 1] {
        let mut entries = [vec![file(".wh.d", ""), file(".wh.f", "")], vec![dir("d"), file("d/new", ""), file("f", "new")]];
        entries.rotate_left(order);
        let (place, _) = unpacked(&entries.concat());
        assert!(is_opaque(&place.at("d")) && place.at("d/new").exists());
        assert_eq!(fs::read(place.at("f")).unwrap(), b"new");
    }
}

#[test]
fn later_entry_of_same_name_replaces_earlier_one() {
    let (place, _) = unpacked(&[
        file("a", "1"),
        hard_link("kept", "a"),
        file("a", "2"),
        dir("b/").mode(0o500),
        file("b/f", ""),
        symlink("b", "/nowhere"),
        symlink("c", "/nowhere"),
        dir("c"),
        file("c/f", "c"),
        hard_link("a", "a"),
    ]);
    assert_eq!(fs::read(place.at("a")).unwrap(), b"2");
    assert_eq!(fs::read(place.at("kept")).unwrap(), b"1");
    assert!(stat(&place.at("b")).st_mode & 0o170_000 == 0o120_000);
    assert_eq!(fs::read(place.at("c/f")).unwrap(), b"c");
}

#[test]
fn entry_below_symbolic_link_is_refused() {
    for target in [".", "d", "/", "..", "../..", "/proc/self/root", "/proc/self/cwd"] {
        for below in
            [file("l/f", ""), dir("l/f"), symlink("l/f", "x"), fifo("l/f"), file("l/.wh.f", ""), file("l/.wh..wh..opq", "")]
        {
            let error = refused(&[dir("d"), symlink("l", target), below]);
            assert!(matches!(error, UnpackError::Through { .. }), "{target}: {error}");
        }
        assert!(matches!(refused(&[dir("d"), symlink("l", target), hard_link("h", "l/f")]), UnpackError::Through { .. }));
    }
}

#[test]
fn entry_name_with_parent_component_is_refused() {
    for entry in [
        file("../f", ""),
        file("d/../../f", ""),
        hard_link("h", "../f"),
        hard_link("h", "d/../../../etc/hostname"),
        file(".wh...", ""),
    ] {
        assert!(matches!(refused(&[dir("d"), entry]), UnpackError::Name { .. }));
    }
}

#[test]
fn ambiguous_or_unsupported_entry_is_refused() {
    let with_data = |entry: Entry| Entry { data: b"hidden".repeat(200), ..entry };
    for entry in [
        with_data(dir("d")),
        with_data(symlink("s", "t")),
        with_data(hard_link("h", "f")),
        file("f", "four").attribute("size", b"2"),
        file("f", "").attribute("GNU.sparse.major", b"1"),
        Entry { kind: tar::EntryType::GNUSparse, ..file("f", "") },
        Entry { kind: tar::EntryType::new(b'?'), ..file("f", "") },
        file("f", "").attribute("uid", b"4294967295"),
        file("f", "").attribute("gid", b"99999999999"),
    ] {
        assert!(matches!(refused(std::slice::from_ref(&entry)), UnpackError::Unsupported { .. }), "{entry:?}");
    }
}

#[test]
fn layer_beyond_any_bound_is_refused() {
    let small = Bounds { file: 10, entries: 5, path: 50, depth: 4, extension: 600, directories: 30, ..Bounds::default() };
    for (bound, entries) in [
        (Bound::File, vec![file("f", [0; 11])]),
        (Bound::Entries, (0..6).map(|at| file(&at.to_string(), "")).collect()),
        (Bound::Path, vec![file(&"p".repeat(51), "")]),
        (Bound::Path, vec![symlink("s", &"p".repeat(51))]),
        (Bound::Depth, vec![file("1/2/3/4/5", "")]),
        (Bound::Extension, vec![file("f", "").attribute("comment", &[b'x'; 600])]),
        (Bound::Directories, vec![dir(&"d".repeat(20)), dir(&"e".repeat(20))]),
    ] {
        let error = unpack_into(StoreDir::new().path(), &entries, &small).unwrap_err();
        assert!(matches!(&error, UnpackError::TooLarge { bound: found, .. } if *found == bound), "{bound:?}: {error}");
    }
}

#[test]
fn truncated_archive_is_refused() {
    let bytes = archive(&[file("f", [7; 5000])]);
    for length in [100, 600, 3000] {
        let place = StoreDir::new();
        let root = File::open(place.path()).unwrap();
        let error = unpack(&bytes[..length], root.as_fd(), Ownership::Caller, &Bounds::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Archive(_)), "{length}: {error}");
    }
}
