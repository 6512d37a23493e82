//! Sandboxes whose changes are layers on disk, so that they can be saved, restored and forked. `agentd_sandboxes` manages the
//! layers; processes are started over the layers and ended as needed.
//!
//! - [`runtime`]: the processes of one sandbox, started on demand and ended when its layers change. The daemon (`agentd-daemon`)
//!   also uses it for named sandboxes.
//! - [`flows`]: the record of a sandbox's flows on disk.
//! - `layer_store`: the folder for unnamed sandboxes, whose layers are removed with them.
//! - `sandbox`: a layered sandbox behind the [`agentd_core::Sandbox`] interface.

pub mod flows;
mod layer_store;
pub mod runtime;
mod sandbox;

pub(crate) use layer_store::LayerStore;
pub(crate) use sandbox::LayeredSandbox;

use agentd_core::IsolationError;
use agentd_sandboxes::StoreError;

/// The error of an operation on a layered sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayeredError {
    /// An error of the sandbox's layers or records on disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An error of the sandbox's processes.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
}

impl From<LayeredError> for IsolationError {
    fn from(error: LayeredError) -> Self {
        match error {
            LayeredError::Isolation(error) => error,
            LayeredError::Store(error @ StoreError::NoSnapshot { .. }) => {
                Self::Invalid { what: "snapshot".to_owned(), reason: error.to_string() }
            }
            LayeredError::Store(error) => {
                Self::Io { context: "access the layers of a sandbox".to_owned(), source: std::io::Error::other(error) }
            }
        }
    }
}
