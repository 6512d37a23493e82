//! Making an image: `mkfs.ext4` on a sparse file that has no name until it is whole.

use super::open::{open_named, through};
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Component, Path},
    process::{Command, Stdio},
};

/// The smallest volume, bytes. In less, `mkfs.ext4` leaves the journal away.
pub const LEAST_BYTES: u64 = 16 << 20;

/// Bytes of a block.
const BLOCK: u64 = 4096;

/// Where programs of e2fsprogs are: not where the caller's environment says, who may not be who this process is.
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// How the file system is made, whatever `mke2fs.conf` says of it (`mke2fs(8)`).
const OPTIONS: [&str; 14] = [
    "-q",
    // It is a file and no disk: no question.
    "-F",
    "-b",
    "4096",
    // No blocks that only root may use, who is in the sandbox.
    "-m",
    "0",
    // A file for each two blocks: source trees and packages have bigger ones. The tables take 3 % of the volume.
    "-i",
    "8192",
    // It never grows. The blocks for that are written out: 4 MB in 10 GiB.
    "-O",
    "has_journal,^resize_inode",
    // Nothing is written that is zero in a new file anyway.
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
    // The file is its standard input, and the name by which it opens that.
    "--",
    "/proc/self/fd/0",
];

/// Bytes of the image of a volume of `bytes` bytes: whole blocks.
pub fn image_bytes(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

/// See [`super::Volume::format`].
pub fn format(image: &Path, bytes: u64) -> Result<(), LayerError> {
    let at = |call: &str| format!("{call} {}", image.display());
    let Some(Component::Normal(name)) = image.components().next_back() else {
        return Err(LayerError::new(Layer::Volume, at("make"), Some(libc::EINVAL)).remedy("name a file"));
    };
    let parent = image.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let file = nameless(parent, bytes)?;
    rustix::fs::fsync(&file).at(Layer::Volume, || at("flush"))?;
    let parent = open_named(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // By its name in /proc, because AT_EMPTY_PATH is a privilege (`linkat(2)`).
    rustix::fs::linkat(CWD, through(&file), &parent, name, AtFlags::SYMLINK_FOLLOW).at(Layer::Volume, || at("name"))?;
    rustix::fs::fsync(&parent).at(Layer::Volume, || at("flush the directory of"))
}

/// Makes one in `folder` that has no name, and so goes with whoever has it open.
pub fn nameless(folder: &Path, bytes: u64) -> Result<OwnedFd, LayerError> {
    let at = |call: &str| format!("{call} a volume in {}", folder.display());
    if bytes < LEAST_BYTES {
        return Err(LayerError::new(Layer::Volume, at(&format!("make {bytes} bytes of")), Some(libc::EINVAL))
            .remedy(format!("give it {LEAST_BYTES} bytes or more")));
    }
    let parent = open_named(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, c".", flags, Mode::from(0o600)).at(Layer::Volume, || at("make a file for")).map_err(
        |error| match error.errno {
            Some(libc::EOPNOTSUPP) => {
                error.remedy("its file system has no O_TMPFILE: use a directory on ext4, xfs, btrfs or tmpfs")
            }
            _ => error,
        },
    )?;
    rustix::fs::ftruncate(&file, image_bytes(bytes)).at(Layer::Volume, || at("set the size of"))?;
    make(&file)?;
    Ok(file)
}

/// Runs `mkfs.ext4`, which has nothing of this process's but the file.
fn make(file: &OwnedFd) -> Result<(), LayerError> {
    let failed = |what: String, errno| LayerError::new(Layer::Volume, format!("run mkfs.ext4{what}"), errno);
    let input = file.try_clone().at(Layer::Volume, || "pass the image to mkfs.ext4".to_owned())?;
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
        let failed = failed(String::new(), error.raw_os_error());
        if error.kind() == io::ErrorKind::NotFound { failed.remedy("install e2fsprogs") } else { failed }
    })?;
    if made.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&made.stderr);
    Err(failed(format!(": {}: {}", made.status, said.trim()), None))
}
