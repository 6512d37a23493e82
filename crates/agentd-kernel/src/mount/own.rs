//! A private mount namespace of a process, for mounts that no other process sees and that end with the process
//! (`mount_namespaces(7)`).

use super::mount_change;
use crate::{ErrnoContext, namespace};
use agentd_core::{Control, ControlError};
use rustix::mount::MountPropagationFlags;

/// Proof that this thread, and threads that it starts, are in a private mount namespace. Mounts made there are visible nowhere
/// else, and are removed with the last process in the namespace. Mounts and unmounts of the host still propagate into it.
#[derive(Debug, Clone)]
pub struct OwnMounts(());

impl OwnMounts {
    /// Moves the calling thread into a new private mount namespace. Must be called before the process starts threads, unless the
    /// namespace is for this thread alone. Needs root of the host.
    ///
    /// # Errors
    /// `EPERM` if the caller is not root of the host.
    pub fn take() -> Result<Self, ControlError> {
        namespace::new_mounts().map_err(|error| error.remedy(crate::volume::NEEDS))?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .during(Control::Mounts, || "stop the propagation of mounts to the host".to_owned())?;
        Ok(Self(()))
    }
}
