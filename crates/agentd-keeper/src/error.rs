//! What can go wrong between a client and the keeper.

use crate::protocol::Failure;
use agentd_core::IsolationError;
use agentd_isolation::layered::LayeredError;
use agentd_sandboxes::StateError;
use agentd_supervisor::channel::ChannelError;
use std::{io, path::PathBuf};

/// Why a named sandbox could not be asked for something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The keeper could not be started or reached.
    #[error("the keeper of the sandboxes in {}: {context}: {source}", place.display())]
    Unreachable {
        /// Where its sandboxes are.
        place: PathBuf,
        /// What was tried.
        context: &'static str,
        /// What came of it.
        #[source]
        source: io::Error,
    },
    /// It ended, or spoke nonsense.
    #[error("the keeper is gone: {0} — what was acknowledged is kept; try again")]
    Lost(#[from] ChannelError),
    /// It was started by another build of agentd.
    #[error(
        "the keeper that runs speaks version {0} of its protocol, this agentd another: end that keeper with SIGTERM; its sandboxes stay"
    )]
    Version(u32),
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// The state on disk.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sandbox.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
}

impl From<LayeredError> for KeeperError {
    fn from(error: LayeredError) -> Self {
        match error {
            LayeredError::State(error) => Self::State(error),
            LayeredError::Isolation(error) => Self::Isolation(error),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<KeeperError> for Failure {
    fn from(error: KeeperError) -> Self {
        match error {
            KeeperError::Isolation(IsolationError::Spawn { program, errno }) => Self::Spawn { program, errno },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for KeeperError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Spawn { program, errno } => Self::Isolation(IsolationError::Spawn { program, errno }),
            Failure::Version(version) => Self::Version(version),
            Failure::Other(text) => Self::Refused(text),
        }
    }
}
