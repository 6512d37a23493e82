//! The descriptors of this process as a whole.

use super::check;
use rustix::io::Errno;
use std::sync::atomic::{AtomicU8, Ordering};

/// One bit for each standard descriptor that was closed when the program started. Before `main`, std opens `/dev/null` for such a
/// descriptor, so that later writes to it succeed and are lost.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Makes the C library call [`note_closed`] before std starts (System V ABI, `.init_array`).
// SAFETY: the section holds pointers to functions with this signature, and `note_closed` uses nothing that std must set up.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_CLOSED: extern "C" fn() = note_closed;

extern "C" fn note_closed() {
    for fd in 0..3 {
        // SAFETY: `F_GETFD` takes no further argument, and any descriptor number may be queried.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

/// Returns true if standard output was closed when the program started. In that case, data written to standard output is lost.
pub fn stdout_was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << 1) != 0
}

/// Sets close-on-exec on every descriptor above 2 (`close_range(2)`).
pub fn close_others_on_exec() -> Result<(), Errno> {
    // SAFETY: the call takes integers only, and closes no descriptor in this process.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}
