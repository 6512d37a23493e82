//! Calls that the filter passes to a listener (`seccomp_unotify(2)`): changes of mode that set the set-group-id bit, and changes
//! of another thread's scheduling.
//!
//! The listener performs a call itself or refuses it, because the caller's memory, and the objects that the caller names, can
//! change after the check. [`Listener::resume`] states when the kernel may continue a call.

use super::Reschedule;
use crate::syscall;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// The listener of a filter: receives calls and answers them.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// The file of a mode change, as the calling thread names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An open descriptor.
    Descriptor(i32),
    /// A path relative to a directory.
    Path {
        /// A descriptor, or `AT_FDCWD`.
        directory: i32,
        /// Address of the path in the caller's memory.
        address: u64,
    },
}

/// A `chmod`, `fchmod` or `fchmodat` call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeChange {
    /// The file.
    pub target: Target,
    /// The requested mode.
    pub mode: u32,
}

/// The request of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedChange {
    /// A change of mode.
    Mode(ModeChange),
    /// A change of scheduling.
    Schedule(Reschedule),
}

/// A call whose thread waits for the answer.
#[derive(Debug)]
pub struct Call {
    id: u64,
    /// The calling thread, in the listener's PID namespace.
    pub thread: i32,
    /// The request.
    pub request: RequestedChange,
}

impl Call {
    /// Reads the caller's memory and returns the number of bytes read. The kernel stops at an unmapped page.
    ///
    /// # Errors
    /// The errno of `process_vm_readv(2)`.
    pub fn read_memory(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        syscall::processes::read_memory(self.thread, address, buffer)
    }
}

impl Listener {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Waits for the next call. Returns `None` for a call that was answered already or whose thread was killed, and after a
    /// signal.
    ///
    /// # Errors
    /// The errno of the ioctl, except `EINTR` and `ENOENT`.
    pub fn receive(&self) -> Result<Option<Call>, Errno> {
        let notification = match syscall::seccomp::receive_notification(self.0.as_fd()) {
            Ok(notification) => notification,
            Err(Errno::INTR | Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let Some(request) = decode(&notification.data) else {
            // Fails if the thread was killed, which needs no answer.
            syscall::seccomp::answer_notification(self.0.as_fd(), notification.id, Err(Errno::NOSYS)).ok();
            return Ok(None);
        };
        let thread = i32::try_from(notification.pid).unwrap_or(0);
        Ok(Some(Call { id: notification.id, thread, request }))
    }

    /// Returns true if the calling thread still waits. Files opened through its thread id before this check then belong to that
    /// thread.
    pub fn is_waiting(&self, call: &Call) -> bool {
        syscall::seccomp::notification_is_valid(self.0.as_fd(), call.id)
    }

    /// Makes the call return `result`.
    pub fn answer(&self, call: &Call, result: Result<(), Errno>) {
        // Fails if the thread was killed, which needs no answer.
        syscall::seccomp::answer_notification(self.0.as_fd(), call.id, result).ok();
    }

    /// Lets the kernel continue the call as the caller made it (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`). The caller controls how long
    /// that takes. The decision must therefore depend on nothing that can change while the calling thread exists.
    pub fn resume(&self, call: &Call) {
        // Fails if the thread was killed, which needs no answer.
        syscall::seccomp::continue_notification(self.0.as_fd(), call.id).ok();
    }
}

fn decode(call: &libc::seccomp_data) -> Option<RequestedChange> {
    decode_mode(call).map(RequestedChange::Mode).or_else(|| Reschedule::decode(call).map(RequestedChange::Schedule))
}

/// Returns target and mode of a call. The kernel uses the lower 32 bits of descriptors and the lower 16 bits of modes.
fn decode_mode(call: &libc::seccomp_data) -> Option<ModeChange> {
    let descriptor = |argument: usize| i32::from_ne_bytes(low(call.args[argument]).to_ne_bytes());
    let mode = |argument: usize| low(call.args[argument]) & 0o7777;
    match libc::c_long::from(call.nr) {
        libc::SYS_fchmod => Some(ModeChange { target: Target::Descriptor(descriptor(0)), mode: mode(1) }),
        libc::SYS_fchmodat => {
            Some(ModeChange { target: Target::Path { directory: descriptor(0), address: call.args[1] }, mode: mode(2) })
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => {
            Some(ModeChange { target: Target::Path { directory: libc::AT_FDCWD, address: call.args[0] }, mode: mode(1) })
        }
        _ => None,
    }
}

pub(super) fn low(argument: u64) -> u32 {
    u32::try_from(argument & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_bits_of_descriptors_and_modes_are_ignored_as_by_the_kernel() {
        let call =
            |nr: libc::c_long, args| libc::seccomp_data { nr: i32::try_from(nr).unwrap(), arch: 0, instruction_pointer: 0, args };
        let high = 7 << 32;
        let at = call(libc::SYS_fchmodat, [0xffff_ff9c, high + 1, high | 0o42775, 0, 0, 0]);
        let by_path = ModeChange { target: Target::Path { directory: libc::AT_FDCWD, address: high + 1 }, mode: 0o2775 };
        assert_eq!(decode(&at), Some(RequestedChange::Mode(by_path)));
        let open = call(libc::SYS_fchmod, [high | 5, 0o2700, 0, 0, 0, 0]);
        assert_eq!(decode(&open), Some(RequestedChange::Mode(ModeChange { target: Target::Descriptor(5), mode: 0o2700 })));
        assert_eq!(decode(&call(libc::SYS_openat, [0; 6])), None);
    }
}
