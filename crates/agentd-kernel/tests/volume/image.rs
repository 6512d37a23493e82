//! Tests of creating, attaching and detaching volumes, and of refused images.

use crate::place::{ImageFileDir, SIZE, assert_requires_root, assert_whole, devices, is_direct, is_mounted, is_root, wait_until};
use agentd_core::ControlError;
use agentd_kernel::volume::{MIN_BYTES, Volume};
use std::{
    fs,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

pub fn sparse() {
    let place = ImageFileDir::empty();
    for bytes in [MIN_BYTES, 10 << 30, (64 << 20) + 1] {
        Volume::format(&place.image(), bytes).unwrap();
        let made = fs::metadata(place.image()).unwrap();
        assert_eq!((made.len(), made.mode() & 0o7777), (bytes / 4096 * 4096, 0o600));
        assert_eq!(made.uid(), rustix::process::geteuid().as_raw());
        assert!(place.on_disk() < 1 << 20, "{} bytes on disk for an image of {bytes}", place.on_disk());
        assert_whole(&place.image());
        fs::remove_file(place.image()).unwrap();
    }
}

pub fn never_over_something() {
    let place = ImageFileDir::empty();
    fs::write(place.image(), "something").unwrap();
    symlink("nowhere", place.path("link")).unwrap();
    for name in ["image", "link", "mount"] {
        let error = Volume::format(&place.path(name), SIZE).unwrap_err();
        assert_eq!(error.errno, Some(libc::EEXIST), "{error}");
    }
    assert_eq!(fs::read_to_string(place.image()).unwrap(), "something");
}

pub fn leaves_nothing() {
    let place = ImageFileDir::empty();
    let name = place.image();
    for (name, bytes, errno) in [
        (name.as_path(), MIN_BYTES - 1, libc::EINVAL),
        (&name, u64::MAX, libc::EINVAL),
        (&name.join("below"), SIZE, libc::ENOENT),
        (Path::new("/"), SIZE, libc::EINVAL),
        (&place.path(".."), SIZE, libc::EINVAL),
    ] {
        let error = Volume::format(name, bytes).unwrap_err();
        assert_eq!(error.errno, Some(errno), "{error}");
    }
    let left: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mount"]);
}

pub fn symbolic_links() {
    let place = ImageFileDir::new();
    symlink(place.path(""), place.path("here")).unwrap();
    symlink(place.image(), place.path("to-image")).unwrap();
    symlink(place.mount(), place.path("to-mount")).unwrap();
    for (image, mount) in [("here/image", "mount"), ("to-image", "mount"), ("image", "here/mount"), ("image", "to-mount")] {
        let error = Volume::attach(&place.path(image), &place.path(mount)).unwrap_err();
        assert_not_followed(&error);
    }
    assert_not_followed(&Volume::format(&place.path("here/another"), SIZE).unwrap_err());
    assert_not_followed(&Volume::format(&place.path("mount/../here/another"), SIZE).unwrap_err());
    assert!(!place.path("another").exists());
}

fn assert_not_followed(error: &ControlError) {
    assert!(matches!(error.errno, Some(libc::ELOOP | libc::ENOTDIR)), "{error}");
    assert!(error.remedy.as_str().contains("symbolic link"), "{error}");
}

pub fn not_whole() {
    // The image is cut to the first length and then extended to the second. The last case contains only zeroes.
    for (cut, length) in [(SIZE / 2, SIZE / 2), (512, 512), (0, 0), (0, SIZE)] {
        let what = format!("{cut} bytes of the image, extended to {length}");
        let place = ImageFileDir::new();
        file(&place).set_len(cut).unwrap();
        file(&place).set_len(length).unwrap();
        let error = Volume::attach(&place.image(), &place.mount()).unwrap_err();
        if is_root() || file(&place).metadata().unwrap().len() < MIN_BYTES {
            assert_eq!(error.errno, Some(libc::EINVAL), "{what}: {error}");
            assert!(error.remedy.as_str().contains("not a whole ext4 file system"), "{what}: {error}");
        } else {
            assert_requires_root(&error);
        }
        assert!(!is_mounted(&place.mount()), "{what}");
        wait_until("a loop device is left", || devices(&place.image()) == 0);
    }
}

fn file(place: &ImageFileDir) -> fs::File {
    fs::File::options().write(true).open(place.image()).unwrap()
}

pub fn not_alone() {
    let place = ImageFileDir::new();
    fs::set_permissions(place.image(), fs::Permissions::from_mode(0o620)).unwrap();
    let error = Volume::attach(&place.image(), &place.mount()).unwrap_err();
    assert!(error.to_string().ends_with("the image can be opened by other users — set its mode to 600"), "{error}");
    if is_root() {
        std::os::unix::fs::chown(place.image(), Some(65534), None).unwrap();
        let error = Volume::attach(&place.image(), &place.mount()).unwrap_err();
        assert!(error.to_string().ends_with("the image belongs to another user"), "{error}");
    }
    let error = Volume::attach(&place.path(""), &place.mount()).unwrap_err();
    assert_eq!(error.errno, Some(libc::EISDIR), "{error}");
    let error = Volume::attach(Path::new("/dev/null"), &place.mount()).unwrap_err();
    assert!(error.to_string().contains("is not a regular file"), "{error}");
}

pub fn attached_and_detached() {
    let place = ImageFileDir::new();
    let Some(volume) = place.attach() else { return };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(place.mount().to_str().unwrap())).unwrap();
    for option in ["nosuid", "nodev", "errors=remount-ro", "discard", "noinit_itable"] {
        assert!(mount.contains(option), "{option} is not in {mount}");
    }
    assert_eq!(is_direct(&place.image()), can_be_direct(&place.image()));
    let root = fs::metadata(place.mount()).unwrap();
    assert_eq!((root.uid(), root.mode() & 0o7777), (0, 0o700));
    let before = volume.usage().unwrap();
    assert!(before.total_bytes > SIZE / 4 * 3 && before.total_bytes < SIZE && before.used_bytes < 1 << 20, "{before:?}");
    fs::write(place.mount().join("file"), vec![1; 1 << 20]).unwrap();
    volume.detach().unwrap();
    assert!(!is_mounted(&place.mount()) && !place.mount().join("file").exists());
    assert_whole(&place.image());

    let volume = place.attach().unwrap();
    assert_eq!(fs::read(place.mount().join("file")).unwrap(), vec![1; 1 << 20]);
    let after = volume.usage().unwrap();
    assert_eq!(after.used_inodes, before.used_inodes + 1);
    assert!(after.used_bytes >= before.used_bytes + (1 << 20), "{before:?}, {after:?}");
    assert_eq!((after.total_bytes, after.total_inodes), (before.total_bytes, before.total_inodes));
}

/// Returns whether the file system of an image supports direct I/O (`open(2)`).
fn can_be_direct(image: &Path) -> bool {
    fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(image).is_ok()
}

pub fn dropped() {
    let place = ImageFileDir::new();
    let Some(volume) = place.attach() else { return };
    assert!(is_mounted(&place.mount()));
    assert_eq!(devices(&place.image()), 1);
    drop(volume);
    assert!(!is_mounted(&place.mount()));
    wait_until("a loop device is left", || devices(&place.image()) == 0);
}

pub fn once() {
    let place = ImageFileDir::new();
    let Some(volume) = place.attach() else { return };
    fs::create_dir(place.path("other")).unwrap();
    for mount in ["mount", "other"] {
        let error = Volume::attach(&place.image(), &place.path(mount)).unwrap_err();
        assert_eq!(error.errno, Some(libc::EWOULDBLOCK), "{error}");
        assert!(error.remedy.as_str().contains("another process has mounted this disk"), "{error}");
    }
    volume.detach().unwrap();
    let volume = Volume::attach(&place.image(), &place.path("other")).unwrap();
    volume.detach().unwrap();
}

pub fn many() {
    let places: Vec<_> = (0..12).map(|_| ImageFileDir::new()).collect();
    std::thread::scope(|scope| {
        for place in &places {
            scope.spawn(|| {
                for round in 0..5 {
                    let Some(volume) = place.attach() else { return };
                    let file = place.mount().join("mine");
                    assert_eq!(fs::read_to_string(&file).ok(), (round > 0).then(|| place.image().display().to_string()));
                    fs::write(file, place.image().to_str().unwrap()).unwrap();
                    volume.detach().unwrap();
                }
            });
        }
    });
}

pub fn still_used() {
    let place = ImageFileDir::new();
    let Some(volume) = place.attach() else { return };
    let open = fs::File::create(place.mount().join("open")).unwrap();
    let error = volume.detach().unwrap_err();
    assert_eq!(error.errno, Some(libc::EWOULDBLOCK), "{error}");
    assert!(!is_mounted(&place.mount()));
    assert!(Volume::attach(&place.image(), &place.mount()).is_err());
    drop(open);
    place.attach().unwrap().detach().unwrap();
}
