//! Errors between a client and the daemon.

use crate::protocol::{Failure, VERSION};
use agentd_core::IsolationError;
use agentd_isolation::layered::LayeredError;
use agentd_sandboxes::StateError;
use agentd_supervisor::channel::ChannelError;
use std::{io, path::PathBuf};

/// Reasons why a request about a named sandbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The daemon could not be started or reached.
    #[error("{context}: sandbox daemon of {}: {source} — read `agentd daemon log`", place.display())]
    Unreachable {
        /// The folder of its sandboxes.
        place: PathBuf,
        /// The operation that failed.
        context: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The connection was lost: the daemon ended, or sent an invalid message.
    #[error(
        "exchange messages with the sandbox daemon: {0} — check with `agentd sandbox ls` whether the request was carried out, \
         then try again; `agentd daemon log` may show the cause"
    )]
    Lost(#[from] ChannelError),
    /// The daemon was started by another build of agentd.
    #[error(
        "connect to the sandbox daemon: protocol version mismatch (daemon {0}, client {VERSION}): another build of agentd \
         started it — run `agentd daemon stop`, which ends all running commands and keeps all files, then try again"
    )]
    Version(u32),
    /// The daemon did not end.
    #[error("stop the sandbox daemon: process {pid}, folder {}: {reason} — {remedy}", place.display())]
    NotStopped {
        /// Its process id.
        pid: i32,
        /// The folder with its lock.
        place: PathBuf,
        /// The reason why the daemon did not end.
        reason: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The daemon refused the request.
    #[error("{0}")]
    Refused(String),
    /// The state on disk is missing or invalid.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sandbox reported an error.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
}

impl From<LayeredError> for DaemonError {
    fn from(error: LayeredError) -> Self {
        match error {
            LayeredError::State(error) => Self::State(error),
            LayeredError::Isolation(error) => Self::Isolation(error),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Isolation(IsolationError::Spawn { program, errno }) => Self::Spawn { program, errno },
            DaemonError::Isolation(error) => match error.loss() {
                Some(cause) => Self::Lost(cause.to_owned()),
                None => Self::Other(error.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for DaemonError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Spawn { program, errno } => Self::Isolation(IsolationError::Spawn { program, errno }),
            Failure::Version(version) => Self::Version(version),
            Failure::Lost(cause) => Self::Isolation(IsolationError::SandboxGone(cause)),
            Failure::Other(text) => Self::Refused(text),
        }
    }
}
