//! Loop devices: block devices that are backed by a file (`loop(4)`).

use super::NEEDS;
use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Block size in bytes: that of the file system on the device. Direct I/O needs at least the block size of the underlying disk,
/// and no disk has a larger one.
const BLOCK: u32 = 4096;

/// Number of attempts to find a free device. Another process may take the free device first each time, but that process then
/// makes progress.
const TRIES: u32 = 64;

/// A loop device that clears itself when its last user, this value or a mount, closes it.
pub struct LoopDevice {
    path: String,
    _open: OwnedFd,
}

impl LoopDevice {
    /// Attaches `image` to a free loop device. `name` names the image in errors. Uses direct I/O where the file system of the
    /// image supports it: otherwise the host's page cache would hold a second copy of all data.
    pub fn over(image: &OwnedFd, name: &Path) -> Result<Self, ControlError> {
        let control =
            open("/dev/loop-control").during(Control::Volume, || "open /dev/loop-control".to_owned()).map_err(advise)?;
        let mut last = ControlError::new(Control::Volume, "find a free loop device", None);
        for _ in 0..TRIES {
            let number = syscall::loop_devices::free_loop_device(control.as_fd())
                .during(Control::Volume, || "LOOP_CTL_GET_FREE".to_owned())
                .map_err(advise)?;
            let path = format!("/dev/loop{number}");
            let taken = match open(&path) {
                Ok(device) => match syscall::loop_devices::configure_loop_device(device.as_fd(), image.as_fd(), BLOCK) {
                    Ok(()) => return Ok(Self { path, _open: device }),
                    Err(errno) => (format!("LOOP_CONFIGURE {path} for {}", name.display()), errno),
                },
                Err(errno) => (format!("open {path}"), errno),
            };
            last = ControlError::new(Control::Volume, taken.0, Some(taken.1.raw_os_error()));
            // Another process took or removed the device.
            if !matches!(taken.1, Errno::BUSY | Errno::NXIO | Errno::NODEV | Errno::NOENT) {
                break;
            }
        }
        Err(advise(last))
    }

    /// Returns the path of the device, which belongs to this image while this value exists.
    pub fn path(&self) -> &str {
        &self.path
    }
}

fn open(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// Adds the remedy for the errno of `error`.
fn advise(error: ControlError) -> ControlError {
    match error.errno {
        Some(libc::EACCES | libc::EPERM) => error.remedy(NEEDS),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            error.remedy("load the kernel's module for loop devices: run modprobe loop")
        }
        // The driver does not know the request; see the versions in `loop(4)`.
        Some(libc::EINVAL | libc::ENOTTY) => error.remedy("boot Linux 5.8 or later, which volumes need"),
        Some(libc::EBUSY) => error.remedy("try again: other processes took each free loop device first"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_device_errors_have_remedies() {
        for (errno, remedy) in [
            (libc::EACCES, "as root"),
            (libc::EPERM, "as root"),
            (libc::ENOENT, "modprobe loop"),
            (libc::EINVAL, "Linux 5.8"),
            (libc::ENOTTY, "Linux 5.8"),
            (libc::EBUSY, "try again"),
        ] {
            let error = advise(ControlError::new(Control::Volume, "call", Some(errno)));
            assert!(error.remedy.as_str().contains(remedy), "{error}");
        }
    }
}
