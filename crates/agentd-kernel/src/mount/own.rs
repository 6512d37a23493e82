//! A mount namespace of a process's own, for mounts that are nobody else's and end with it (`mount_namespaces(7)`).

use super::mount_change;
use crate::{At, namespace};
use agentd_core::{Layer, LayerError};
use rustix::mount::MountPropagationFlags;

/// Proof that the mounts of this thread, and of those that it starts, are in a namespace of their own: what is mounted there is seen nowhere
/// else, and is gone with the last process in it. What the host mounts and unmounts is still seen in it.
#[derive(Debug, Clone)]
pub struct OwnMounts(());

impl OwnMounts {
    /// Makes one. Before a process starts threads, or it is for this one alone. Needs root of the host.
    ///
    /// # Errors
    /// `EPERM` for who is not.
    pub fn take() -> Result<Self, LayerError> {
        namespace::new_mounts().map_err(|error| error.remedy(crate::volume::NEEDS))?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .at(Layer::Mounts, || "keep what is mounted here from the host".to_owned())?;
        Ok(Self(()))
    }
}
