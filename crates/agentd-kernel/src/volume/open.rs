//! Opening and locking the files of a volume, through paths without symbolic links.

use super::{MIN_BYTES, NOT_WHOLE};
use crate::{ErrnoContext, mount::open_beneath};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{CWD, FileType, FlockOperation, OFlags},
    io::Errno,
};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// Time limit of waiting for the last user of a volume to close it. Programs that inspect new block devices (udev) are users for
/// a few milliseconds.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Pause between two attempts to lock.
const PAUSE: Duration = Duration::from_millis(5);

/// Opens a file or directory. No component of `path` may be a symbolic link.
pub fn open_named(path: &Path, flags: OFlags) -> Result<OwnedFd, ControlError> {
    open_beneath(CWD, path, flags).during(Control::Volume, || format!("open {}", path.display())).map_err(|error| {
        match error.errno {
            Some(libc::ELOOP | libc::ENOTDIR) => {
                error.remedy("use a path without symbolic links: a component of this path is a symbolic link or not a directory")
            }
            _ => error,
        }
    })
}

/// Opens an image, which must be accessible to the caller only: a process that can write the image controls what the kernel
/// parses as a file system.
pub fn open_image(path: &Path) -> Result<OwnedFd, ControlError> {
    let image = open_named(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let refuse = |why| Err(ControlError::new(Control::Volume, format!("use {}: the image {why}", path.display()), None));
    let stat = rustix::fs::fstat(&image).during(Control::Volume, || format!("stat {}", path.display()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("is not a regular file");
    }
    if !agentd_disk::is_own_uid(stat.st_uid) {
        return refuse("belongs to another user");
    }
    if stat.st_mode & 0o077 != 0 {
        return refuse("can be opened by other users").map_err(|error| error.remedy("set its mode to 600"));
    }
    // The kernel returns ENOMEM for a file without a complete first block, which is misleading.
    if u64::try_from(stat.st_size).is_ok_and(|size| size < MIN_BYTES) {
        return Err(ControlError::new(Control::Volume, format!("mount {}", path.display()), Some(libc::EINVAL)).remedy(NOT_WHOLE));
    }
    Ok(image)
}

/// Locks an image (`flock(2)`). Waits up to [`TIMEOUT`], because a loop device over the image also holds the lock.
pub fn lock(image: &OwnedFd, path: &Path) -> Result<(), ControlError> {
    let start = Instant::now();
    loop {
        match rustix::fs::flock(image, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if start.elapsed() < TIMEOUT => std::thread::sleep(PAUSE),
            locked => {
                return locked.during(Control::Volume, || format!("lock {}", path.display())).map_err(|error| {
                    error.remedy(
                        "run `agentd daemon stop`, which ends all running commands, then try again: another process has mounted \
                         this disk",
                    )
                });
            }
        }
    }
}

/// Returns the `/proc` path of an open file, for calls that take no descriptor (`proc_pid_fd(5)`).
pub fn proc_path(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
