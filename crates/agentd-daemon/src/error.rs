//! Errors between a client and the daemon.

use crate::protocol::{Failure, VERSION};
use agentd_core::IsolationError;
use agentd_isolation::layered::LayeredError;
use agentd_sandboxes::{Name, StoreError};
use agentd_supervisor::channel::ChannelError;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Reasons why a request about a named sandbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The daemon could not be started or reached.
    #[error("{context}: sandbox daemon of {}: {source} — `agentd daemon log` may show the cause", place.display())]
    Unreachable {
        /// The folder of its sandboxes.
        place: PathBuf,
        /// The operation that failed.
        context: &'static str,
        /// The error of the operation.
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
    /// The daemon could not decode the request, although both sides have the same protocol version.
    #[error(
        "connect to the sandbox daemon: the daemon cannot decode the request, although both sides use protocol version \
         {VERSION} — run `agentd daemon stop`, which ends all running commands and keeps all files, then try again"
    )]
    Undecodable,
    /// The processes of a named sandbox were lost. Its files are kept, and the next use starts its processes again.
    #[error(
        "use sandbox {name}: its processes were lost: {cause} — the files of the sandbox were kept: check what the last command \
         has changed, then try again; the next command starts the sandbox again"
    )]
    ProcessesLost {
        /// The sandbox.
        name: Name,
        /// The cause.
        cause: String,
    },
    /// No interpreter runs in a named sandbox: it has ended, or the daemon that held it has.
    #[error("use the interpreter of sandbox {0}: it has ended, and its state is lost — remove the sandbox, and create another")]
    NoInterpreter(Name),
    /// A process of another user listens on the daemon's socket.
    #[error(
        "connect to the sandbox daemon: folder {}: the process that listens on the socket runs as uid {uid}, not as the user of \
         this command — run agentd as that user, or set AGENTD_DATA_DIR to a directory of your own", place.display()
    )]
    OtherUser {
        /// The folder with the socket.
        place: PathBuf,
        /// The user of the process. The overflow uid (65534) stands for every user that is not mapped in this user namespace.
        uid: u32,
    },
    /// The client is in namespaces other than those of the daemon, and the client or the daemon did not prove that it has the
    /// key.
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
         daemon (usually on the host), which ends all running commands and keeps all files, then try again; the next daemon \
         creates a key"
    )]
    NoKey(String),
    /// The daemon did not end.
    #[error("stop the sandbox daemon: {}folder {}: {reason} — {remedy}", process(*pid), place.display())]
    NotStopped {
        /// The process id of the daemon; `None` if it is not known.
        pid: Option<i32>,
        /// The folder with the daemon's lock.
        place: PathBuf,
        /// The reason why the daemon did not end.
        reason: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The daemon sent a reply that does not match the request.
    #[error(
        "receive the daemon's reply: unexpected message of kind {0} — run `agentd daemon stop`, which ends all running commands \
         and keeps all files, then try again"
    )]
    Unexpected(&'static str),
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
    /// The client finds no key with which it could verify the daemon.
    #[error(
        "finds no key to verify the daemon with (expected at {0}) — run agentd in the namespaces of the daemon (usually on the \
         host), or bind-mount the daemon's file daemon.key at the same path into the container or toolbox in which the client \
         runs"
    )]
    Missing(String),
    /// The daemon has not proven that it has the key that the client found.
    #[error(
        "the process that listens on the daemon's socket has not proven that it has the key {} — {}", .0.display(), share(.0)
    )]
    Impostor(PathBuf),
    /// The daemon did not answer the client in time.
    #[error(
        "the process that listens on the daemon's socket sent no proof in time — run `agentd daemon stop` in the namespaces of \
         the daemon (usually on the host), which ends all running commands and keeps all files, then try again"
    )]
    Silent,
    /// The client sent zeros in `Hello` instead of a random value, as a client in the daemon's own namespaces does. The daemon
    /// cannot ask such a client for a proof.
    #[error("presented no key — {}", share(.0))]
    None(PathBuf),
    /// The client has a different key.
    #[error("presented a wrong key — {}", share(.0))]
    Wrong(PathBuf),
    /// The client did not prove in time that it has the key.
    #[error("sent no complete message in time — try again; if that fails, use the build of agentd that started the daemon")]
    Late,
    /// Too many clients have not yet proven that they have the key.
    #[error("too many clients in other namespaces have not yet proven that they have the key — try again")]
    Many,
}

/// Returns the beginning of a message that names a process; empty if the process is not known.
fn process(pid: Option<i32>) -> String {
    pid.map(|pid| format!("process {pid}, ")).unwrap_or_default()
}

/// Returns the advice for a user whose client does not have the daemon's key, the file `key`.
fn share(key: &Path) -> String {
    format!(
        "run agentd in the namespaces of the daemon (usually on the host), or bind-mount {} at the same path into the container \
         or toolbox in which the client runs",
        key.display()
    )
}

impl DaemonError {
    /// Names the sandbox in the error of its lost processes. Replaces the remedy "create another sandbox", because this sandbox
    /// has kept its files.
    pub(crate) fn in_sandbox(self, name: &Name) -> Self {
        match self {
            Self::Layered(LayeredError::Isolation(error)) => match error.loss() {
                Some(cause) => Self::ProcessesLost { name: name.clone(), cause: cause.to_owned() },
                None => error.into(),
            },
            other => other,
        }
    }

    /// Returns a function that adds the failed operation to an I/O error of the daemon's own files.
    pub(crate) fn io(context: impl Into<String>) -> impl Fn(io::Error) -> Self {
        let context = context.into();
        move |source| IsolationError::Io { context: context.clone(), source }.into()
    }
}

impl From<StoreError> for DaemonError {
    fn from(error: StoreError) -> Self {
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
            DaemonError::ProcessesLost { name, cause } => Self::Lost { name, cause },
            DaemonError::NoInterpreter(name) => Self::NoInterpreter { name },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for DaemonError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Spawn { program, errno } => IsolationError::Spawn { program, errno }.into(),
            // The daemon also sends its version if it cannot decode a message.
            Failure::Version(VERSION) => Self::Undecodable,
            Failure::Version(version) => Self::Version(version),
            Failure::Lost { name, cause } => Self::ProcessesLost { name, cause },
            Failure::NoInterpreter { name } => Self::NoInterpreter(name),
            Failure::Other(text) => Self::Refused(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::MAX_FRAME;
    use agentd_supervisor::protocol::{decode, encode};

    /// Returns the message of the error that a client receives after `error` failed its request.
    fn received(error: DaemonError) -> String {
        let sent = encode(&Failure::from(error), 0).unwrap();
        let (failure, _, _) = decode::<Failure>(&sent, MAX_FRAME).unwrap().unwrap();
        DaemonError::from(failure).to_string()
    }

    #[test]
    fn loss_of_processes_names_sandbox_and_keeps_its_files() {
        let name: Name = "dev".parse().unwrap();
        let losses = [IsolationError::SupervisorDied, IsolationError::LauncherDied, IsolationError::MachineLost];
        for loss in losses.map(|loss| loss("end of stream".to_owned())) {
            let message = received(DaemonError::from(loss).in_sandbox(&name));
            assert!(message.starts_with("use sandbox dev: its processes were lost: end of stream — "), "{message}");
            assert!(message.contains("files of the sandbox were kept") && !message.contains("create another"), "{message}");
        }
        let other = IsolationError::Busy("full".to_owned());
        let message = other.to_string();
        assert_eq!(received(DaemonError::from(other).in_sandbox(&name)), message);
    }

    #[test]
    fn version_of_this_build_is_not_a_mismatch() {
        let message = DaemonError::from(Failure::Version(VERSION)).to_string();
        assert!(message.contains("cannot decode the request") && !message.contains("mismatch"), "{message}");
        assert!(DaemonError::from(Failure::Version(VERSION + 1)).to_string().contains("mismatch"));
    }
}
