//! The Linux isolation mechanisms that backends share. Each is a *plan*, a value that can be printed and compared, and an
//! *apply* step that says what was enforced. Nothing here decides; nothing here knows a backend.

pub mod cgroup;
pub mod errand;
pub mod freeze;
pub mod idmap;
pub mod individual;
pub mod landlock;
pub mod mount;
pub mod namespace;
mod path_bytes;
pub mod privileges;
pub mod rlimit;
pub mod seccomp;
mod syscall;
pub mod volume;
pub mod vsock;

use agentd_core::{Layer, LayerError};
use rustix::io::Errno;

/// Turns an errno into a [`LayerError`] that names the layer and the call.
pub(crate) trait At<T> {
    /// Names the layer and the call.
    fn at(self, layer: Layer, call: impl FnOnce() -> String) -> Result<T, LayerError>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, layer: Layer, call: impl FnOnce() -> String) -> Result<T, LayerError> {
        self.map_err(|errno| LayerError::new(layer, call(), Some(errno.raw_os_error())))
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, layer: Layer, call: impl FnOnce() -> String) -> Result<T, LayerError> {
        self.map_err(|error| LayerError::new(layer, call(), error.raw_os_error()))
    }
}
