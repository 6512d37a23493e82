//! A directory with an image and a mount point, and queries of the host's loop devices and mounts.

use agentd_core::{Control, ControlError};
use agentd_kernel::volume::Volume;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Size of the volume in most tests, in bytes.
pub const SIZE: u64 = 64 << 20;

/// Time limit of [`wait_until`].
const TIMEOUT: Duration = Duration::from_secs(20);

pub struct ImageFileDir(TempDir);

impl ImageFileDir {
    /// Creates a directory with a mount point and without an image.
    pub fn empty() -> Self {
        let place = Self(tempfile::tempdir_in(fs::canonicalize(std::env::temp_dir()).unwrap()).unwrap());
        fs::create_dir(place.mount()).unwrap();
        place
    }

    /// Creates a directory with a mount point and an image.
    pub fn new() -> Self {
        let place = Self::empty();
        Volume::format(&place.image(), SIZE).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn image(&self) -> PathBuf {
        self.path("image")
    }

    pub fn mount(&self) -> PathBuf {
        self.path("mount")
    }

    /// Attaches the volume. For an ordinary user, checks the error and returns `None`.
    pub fn attach(&self) -> Option<Volume> {
        checked(Volume::attach(&self.image(), &self.mount()))
    }

    /// Opens the volume without attaching it. For an ordinary user, checks the error and returns `None`.
    pub fn open(&self) -> Option<Volume> {
        checked(Volume::open(&self.image()))
    }

    /// Returns the number of bytes that the image occupies on the host's disk.
    pub fn on_disk(&self) -> u64 {
        fs::metadata(self.image()).unwrap().blocks() * 512
    }
}

fn checked(volume: Result<Volume, ControlError>) -> Option<Volume> {
    if is_root() {
        return Some(volume.unwrap());
    }
    assert_requires_root(&volume.unwrap_err());
    None
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Checks the error that an ordinary user gets, which names the required privilege.
pub fn assert_requires_root(error: &ControlError) {
    assert!(!is_root(), "{error}");
    assert_eq!((error.control, error.errno), (Control::Volume, Some(libc::EACCES)), "{error}");
    assert!(error.to_string().contains("run agentd as root of the host"), "{error}");
}

/// Returns the number of loop devices that this file backs.
pub fn devices(image: &Path) -> usize {
    directories(image).len()
}

/// Returns true if the loop device of this file uses direct I/O.
pub fn is_direct(image: &Path) -> bool {
    directories(image).iter().any(|device| fs::read_to_string(device.join("dio")).unwrap().trim_end() == "1")
}

/// Returns the sysfs directories of the loop devices that this file backs.
fn directories(image: &Path) -> Vec<PathBuf> {
    let mut devices: Vec<_> = fs::read_dir("/sys/block").unwrap().map(|block| block.unwrap().path().join("loop")).collect();
    devices
        .retain(|device| fs::read_to_string(device.join("backing_file")).is_ok_and(|name| Path::new(name.trim_end()) == image));
    devices
}

/// Returns true if `place` is a mount point in the mount namespace of this process.
pub fn is_mounted(place: &Path) -> bool {
    let place = place.to_str().unwrap();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(place))
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks with `e2fsck` that an unattached image contains a consistent file system.
pub fn assert_whole(image: &Path) {
    let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(image).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
