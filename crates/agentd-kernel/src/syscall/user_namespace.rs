//! A user namespace that is held open by an idle process.

use super::{
    check,
    stack::{Stack, stack},
};
use rustix::io::Errno;

/// An idle process in its own user namespace, killed and reaped when dropped.
pub struct Helper {
    pid: libc::pid_t,
    _stack: Stack,
}

impl Helper {
    /// Starts a helper process in a new user namespace.
    pub fn in_user_namespace() -> Result<Self, Errno> {
        extern "C" fn body(_: *mut libc::c_void) -> libc::c_int {
            loop {
                // SAFETY: pause(2) touches no memory.
                unsafe { libc::pause() };
            }
        }
        let mut stack = stack();
        let top = stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: `top` is the aligned end of a stack that lives until the helper has been reaped. The body allocates nothing,
        // takes no lock, and never returns into code of the parent.
        let pid = unsafe { libc::clone(body, top.cast(), flags, std::ptr::null_mut()) };
        check(libc::c_long::from(pid))?;
        Ok(Self { pid, _stack: stack })
    }

    /// Returns the pid of the helper.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // SAFETY: `kill` takes integers only. The helper has not been reaped, so its pid cannot name another process.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // A child without an exit signal can be waited for with __WALL only.
        // SAFETY: the arguments are integers and a null status pointer, which waitpid(2) allows.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
        {}
    }
}
