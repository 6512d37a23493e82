//! Diffs list exactly the changes of a sandbox.

use crate::{
    layers::{opaque, whiteout},
    place::{StateDir, name},
};
use agentd_sandboxes::{Change, ChangeKind, SaveMode};
use std::{
    ffi::OsStr,
    fs::{self, File, FileTimes},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

fn listed(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect()
}

/// Creates an image of two layers with a few files.
fn image(place: &StateDir) -> Vec<PathBuf> {
    let (low, high) = (place.at("low"), place.at("high"));
    fs::create_dir_all(low.join("etc")).unwrap();
    fs::create_dir_all(low.join("var/cache/old")).unwrap();
    fs::create_dir_all(high.join("etc")).unwrap();
    for file in ["etc/one", "etc/two", "etc/hidden", "var/cache/a", "var/cache/b"] {
        fs::write(low.join(file), "image").unwrap();
    }
    fs::write(high.join("etc/three"), "image").unwrap();
    whiteout(&high.join("etc/hidden"));
    vec![low, high]
}

/// Copies a file with its modification time, as a copy-up of overlayfs does.
fn copy_up(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    let times = FileTimes::new().set_modified(fs::metadata(from).unwrap().modified().unwrap());
    File::options().write(true).open(to).unwrap().set_times(times).unwrap();
}

#[test]
fn diff_lists_added_changed_and_removed_paths() {
    let place = StateDir::new();
    let image = image(&place);
    place.sandbox("a");
    assert_eq!(place.state.diff(&name("a"), None, &image).unwrap(), []);
    let upper = place.upper("a");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::create_dir_all(upper.join("var/cache/b")).unwrap();
    opaque(&upper.join("var/cache"));
    fs::write(upper.join("etc/one"), "changed").unwrap();
    whiteout(&upper.join("etc/two"));
    whiteout(&upper.join("etc/never was"));
    // A whiteout in the image hides this path, so the file is new.
    fs::write(upper.join("etc/hidden"), "new").unwrap();
    copy_up(&image[1].join("etc/three"), &upper.join("etc/three"));
    fs::write(upper.join("var/cache/new"), "").unwrap();
    fs::write(upper.join(OsStr::from_bytes(b"\xff")), "").unwrap();
    let changes = place.state.diff(&name("a"), None, &image).unwrap();
    let (last, changes) = changes.split_last().unwrap();
    assert_eq!(*last, Change { path: OsStr::from_bytes(b"\xff").into(), kind: ChangeKind::Added });
    assert_eq!(
        listed(changes),
        [
            "Added etc/hidden",
            "Changed etc/one",
            "Removed etc/two",
            "Removed var/cache/a",
            "Changed var/cache/b",
            "Added var/cache/new",
            "Removed var/cache/old",
        ]
    );
}

#[test]
fn diff_finds_change_with_restored_mtime() {
    let place = StateDir::new();
    let image = image(&place);
    place.sandbox("a");
    let file = place.upper("a").join("etc/one");
    copy_up(&image[0].join("etc/one"), &file);
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let listed = || listed(&place.state.diff(&name("a"), None, &image).unwrap());
    assert_eq!(listed(), Vec::<String>::new());
    fs::write(&file, "IMAGE").unwrap();
    File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
    assert_eq!(listed(), ["Changed etc/one"]);

    copy_up(&image[0].join("etc/one"), &file);
    assert_eq!(listed(), Vec::<String>::new());
    rustix::fs::setxattr(&file, "user.overlay.origin", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(listed(), Vec::<String>::new());
    rustix::fs::setxattr(&file, "user.x", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(listed(), ["Changed etc/one"]);

    fs::remove_file(&file).unwrap();
    copy_up(&image[0].join("etc/one"), &file);
    File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
    assert_eq!(listed(), ["Changed etc/one"]);
    // A directory counts as changed if its mode changes, and not if its entries change.
    fs::set_permissions(place.upper("a").join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(listed(), ["Changed etc", "Changed etc/one"]);
}

#[test]
fn diff_does_not_follow_links() {
    let place = StateDir::new();
    let image = image(&place);
    place.sandbox("a");
    std::os::unix::fs::symlink("/", place.upper("a").join("etc")).unwrap();
    std::os::unix::fs::symlink("var", place.upper("a").join("new")).unwrap();
    // Paths below a replaced directory are not listed.
    assert_eq!(listed(&place.state.diff(&name("a"), None, &image).unwrap()), ["Changed etc", "Added new"]);
}

#[test]
fn diff_against_snapshot_lists_only_later_changes() {
    for how in [SaveMode::Commit, SaveMode::Copy] {
        let place = StateDir::new();
        let image = image(&place);
        place.sandbox("a");
        fs::create_dir(place.upper("a").join("etc")).unwrap();
        fs::write(place.upper("a").join("etc/before"), "").unwrap();
        fs::write(place.upper("a").join("etc/one"), "changed").unwrap();
        whiteout(&place.upper("a").join("var"));
        place.state.snapshot(&name("a"), &name("s"), how).unwrap();
        let against = |snapshot: &str| listed(&place.state.diff(&name("a"), Some(&name(snapshot)), &image).unwrap());
        assert_eq!(against("s"), Vec::<String>::new(), "{how:?}");

        fs::create_dir_all(place.upper("a").join("etc")).unwrap();
        fs::write(place.upper("a").join("etc/after"), "").unwrap();
        fs::write(place.upper("a").join("etc/one"), "changed again").unwrap();
        assert_eq!(against("s"), ["Added etc/after", "Changed etc/one"], "{how:?}");
        place.state.snapshot(&name("a"), &name("later"), how).unwrap();
        assert_eq!(against("later"), Vec::<String>::new(), "{how:?}");
        // The later snapshot has a file that the restored sandbox lacks.
        place.state.restore(&name("a"), &name("s")).unwrap();
        assert_eq!(against("later"), ["Removed etc/after", "Changed etc/one"], "{how:?}");
        assert_eq!(against("s"), Vec::<String>::new(), "{how:?}");
    }
}
