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
    /// A process of another user listens on the daemon's socket.
    #[error(
        "connect to the sandbox daemon: folder {}: the process that listens there runs as uid {uid}, not as the user of this command \
         — run agentd as that user, or set AGENTD_DATA_DIR to a directory of your own", place.display()
    )]
    OtherUser {
        /// The folder with the socket.
        place: PathBuf,
        /// The user of the process. The overflow uid (65534) stands for every user that is not mapped in this user namespace.
        uid: u32,
    },
    /// The client is in other namespaces than the daemon, and one of them did not prove that it has the key.
    #[error("connect to the sandbox daemon: the client is in another {namespace} namespace, and {reason}")]
    Key {
        /// The kind of namespace.
        namespace: &'static str,
        /// The reason and the remedy.
        reason: KeyRefusal,
    },
    /// The daemon must prove that it has the key, and cannot read it.
    #[error(
        "connect to the sandbox daemon: the daemon cannot read its key: {0} — run `agentd daemon stop` in the namespaces of the \
         daemon; the next daemon creates a key"
    )]
    NoKey(String),
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
    /// The state on disk is missing or invalid, or the sandbox reported an error.
    #[error(transparent)]
    Layered(#[from] LayeredError),
}

/// The reasons why a client and a daemon in other namespaces do not trust each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefusal {
    /// The client finds no key with which the daemon could prove what it is.
    #[error(
        "finds no key to verify the daemon with — run agentd in the namespaces of the daemon, or make the file {0} of the daemon's \
         runtime or data folder readable in those of the client, at the same path"
    )]
    Missing(&'static str),
    /// The daemon has not proven that it has the key that the client found.
    #[error(
        "the process that listens there has not proven that it has the key {0} — run agentd in the namespaces of the daemon, or show \
         that file of the daemon in those of the client, at the same path"
    )]
    Impostor(&'static str),
    /// The daemon did not answer the client in time.
    #[error("the process that listens there sent no proof in time — run `agentd daemon stop` in its namespaces")]
    Silent,
    /// The client did not ask for proof, and so cannot give any.
    #[error(
        "presented no key — run agentd in the namespaces of the daemon, or make the file {} readable in those of the client, at \
         the same path", .0.display()
    )]
    None(PathBuf),
    /// The client has another key.
    #[error(
        "presented a wrong key — run agentd in the namespaces of the daemon, or show the file {} in those of the client, at the \
         same path", .0.display()
    )]
    Wrong(PathBuf),
    /// The client did not prove in time that it has the key.
    #[error("sent no complete message in time — use the build of agentd that started the daemon")]
    Late,
    /// Too many clients have not proven yet that they have the key.
    #[error("too many clients there have not presented a key yet — try again")]
    Many,
}

impl DaemonError {
    /// Returns a function that adds the failed operation to an I/O error of the daemon's own files.
    pub(crate) fn io(context: impl Into<String>) -> impl Fn(io::Error) -> Self {
        let context = context.into();
        move |source| IsolationError::Io { context: context.clone(), source }.into()
    }
}

impl From<StateError> for DaemonError {
    fn from(error: StateError) -> Self {
        LayeredError::from(error).into()
    }
}

impl From<IsolationError> for DaemonError {
    fn from(error: IsolationError) -> Self {
        LayeredError::from(error).into()
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Layered(LayeredError::Isolation(IsolationError::Spawn { program, errno })) => {
                Self::Spawn { program, errno }
            }
            DaemonError::Layered(LayeredError::Isolation(error)) => match error.loss() {
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
            Failure::Spawn { program, errno } => IsolationError::Spawn { program, errno }.into(),
            Failure::Version(version) => Self::Version(version),
            Failure::Lost(cause) => IsolationError::SandboxGone(cause).into(),
            Failure::Other(text) => Self::Refused(text),
        }
    }
}
