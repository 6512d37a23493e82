//! Sandboxes whose changes are layers on disk, and which can therefore be saved, taken back and multiplied: what they are is on disk
//! (`agentd_sandboxes`), and their processes come and go over that.
//!
//! - [`slot`]: the processes of one, started when they are needed and ended when its layers change. The keeper has its named sandboxes in
//!   such slots, too.
//! - `home`: where the layers of a library's sandboxes are, which go with them.
//! - `sandbox`: such a sandbox, like any other to its user.

mod home;
mod sandbox;
pub mod slot;

pub(crate) use home::Home;
pub(crate) use sandbox::LayeredSandbox;

use agentd_core::IsolationError;
use agentd_sandboxes::StateError;

/// Why something could not be done with a sandbox of layers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayeredError {
    /// What it is on disk.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its processes.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
}

impl From<LayeredError> for IsolationError {
    fn from(error: LayeredError) -> Self {
        match error {
            LayeredError::Isolation(error) => error,
            LayeredError::State(error @ StateError::NoSnapshot { .. }) => {
                Self::Invalid { what: "snapshot".to_owned(), reason: error.to_string() }
            }
            LayeredError::State(error) => {
                Self::Io { context: "the layers of a sandbox".to_owned(), source: std::io::Error::other(error) }
            }
        }
    }
}
