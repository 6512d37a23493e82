//! A private mount namespace of a process, for mounts that no other process sees and that end with the process
//! (`mount_namespaces(7)`).

use super::mount_change;
use crate::{ErrnoContext, namespace};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    mount::MountPropagationFlags,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// Proof that this thread, and threads that it starts, are in a private mount namespace. Mounts made there are visible nowhere
/// else, and are removed with the last process in the namespace. Mounts and unmounts of the host still propagate into it.
#[derive(Debug, Clone)]
pub struct OwnMounts {
    /// The mount namespace of which the private one is a copy. The descriptor keeps the namespace alive, so that no other
    /// namespace gets its number.
    copied: Arc<OwnedFd>,
}

impl OwnMounts {
    /// Moves the calling thread into a new private mount namespace. Must be called before the process starts threads, unless the
    /// namespace is for this thread alone. Needs root of the host.
    ///
    /// # Errors
    /// `EPERM` if the caller is not root of the host.
    pub fn take() -> Result<Self, ControlError> {
        // A descriptor opened with O_PATH identifies the namespace, but no process can enter the namespace with it.
        let copied = rustix::fs::open("/proc/thread-self/ns/mnt", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .during(Control::Mounts, || "open /proc/thread-self/ns/mnt".to_owned())?;
        namespace::new_mounts().map_err(|error| error.remedy(crate::volume::NEEDS))?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .during(Control::Mounts, || "stop the propagation of mounts to the host".to_owned())?;
        Ok(Self { copied: Arc::new(copied) })
    }

    /// Returns the mount namespace of which this one is a copy, as a descriptor of its file in `/proc`.
    pub(crate) fn copied(&self) -> BorrowedFd<'_> {
        self.copied.as_fd()
    }
}
