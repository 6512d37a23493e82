//! Processes: creation, attributes, signals, memory.

use super::check;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `clone(2)`. The type of the libc constant is too narrow for this value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The result of `clone3`, in either process.
pub enum Cloned {
    /// Returned in the new process.
    Child,
    /// Returned in the caller: the child's pid and pidfd.
    Parent(i32, OwnedFd),
}

/// Calls `clone3(2)` with a copy of the address space, like `fork(2)`.
///
/// # Safety
/// The caller must be single-threaded: the child continues with a copy of this process, in which locks held by other threads
/// would stay locked forever.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    // SAFETY: all-zero is a valid `clone_args`: no flags, no stack, no TLS.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut pidfd: libc::c_int = -1;
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` lives across the call and its size is passed; without CLONE_VM the child has its own copy of the stack.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor that nothing else owns.
    Ok(Cloned::Parent(i32::try_from(pid).unwrap_or(-1), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Calls `prctl(2)` with integer arguments.
pub fn prctl(option: libc::c_int, arg2: libc::c_ulong, arg3: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the options used in this crate take integers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, arg2, arg3, 0, 0) }))?;
    Ok(())
}

/// Reads another process's memory (`process_vm_readv(2)`) and returns the number of bytes read into `buffer`. The kernel stops at
/// an unmapped page.
pub fn read_memory(thread: libc::pid_t, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the local range is the buffer; the remote range is not dereferenced in this process.
    let read = check(unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) } as libc::c_long)?;
    Ok(usize::try_from(read).unwrap_or(0).min(buffer.len()))
}

/// Ignores the signals 32 and 33, or restores their default action, which is to end the process. The C library reserves both for
/// its threads (`signal(7)`), and installs its own handlers when it needs them. The functions of the library refuse these
/// numbers, and the library unblocks 32 in new threads, so blocking would not suffice.
///
/// # Errors
/// The errno of `rt_sigaction(2)`.
pub fn set_reserved_signals(ignored: bool) -> Result<(), Errno> {
    // `struct sigaction` of the kernel: handler, flags, restorer and mask.
    let action: [u64; 4] = [if ignored { libc::SIG_IGN as u64 } else { libc::SIG_DFL as u64 }, 0, 0, 0];
    for number in [32, 33] {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads `action`, which lives across the call. Neither action executes code of this process.
        check(unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), none, size_of::<u64>()) })?;
    }
    Ok(())
}

/// Returns the session of a thread (`getsid(2)`).
pub fn session(thread: i32) -> Result<i32, Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::getsid(thread) }.into()).map(|id| i32::try_from(id).unwrap_or(0))
}

/// Returns the process group of a process (`getpgid(2)`).
pub fn process_group(process: i32) -> Result<i32, Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::getpgid(process) }.into()).map(|id| i32::try_from(id).unwrap_or(0))
}
