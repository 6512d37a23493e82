//! Creating an image: runs `mkfs.ext4` on a sparse file that gets its name only when complete.

use super::open::{open_named, proc_path};
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Component, Path},
    process::{Command, Stdio},
};

/// Minimum size of a volume in bytes. `mkfs.ext4` omits the journal on smaller file systems.
pub const MIN_BYTES: u64 = 16 << 20;

/// Block size in bytes.
const BLOCK: u64 = 4096;

/// Directories of the programs of e2fsprogs. `PATH` is not used, because another user may have set it.
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Arguments of `mkfs.ext4`, independent of `mke2fs.conf` (`mke2fs(8)`).
const OPTIONS: [&str; 14] = [
    "-q",
    // Suppresses the prompt that asks whether to format a regular file.
    "-F",
    "-b",
    "4096",
    // Reserves no blocks for root: the payload may be root in the sandbox.
    "-m",
    "0",
    // One inode per 8 KiB, which is two blocks: files of source trees and packages are larger on average. The inode tables take 3
    // % of the volume.
    "-i",
    "8192",
    // A volume never grows. The blocks reserved for growth would be written out: 4 MB in 10 GiB.
    "-O",
    "has_journal,^resize_inode",
    // Skips writing zeroes, which a new file contains anyway.
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
    // The image is the standard input of mkfs.ext4, which opens it by this name.
    "--",
    "/proc/self/fd/0",
];

/// Returns the image size in bytes for a volume of `bytes` bytes, rounded down to whole blocks.
pub fn image_bytes(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

/// Implements [`super::Volume::format`].
pub fn format(image: &Path, bytes: u64) -> Result<(), ControlError> {
    let at = |call: &str| format!("{call} {}", image.display());
    let Some(Component::Normal(name)) = image.components().next_back() else {
        return Err(ControlError::new(Control::Volume, at("create the image"), Some(libc::EINVAL))
            .remedy("end the path with a file name"));
    };
    let parent = image.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let file = nameless(parent, bytes)?;
    rustix::fs::fsync(&file).during(Control::Volume, || at("flush the image"))?;
    let parent = open_named(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // Uses the name in /proc, because AT_EMPTY_PATH needs a capability (`linkat(2)`).
    rustix::fs::linkat(CWD, proc_path(&file), &parent, name, AtFlags::SYMLINK_FOLLOW)
        .during(Control::Volume, || at("link the image to its name"))?;
    rustix::fs::fsync(&parent).during(Control::Volume, || at("flush the directory of"))
}

/// Creates an image in `folder` without a name. The kernel deletes the image when its last descriptor is closed.
pub fn nameless(folder: &Path, bytes: u64) -> Result<OwnedFd, ControlError> {
    let at = |call: &str| format!("{call} a volume in {}", folder.display());
    if bytes < MIN_BYTES {
        return Err(ControlError::new(Control::Volume, at(&format!("create {bytes} bytes for")), Some(libc::EINVAL))
            .remedy(format!("request at least {MIN_BYTES} bytes")));
    }
    let parent = open_named(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, c".", flags, Mode::from(0o600))
        .during(Control::Volume, || at("create a file for"))
        .map_err(|error| match error.errno {
            Some(libc::EOPNOTSUPP) => {
                error.remedy("use a directory on ext4, xfs, btrfs or tmpfs: this file system does not support O_TMPFILE")
            }
            _ => error,
        })?;
    rustix::fs::ftruncate(&file, image_bytes(bytes)).during(Control::Volume, || at("set the size of"))?;
    make(&file)?;
    Ok(file)
}

/// Runs `mkfs.ext4`, which inherits no environment variable and no descriptor other than the image.
fn make(file: &OwnedFd) -> Result<(), ControlError> {
    let input = file.try_clone().during(Control::Volume, || "pass the image to mkfs.ext4".to_owned())?;
    let made = Command::new("mkfs.ext4")
        .args(OPTIONS)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let made = made.map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let failed = ControlError::caused_by(Control::Volume, "run mkfs.ext4", error);
        if missing { failed.remedy("install e2fsprogs") } else { failed }
    })?;
    if made.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&made.stderr);
    let call = format!("run mkfs.ext4: {}: {}", made.status, stderr.trim());
    Err(ControlError::new(Control::Volume, call, None))
}
