//! A directory with an image and a mount point, and what a host shows of them.

use agentd_core::{Layer, LayerError};
use agentd_kernel::volume::Volume;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Bytes of most tests' volumes.
pub const SIZE: u64 = 64 << 20;

/// How long something is waited for that must come: a test that hangs says nothing.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Place(TempDir);

impl Place {
    /// With a mount point, and nothing else.
    pub fn empty() -> Self {
        let place = Self(tempfile::tempdir_in(fs::canonicalize(std::env::temp_dir()).unwrap()).unwrap());
        fs::create_dir(place.mount()).unwrap();
        place
    }

    /// With an image, too.
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

    /// The volume, attached. An ordinary user gets none, and is told so.
    pub fn attach(&self) -> Option<Volume> {
        roots(Volume::attach(&self.image(), &self.mount()))
    }

    /// The volume, attached nowhere.
    pub fn open(&self) -> Option<Volume> {
        roots(Volume::open(&self.image()))
    }

    /// Bytes the image takes on the host.
    pub fn on_disk(&self) -> u64 {
        fs::metadata(self.image()).unwrap().blocks() * 512
    }
}

fn roots(volume: Result<Volume, LayerError>) -> Option<Volume> {
    if is_root() {
        return Some(volume.unwrap());
    }
    assert_is_roots(&volume.unwrap_err());
    None
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Checks that an ordinary user was refused, and told what it takes.
pub fn assert_is_roots(error: &LayerError) {
    assert!(!is_root(), "{error}");
    assert_eq!((error.layer, error.errno), (Layer::Volume, Some(libc::EACCES)), "{error}");
    assert!(error.to_string().contains("run agentd as root of the host"), "{error}");
}

/// How many loop devices show this file.
pub fn devices(image: &Path) -> usize {
    directories(image).len()
}

/// Whether the loop device of this file goes past the host's page cache.
pub fn is_direct(image: &Path) -> bool {
    directories(image).iter().any(|device| fs::read_to_string(device.join("dio")).unwrap().trim_end() == "1")
}

/// What the kernel says of the loop devices that show this file.
fn directories(image: &Path) -> Vec<PathBuf> {
    let mut devices: Vec<_> = fs::read_dir("/sys/block").unwrap().map(|block| block.unwrap().path().join("loop")).collect();
    devices
        .retain(|device| fs::read_to_string(device.join("backing_file")).is_ok_and(|name| Path::new(name.trim_end()) == image));
    devices
}

/// Whether something is mounted here, in this process's view.
pub fn is_mounted(place: &Path) -> bool {
    let place = place.to_str().unwrap();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(place))
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks that a whole file system is in an image that is not attached, as `e2fsck` sees it.
pub fn assert_whole(image: &Path) {
    let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(image).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
