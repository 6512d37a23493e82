//! The descriptors of the supervisor: the one that reports signals, and closing all descriptors that the launcher had open.

use super::io_error;
use agentd_core::{Control, ControlError};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Blocks SIGCHLD and returns a descriptor that becomes readable when SIGCHLD arrives (`signalfd(2)`).
///
/// Without a PID namespace, the descriptor also reports SIGTERM, with which the launcher asks the supervisor to end. From inside
/// its PID namespace, process 1 receives only signals for which it has a handler (`pid_namespaces(7)`).
pub(super) fn signals(namespaced: bool) -> Result<OwnedFd, ControlError> {
    // SAFETY: an all-zero set is initialised by sigemptyset before use; all pointers are to it.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if !namespaced {
            libc::sigaddset(&raw mut set, libc::SIGTERM);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io_error("signalfd", std::io::Error::last_os_error()));
    }
    // SAFETY: signalfd returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor above 2 except `keep`, whatever the launcher had open. Descriptors 0 to 2 become `/dev/null`.
pub(super) fn close_others(mut keep: Vec<i32>) -> Result<(), ControlError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ControlError::new(Control::Process, "open /dev/null", Some(e.raw_os_error())))?;
    for target in 0..=2 {
        // SAFETY: integers only; no value in this process owns descriptors 0 to 2.
        if unsafe { libc::dup2(null.as_raw_fd(), target) } < 0 {
            return Err(io_error("dup2", std::io::Error::last_os_error()));
        }
    }
    drop(null);
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([i32::MAX]) {
        if first < fd {
            let last = if fd == i32::MAX { u32::MAX } else { (fd - 1).unsigned_abs() };
            // SAFETY: integers only. The closed descriptors belong to values of the launcher that this process never drops,
            // because it leaves by `_exit`.
            if unsafe { libc::syscall(libc::SYS_close_range, first.unsigned_abs(), last, 0) } < 0 {
                return Err(io_error("close_range", std::io::Error::last_os_error()));
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}
