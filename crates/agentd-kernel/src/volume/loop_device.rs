//! A loop device: a file that the kernel shows as a disk (`loop(4)`).

use super::NEEDS;
use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Bytes of a block: those of the file system on it, and no fewer than any disk's below it, which direct I/O needs.
const BLOCK: u32 = 4096;

/// How often a free device is asked for. Another process may take it first each time, but then that one got on.
const TRIES: u32 = 64;

/// A loop device that is cleared when nobody has it open: neither this nor a mount.
pub struct LoopDevice {
    path: String,
    _open: OwnedFd,
}

impl LoopDevice {
    /// Shows `image` as a disk, past the host's page cache where its file system can: there would be two copies of everything.
    pub fn over(image: &OwnedFd, name: &Path) -> Result<Self, LayerError> {
        let control = open("/dev/loop-control").at(Layer::Volume, || "open /dev/loop-control".to_owned()).map_err(advise)?;
        let mut last = LayerError::new(Layer::Volume, "find a free loop device", None);
        for _ in 0..TRIES {
            let number = syscall::free_loop_device(control.as_fd())
                .at(Layer::Volume, || "LOOP_CTL_GET_FREE".to_owned())
                .map_err(advise)?;
            let path = format!("/dev/loop{number}");
            let taken = match open(&path) {
                Ok(device) => match syscall::configure_loop_device(device.as_fd(), image.as_fd(), BLOCK) {
                    Ok(()) => return Ok(Self { path, _open: device }),
                    Err(errno) => (format!("LOOP_CONFIGURE {path} for {}", name.display()), errno),
                },
                Err(errno) => (format!("open {path}"), errno),
            };
            last = LayerError::new(Layer::Volume, taken.0, Some(taken.1.raw_os_error()));
            // Another process took it, or removed it.
            if !matches!(taken.1, Errno::BUSY | Errno::NXIO | Errno::NODEV | Errno::NOENT) {
                break;
            }
        }
        Err(advise(last))
    }

    /// Its name, which is its own while this lives.
    pub fn path(&self) -> &str {
        &self.path
    }
}

fn open(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// What can be done about it.
fn advise(error: LayerError) -> LayerError {
    match error.errno {
        Some(libc::EACCES | libc::EPERM) => error.remedy(NEEDS),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => error.remedy("the kernel's loop devices are not there: modprobe loop"),
        // A request that the driver does not know; see the versions in loop(4).
        Some(libc::EINVAL | libc::ENOTTY) => error.remedy("volumes need Linux 5.8 or later"),
        Some(libc::EBUSY) => error.remedy("others take each loop device first: try again"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        for (errno, remedy) in [
            (libc::EACCES, "as root"),
            (libc::EPERM, "as root"),
            (libc::ENOENT, "modprobe loop"),
            (libc::EINVAL, "Linux 5.8"),
            (libc::ENOTTY, "Linux 5.8"),
            (libc::EBUSY, "try again"),
        ] {
            let error = advise(LayerError::new(Layer::Volume, "call", Some(errno)));
            assert!(error.remedy.contains(remedy), "{error}");
        }
    }
}
