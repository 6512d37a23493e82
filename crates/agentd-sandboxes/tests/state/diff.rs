//! What a sandbox changed is told, no less and no more.

use crate::{
    layers::{opaque, whiteout},
    place::{Place, name},
};
use agentd_sandboxes::{Change, How, Kind};
use std::{
    ffi::OsStr,
    fs::{self, File, FileTimes},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

fn told(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect()
}

/// An image of two layers, with a few files.
fn image(place: &Place) -> Vec<PathBuf> {
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

/// Copies a file up as overlayfs does.
fn copy_up(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    let times = FileTimes::new().set_modified(fs::metadata(from).unwrap().modified().unwrap());
    File::options().write(true).open(to).unwrap().set_times(times).unwrap();
}

#[test]
fn what_was_added_changed_and_removed_is_told_apart() {
    let place = Place::new();
    let image = image(&place);
    place.sandbox("a");
    assert_eq!(place.state.diff(&name("a"), None, &image).unwrap(), []);
    let top = place.top("a");
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::create_dir_all(top.join("var/cache/b")).unwrap();
    opaque(&top.join("var/cache"));
    fs::write(top.join("etc/one"), "changed").unwrap();
    whiteout(&top.join("etc/two"));
    whiteout(&top.join("etc/never was"));
    // The image hides it: here it is new.
    fs::write(top.join("etc/hidden"), "new").unwrap();
    copy_up(&image[1].join("etc/three"), &top.join("etc/three"));
    fs::write(top.join("var/cache/new"), "").unwrap();
    fs::write(top.join(OsStr::from_bytes(b"\xff")), "").unwrap();
    let changes = place.state.diff(&name("a"), None, &image).unwrap();
    let (last, changes) = changes.split_last().unwrap();
    assert_eq!(*last, Change { path: OsStr::from_bytes(b"\xff").into(), kind: Kind::Added });
    assert_eq!(
        told(changes),
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
fn a_change_cannot_be_hidden_by_setting_back_its_time() {
    let place = Place::new();
    let image = image(&place);
    place.sandbox("a");
    let file = place.top("a").join("etc/one");
    copy_up(&image[0].join("etc/one"), &file);
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let told = || told(&place.state.diff(&name("a"), None, &image).unwrap());
    assert_eq!(told(), Vec::<String>::new());
    fs::write(&file, "IMAGE").unwrap();
    File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
    assert_eq!(told(), ["Changed etc/one"]);

    copy_up(&image[0].join("etc/one"), &file);
    assert_eq!(told(), Vec::<String>::new());
    rustix::fs::setxattr(&file, "user.overlay.origin", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(told(), Vec::<String>::new());
    rustix::fs::setxattr(&file, "user.x", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(told(), ["Changed etc/one"]);

    fs::remove_file(&file).unwrap();
    copy_up(&image[0].join("etc/one"), &file);
    File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
    assert_eq!(told(), ["Changed etc/one"]);
    // A directory is changed by its mode, not by what is in it.
    fs::set_permissions(place.top("a").join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(told(), ["Changed etc", "Changed etc/one"]);
}

#[test]
fn a_link_is_compared_and_not_followed() {
    let place = Place::new();
    let image = image(&place);
    place.sandbox("a");
    std::os::unix::fs::symlink("/", place.top("a").join("etc")).unwrap();
    std::os::unix::fs::symlink("var", place.top("a").join("new")).unwrap();
    // What was below a directory that is one no more goes with it.
    assert_eq!(told(&place.state.diff(&name("a"), None, &image).unwrap()), ["Changed etc", "Added new"]);
}

#[test]
fn against_a_snapshot_only_what_came_after_is_told_whichever_way_it_was_made() {
    for how in [How::Seal, How::Copy] {
        let place = Place::new();
        let image = image(&place);
        place.sandbox("a");
        fs::create_dir(place.top("a").join("etc")).unwrap();
        fs::write(place.top("a").join("etc/before"), "").unwrap();
        fs::write(place.top("a").join("etc/one"), "changed").unwrap();
        whiteout(&place.top("a").join("var"));
        place.state.snapshot(&name("a"), &name("s"), how).unwrap();
        let against = |snapshot: &str| told(&place.state.diff(&name("a"), Some(&name(snapshot)), &image).unwrap());
        assert_eq!(against("s"), Vec::<String>::new(), "{how:?}");

        fs::create_dir_all(place.top("a").join("etc")).unwrap();
        fs::write(place.top("a").join("etc/after"), "").unwrap();
        fs::write(place.top("a").join("etc/one"), "changed again").unwrap();
        assert_eq!(against("s"), ["Added etc/after", "Changed etc/one"], "{how:?}");
        place.state.snapshot(&name("a"), &name("later"), how).unwrap();
        assert_eq!(against("later"), Vec::<String>::new(), "{how:?}");
        // What a later snapshot has and a restored sandbox has not.
        place.state.restore(&name("a"), &name("s")).unwrap();
        assert_eq!(against("later"), ["Removed etc/after", "Changed etc/one"], "{how:?}");
        assert_eq!(against("s"), Vec::<String>::new(), "{how:?}");
    }
}
