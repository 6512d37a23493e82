//! Loop devices (`loop(4)`).

use super::check;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `LOOP_CTL_GET_FREE` (`linux/loop.h`).
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

/// `LOOP_CONFIGURE`, since Linux 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;

/// `LO_FLAGS_AUTOCLEAR` and `LO_FLAGS_DIRECT_IO`. The kernel ignores the second if the file system of the backing file has no
/// direct I/O.
const LOOP_FLAGS: u32 = 4 | 16;

/// Returns the number of a loop device that is currently free. The kernel creates a device if none is free (`loop(4)`).
pub fn free_loop_device(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: this ioctl takes no argument and returns a number.
    let number = check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }))?;
    u32::try_from(number).map_err(|_| Errno::NODEV)
}

/// Attaches `file` to `device` with blocks of `block` bytes, until the last user closes the device (`loop(4)`, `LOOP_CONFIGURE`).
pub fn configure_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block: u32) -> Result<(), Errno> {
    /// `struct loop_config`, including its `struct loop_info64`.
    #[repr(C)]
    struct Config {
        file: u32,
        block: u32,
        /// Device, inode, device of the node, offset, size limit.
        numbers: [u64; 5],
        /// Number, encryption type, encryption key size.
        more: [u32; 3],
        flags: u32,
        /// File name, encryption name, encryption key.
        names: [u8; 160],
        init: [u64; 2],
        reserved: [u64; 8],
    }
    const { assert!(size_of::<Config>() == 304) };
    let config = Config {
        file: file.as_raw_fd().unsigned_abs(),
        block,
        numbers: [0; 5],
        more: [0; 3],
        flags: LOOP_FLAGS,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout and the size of the kernel's structure, and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }))?;
    Ok(())
}
