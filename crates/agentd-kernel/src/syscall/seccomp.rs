//! Seccomp filters with a listener, and the notifications that the listener receives (`seccomp_unotify(2)`).

use super::check;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Installs a filter on the calling thread and returns the descriptor of its listener (`seccomp(2)`,
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`). The kernel sets close-on-exec on the descriptor.
pub fn install_filter_with_listener(program: &[seccompiler::sock_filter]) -> Result<OwnedFd, Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    // Both types are the kernel's `struct sock_filter`. The kernel only reads the program, so the cast to a mutable pointer is
    // sound.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: `program` and the instructions it points to live across the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// `SECCOMP_IOCTL_NOTIF_RECV`, `SECCOMP_IOCTL_NOTIF_SEND` and `SECCOMP_IOCTL_NOTIF_ID_VALID` (`linux/seccomp.h`).
const NOTIFICATION_RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const NOTIFICATION_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const NOTIFICATION_IS_VALID: libc::Ioctl = 0x4008_2102;

/// Waits for the next call that a filter passes to its listener (`seccomp_unotify(2)`).
pub fn receive_notification(listener: BorrowedFd<'_>) -> Result<libc::seccomp_notif, Errno> {
    // SAFETY: all-zero is a valid notification, and the kernel requires a zeroed one.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl writes one `seccomp_notif`, which lives across the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_RECEIVE, &raw mut notification) }.into())?;
    Ok(notification)
}

/// Returns true if the thread of a notification still waits for its answer.
pub fn notification_is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads one 64-bit number, which lives across the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_IS_VALID, &raw const id) == 0 }
}

/// Makes the call of a notification return 0 or an error.
pub fn answer_notification(listener: BorrowedFd<'_>, id: u64, result: Result<(), Errno>) -> Result<(), Errno> {
    let error = result.err().map_or(0, |errno| -errno.raw_os_error());
    send_answer(listener, libc::seccomp_notif_resp { id, val: 0, error, flags: 0 })
}

/// Makes the kernel continue the call of a notification (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`).
pub fn continue_notification(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    send_answer(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 1 })
}

fn send_answer(listener: BorrowedFd<'_>, mut response: libc::seccomp_notif_resp) -> Result<(), Errno> {
    // SAFETY: the ioctl reads one `seccomp_notif_resp`, which lives across the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_SEND, &raw mut response) }.into())?;
    Ok(())
}
