//! The error of backends, sandboxes and execs.

use crate::{
    control_error::{Control, ControlError},
    remedy::Remedy,
    sources::with_sources,
};
use std::{
    error::Error,
    io::{self, ErrorKind},
};

/// The reason why a backend, a sandbox or an exec could not satisfy a request. Each message is complete: it has the form
/// `what failed: object: cause — what to do`, and includes the messages of its sources. A program prints the message alone, and
/// uses the sources to find an error by its type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IsolationError {
    /// The name is not in the registry. The message is part of the public contract (`contract/tests/registry.rs`).
    #[error("Unknown isolation backend '{name}'. Available backends: {available}")]
    UnknownBackend {
        /// The name as given.
        name: String,
        /// Canonical names, comma-separated.
        available: String,
    },
    /// A backend could not be registered.
    #[error("register isolation backend '{name}': {reason}{remedy}", remedy = self.remedy())]
    Registration {
        /// The name or alias at fault.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A registered backend could not be created. The message is part of the public contract (`contract/tests/registry.rs`).
    #[error("Failed to initialize isolation backend '{name}': {source}")]
    Initialize {
        /// Canonical backend name.
        name: String,
        /// The cause.
        source: Box<IsolationError>,
    },
    /// An error of a backend that an embedding program provides.
    #[error("{}", with_sources(&**.0))]
    Other(#[source] Box<dyn Error + Send + Sync>),
    /// A control could not be applied; no command was run.
    #[error(transparent)]
    Control(ControlError),
    /// The spec or the command requests something impossible.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The invalid part of the request.
        what: String,
        /// The problem, and after ` — ` a valid alternative.
        reason: String,
    },
    /// The path of a grant leads to an object other than the granted one; no command was run. The control is [`Control::Grants`].
    #[error(transparent)]
    GrantChanged(ControlError),
    /// A program, file or device that the backend needs is missing, or a machine of the backend does not start.
    #[error("backend '{backend}' is not available: {reason}")]
    Unavailable {
        /// Canonical backend name.
        backend: String,
        /// The missing part or the failure, and after ` — ` the command that provides it or shows the cause.
        reason: String,
    },
    /// The backend does not support the operation.
    #[error("{operation} of a sandbox: backend '{backend}' does not support this operation{remedy}", remedy = self.remedy())]
    Unsupported {
        /// Canonical backend name.
        backend: String,
        /// The requested operation.
        operation: &'static str,
    },
    /// The command could not be started.
    #[error("start the command: {program}: {}{remedy}", io::Error::from_raw_os_error(*.errno), remedy = self.remedy())]
    Spawn {
        /// The program as given.
        program: String,
        /// `ENOENT` if the program was not found, `EACCES` if it is not executable, and so on.
        errno: i32,
    },
    /// The sandbox was destroyed, dropped or replaced, and the caller can no longer use it.
    #[error("the sandbox is gone: {0}{remedy}", remedy = self.remedy())]
    SandboxGone(String),
    /// The connection to the sandbox's supervisor failed, and the sandbox was killed.
    #[error("the supervisor of the sandbox died: {0}{remedy}", remedy = self.remedy())]
    SupervisorDied(String),
    /// The connection to the launcher failed, and all its sandboxes were killed. Creating the next sandbox starts another
    /// launcher.
    #[error("the launcher died: {0}{remedy}", remedy = self.remedy())]
    LauncherDied(String),
    /// The virtual machine of the sandbox, its agent or its monitor ended, stalled or broke the protocol. The machine was killed.
    #[error("the virtual machine of the sandbox was lost: {0}{remedy}", remedy = self.remedy())]
    MachineLost(String),
    /// The connection to the daemon, the background process that keeps named sandboxes, failed while a command ran.
    #[error(
        "run a command in a named sandbox: the connection to the sandbox daemon was lost: {0}{remedy}",
        remedy = self.remedy()
    )]
    DaemonLost(String),
    /// The sandbox has too many unfinished requests, or another snapshot of it is being taken. This request was not carried out,
    /// and the sandbox is unchanged.
    #[error("the sandbox is busy: {0}{remedy}", remedy = self.remedy())]
    Busy(String),
    /// The outcome of an exec was already returned.
    #[error("wait for a command: wait() was already called on this exec{remedy}", remedy = self.remedy())]
    AlreadyWaited,
    /// A part of agentd itself failed.
    #[error("internal error: {0}{remedy}", remedy = self.remedy())]
    Internal(String),
    /// The embedding program installed no role handler, so no helper process can be started.
    #[error("start a helper process: this program has no role handler{remedy}", remedy = self.remedy())]
    NoRoleHandler,
    /// The pool was drained and returns no more sandboxes.
    #[error("take a sandbox: the pool has been drained{remedy}", remedy = self.remedy())]
    PoolDrained,
    /// A file operation inside the sandbox failed.
    #[error("access a file in the sandbox: {path}: {}{remedy}", io::Error::from_raw_os_error(*.errno), remedy = self.remedy())]
    File {
        /// The path inside the sandbox.
        path: String,
        /// The errno of the failing call.
        errno: i32,
    },
    /// No backend proves one of the claims that the caller requires.
    #[error("select a backend: no backend proves {missing} on this host{remedy}", remedy = self.remedy())]
    Requirement {
        /// The claims that no backend proved.
        missing: String,
    },
    /// Each required claim is proven by at least one backend, but no backend proves all of them.
    #[error("select a backend: no single backend proves all of {claims} on this host{remedy}", remedy = self.remedy())]
    Combination {
        /// The required claims.
        claims: String,
    },
    /// The peer of the channel violated the protocol.
    #[error("protocol error: {0}{remedy}", remedy = self.remedy())]
    Protocol(String),
    /// An operating system call that belongs to no control failed.
    #[error("{context}: {source}{remedy}", remedy = self.added_remedy())]
    Io {
        /// The operation that failed.
        context: String,
        /// The cause.
        source: io::Error,
    },
}

impl IsolationError {
    /// Wraps an error of an embedding program, which becomes the source. Boxed errors convert with `From`.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Returns what a user can do. A variant that holds another error, or the text of one, has the remedy of that error.
    pub fn remedy(&self) -> Remedy {
        let text = |text: &str| Remedy::Text(text.to_owned());
        match self {
            // The message is fixed by the public contract, and lists the valid names.
            Self::UnknownBackend { .. } => Remedy::None,
            Self::Registration { .. } => text("register it under another name"),
            Self::Initialize { source, .. } => source.remedy(),
            Self::Other(source) => Remedy::in_message(&with_sources(&**source)),
            Self::Control(error) | Self::GrantChanged(error) => error.remedy.clone(),
            Self::Invalid { reason, .. } | Self::Unavailable { reason, .. } => Remedy::in_message(reason),
            Self::Unsupported { .. } => text("use another backend (`agentd doctor` lists them)"),
            Self::Spawn { errno, .. } => start_remedy(*errno),
            Self::SandboxGone(_) | Self::SupervisorDied(_) | Self::LauncherDied(_) | Self::MachineLost(_) => {
                text("create another sandbox")
            }
            Self::DaemonLost(_) => text(
                "the command may have run: check its effects before you run it again; `agentd daemon log` may show the cause",
            ),
            Self::Busy(_) => text("wait until earlier commands and transfers have ended, then try again"),
            Self::AlreadyWaited => text("use the outcome that the first call returned"),
            Self::Internal(_) => text("report this as a bug of agentd, with the output of `agentd doctor`"),
            Self::NoRoleHandler => text("call agentd::isolation::take_role() first in main"),
            Self::PoolDrained => text("create another pool"),
            Self::File { errno, .. } => file_remedy(*errno),
            Self::Requirement { .. } => text("run `agentd doctor` to see why"),
            Self::Combination { .. } => text("require fewer claims (`agentd doctor` shows which backend proves which)"),
            // The peer is hostile or defective, and agentd has closed the connection.
            Self::Protocol(_) => text("create another sandbox"),
            Self::Io { source, .. } => match Remedy::in_message(&source.to_string()) {
                Remedy::None => self.added_remedy(),
                inner => inner,
            },
        }
    }

    /// Returns the remedy of an operating system error whose cause is the state of the host. The message of another source is
    /// complete.
    fn added_remedy(&self) -> Remedy {
        let text = |text: &str| Remedy::Text(text.to_owned());
        match self {
            Self::Io { source, .. } if source.raw_os_error().is_some() => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => text("free some space on that file system"),
                ErrorKind::OutOfMemory => text("free some memory"),
                _ => Remedy::None,
            },
            _ => Remedy::None,
        }
    }

    /// Returns the cause if the sandbox, or a process that it needs, was lost.
    pub fn loss(&self) -> Option<&str> {
        match self {
            Self::SandboxGone(cause)
            | Self::SupervisorDied(cause)
            | Self::LauncherDied(cause)
            | Self::MachineLost(cause)
            | Self::DaemonLost(cause) => Some(cause),
            _ => None,
        }
    }

    /// Returns whether the sandbox, or a process that it needs, was lost.
    pub fn is_loss(&self) -> bool {
        self.loss().is_some()
    }
}

/// Returns the remedy for a command that could not be started.
fn start_remedy(errno: i32) -> Remedy {
    let text = match io::Error::from_raw_os_error(errno).kind() {
        ErrorKind::NotFound => "check its name and PATH; grant its directory if it is not in the sandbox",
        ErrorKind::PermissionDenied => "make it executable (chmod +x), or grant its directory",
        ErrorKind::ArgumentListTooLong => "pass fewer or shorter arguments and environment variables",
        _ => return Remedy::None,
    };
    Remedy::Text(text.to_owned())
}

/// Returns the remedy for a file of a sandbox that could not be read or written.
fn file_remedy(errno: i32) -> Remedy {
    // `ErrorKind` has no stable kind for this error.
    const ELOOP: i32 = 40;
    let text = match io::Error::from_raw_os_error(errno).kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "check the path, and create its directory in the sandbox",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "use a path that commands of the sandbox may access, such as one below /tmp"
        }
        ErrorKind::IsADirectory => "use the path of a regular file",
        _ if errno == ELOOP => "use the path to which the symbolic link leads",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "remove files in the sandbox, or create one with a larger --disk",
        ErrorKind::FileTooLarge => "use a smaller file",
        _ => return Remedy::None,
    };
    Remedy::Text(text.to_owned())
}

impl From<ControlError> for IsolationError {
    fn from(error: ControlError) -> Self {
        match error.control {
            Control::Grants => Self::GrantChanged(error),
            _ => Self::Control(error),
        }
    }
}

impl From<Box<dyn Error + Send + Sync>> for IsolationError {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
