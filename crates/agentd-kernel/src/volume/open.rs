//! Opening what a volume is made of: by names in which nothing is a symbolic link, for one at a time.

use super::{LEAST_BYTES, NOT_WHOLE};
use crate::{At, mount::open_beneath};
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{CWD, FileType, FlockOperation, OFlags},
    io::Errno,
};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// How long the end of a volume's last user is waited for. What looks at new block devices (udev) is one for a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Opens a file or directory of which no part of the name may be a symbolic link.
pub fn open_named(path: &Path, flags: OFlags) -> Result<OwnedFd, LayerError> {
    open_beneath(CWD, path, flags).at(Layer::Volume, || format!("open {}", path.display())).map_err(|error| match error.errno {
        Some(libc::ELOOP | libc::ENOTDIR) => error.remedy("part of its name is a symbolic link or no directory: name it without"),
        _ => error,
    })
}

/// Opens an image: a file that is the caller's alone, for whoever writes it writes what the kernel takes for a file system.
pub fn open_image(path: &Path) -> Result<OwnedFd, LayerError> {
    let image = open_named(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let refuse = |why| Err(LayerError::new(Layer::Volume, format!("use {}: it {why}", path.display()), None));
    let stat = rustix::fs::fstat(&image).at(Layer::Volume, || format!("stat {}", path.display()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("is not a file");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    if stat.st_mode & 0o077 != 0 {
        return refuse("can be opened by others").map_err(|error| error.remedy("chmod 600 it"));
    }
    // The kernel calls it a lack of memory when there is not even a first block.
    if u64::try_from(stat.st_size).is_ok_and(|size| size < LEAST_BYTES) {
        return Err(LayerError::new(Layer::Volume, format!("mount {}", path.display()), Some(libc::EINVAL)).remedy(NOT_WHOLE));
    }
    Ok(image)
}

/// Locks an image (`flock(2)`), which nobody can while it is attached.
pub fn lock(image: &OwnedFd, path: &Path) -> Result<(), LayerError> {
    let start = Instant::now();
    loop {
        match rustix::fs::flock(image, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            locked => {
                return locked.at(Layer::Volume, || format!("lock {}", path.display())).map_err(|error| {
                    error.remedy("it is in use: end the sandbox it belongs to, and those that were made while it was attached")
                });
            }
        }
    }
}

/// The name of an open file, for calls that take no descriptor (`proc_pid_fd(5)`).
pub fn through(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
