//! The Linux isolation mechanisms that the backends share. Each mechanism has a *plan*, a value that can be printed and compared,
//! and an *apply* step that returns what was enforced. This crate makes no policy decisions and knows no backend.

pub mod affinity;
pub mod cgroup;
pub mod freeze;
pub mod gateway;
pub mod idmap;
pub mod landlock;
pub mod machine_identity;
pub mod mount;
pub mod namespace;
pub mod object;
pub mod path_bytes;
pub mod peer;
pub mod privileges;
pub mod proc;
pub mod process;
pub mod rlimit;
pub mod run_as;
pub mod seccomp;
mod syscall;
pub mod text;
pub mod volume;
pub mod vsock;

pub use syscall::descriptors::stdout_was_closed;

use agentd_core::{Control, ControlError};
use rustix::io::Errno;

/// Converts an error with an errno into a [`ControlError`] that names the control and the failed call.
pub(crate) trait ErrnoContext<T> {
    /// Maps an error to a [`ControlError`] for `control`; `call` is evaluated only on failure.
    fn during(self, control: Control, call: impl FnOnce() -> String) -> Result<T, ControlError>;
}

impl<T> ErrnoContext<T> for Result<T, Errno> {
    fn during(self, control: Control, call: impl FnOnce() -> String) -> Result<T, ControlError> {
        self.map_err(|errno| ControlError::new(control, call(), Some(errno.raw_os_error())))
    }
}

impl<T> ErrnoContext<T> for std::io::Result<T> {
    fn during(self, control: Control, call: impl FnOnce() -> String) -> Result<T, ControlError> {
        self.map_err(|error| ControlError::caused_by(control, call(), error))
    }
}
