//! Properties of files and file systems that `stat(2)` does not report, and freezing of file systems.

use super::check;
use rustix::io::Errno;
use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Maximum size of a file handle in bytes (`name_to_handle_at(2)`, `MAX_HANDLE_SZ`).
const MAX_HANDLE: usize = 128;

/// Returns type and bytes of the file handle of the object that `fd` refers to, with the bytes in hexadecimal digits. Returns
/// `None` if its file system has no handles.
pub fn file_handle(fd: BorrowedFd<'_>) -> Option<String> {
    use std::fmt::Write;
    /// `struct file_handle`, with space for the longest handle.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; MAX_HANDLE],
    }
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; MAX_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a NUL-terminated constant; `handle` states its capacity; `handle` and `mount` live across the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    })
    .ok()?;
    let mut text = format!("{}:", handle.kind);
    for byte in handle.handle.get(..usize::try_from(handle.bytes).ok()?)? {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}

/// Returns the file system id of `fd` (`fstatfs(2)`, `f_fsid`).
pub fn filesystem_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `stat` is large enough for the structure and lives across the call.
    check(libc::c_long::from(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) }))?;
    // SAFETY: all-zero is a valid `statfs`, and `fsid_t` is two 32-bit integers without padding, as wide as a `u64`.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, u64>(stat.assume_init().f_fsid) })
}

/// `FIFREEZE` and `FITHAW` (`linux/fs.h`). Their numbers encode an `int` argument, which the kernel neither reads nor writes.
const FREEZE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 119);
const THAW: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 120);

/// Writes all dirty data of the file system that contains `of`, and blocks later writes to it.
pub fn freeze(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the operation is an ioctl (`ioctl(2)`) for which the kernel neither reads nor writes an argument.
    unsafe { rustix::ioctl::ioctl(of, rustix::ioctl::NoArg::<FREEZE>::new()) }
}

/// Thaws the file system that contains `of`.
pub fn thaw(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: as in `freeze`.
    unsafe { rustix::ioctl::ioctl(of, rustix::ioctl::NoArg::<THAW>::new()) }
}
