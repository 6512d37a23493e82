//! Errors that name the failed control, the call, the errno and the remedy.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An isolation mechanism, or a step of creating a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Control {
    /// User, pid, ipc, uts, net, mount and cgroup namespaces (`namespaces(7)`).
    Namespaces,
    /// The id maps of the sandbox and of its granted mounts.
    Idmap,
    /// The mounts in the sandbox's private mount namespace.
    Mounts,
    /// The objects of grants. This control fails if a path leads to another object than the granted one; it is never degraded.
    Grants,
    /// The network inside the sandbox.
    Network,
    /// Landlock (`landlock(7)`).
    Landlock,
    /// The system call filter (`seccomp(2)`).
    Seccomp,
    /// Capability sets, no_new_privs, dumpable, keyring.
    Privileges,
    /// Control groups (`cgroups(7)`).
    Cgroup,
    /// Resource limits (`setrlimit(2)`).
    Rlimits,
    /// Creating and preparing the processes of a sandbox, and the channel to them.
    Process,
    /// Executing a command.
    Exec,
    /// The file system on disk that holds a sandbox's changes.
    Volume,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::Idmap => "idmap",
            Self::Mounts => "mounts",
            Self::Grants => "grants",
            Self::Network => "network",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Privileges => "privileges",
            Self::Cgroup => "cgroup",
            Self::Rlimits => "rlimits",
            Self::Process => "process",
            Self::Exec => "exec",
            Self::Volume => "volume",
        })
    }
}

/// A control that could not be applied. The supervisor, the launcher and the library exchange this error unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// The control that failed.
    #[serde(rename = "layer")]
    pub control: Control,
    /// The call and its object, e.g. `mount proc on /proc`.
    pub call: String,
    /// The errno of the call (`errno(3)`), if the failure has one.
    pub errno: Option<i32>,
    /// Advice to the user; empty if there is none.
    pub remedy: String,
}

impl ControlError {
    /// Creates an error of `control` in `call`, without advice.
    pub fn new(control: Control, call: impl Into<String>, errno: Option<i32>) -> Self {
        Self { control, call: call.into(), errno, remedy: String::new() }
    }

    /// Adds advice to the error.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.control, self.call)?;
        if let Some(errno) = self.errno {
            write!(f, ": {}", std::io::Error::from_raw_os_error(errno))?;
        }
        if !self.remedy.is_empty() {
            write!(f, " — {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for ControlError {}

/// The reason why a backend, a sandbox or an exec could not satisfy a request.
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
    #[error("cannot register isolation backend '{name}': {reason}")]
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
    #[error("{0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A control could not be applied; no command was run.
    #[error(transparent)]
    Control(ControlError),
    /// The spec or the command requests something impossible.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The invalid part of the request.
        what: String,
        /// The problem, and a valid alternative.
        reason: String,
    },
    /// The path of a grant leads to another object than the granted one; no command was run. The control is [`Control::Grants`].
    #[error(transparent)]
    GrantChanged(ControlError),
    /// A program or file that the backend needs is not installed.
    #[error("backend '{backend}' is not available: {reason}")]
    Unavailable {
        /// Canonical backend name.
        backend: String,
        /// The missing part, and the command that provides it.
        reason: String,
    },
    /// The backend does not support the operation.
    #[error("backend '{backend}' does not support {operation}")]
    Unsupported {
        /// Canonical backend name.
        backend: String,
        /// The requested operation.
        operation: &'static str,
    },
    /// The command could not be started.
    #[error("{program}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Spawn {
        /// The program as given.
        program: String,
        /// `ENOENT` if the program was not found, `EACCES` if it is not executable, and so on.
        errno: i32,
    },
    /// The sandbox was destroyed, dropped or replaced.
    #[error("the sandbox is gone: {0} — create another sandbox")]
    SandboxGone(String),
    /// The connection to the sandbox's supervisor failed, and the sandbox was killed.
    #[error("the supervisor of the sandbox died: {0} — create another sandbox")]
    SupervisorDied(String),
    /// The connection to the launcher failed, and all its sandboxes were killed. Creating the next sandbox starts another
    /// launcher.
    #[error("the launcher died: {0} — create another sandbox")]
    LauncherDied(String),
    /// The virtual machine of the sandbox, its agent or its monitor ended, stalled or broke the protocol. The machine was killed.
    #[error("the virtual machine of the sandbox was lost: {0} — create another sandbox")]
    MachineLost(String),
    /// The connection to the daemon, the background process that keeps named sandboxes, failed.
    #[error("the sandbox daemon died: {0} — run the command again")]
    DaemonDied(String),
    /// The sandbox has too many unfinished requests, and this one was not sent. The sandbox is unchanged.
    #[error("the sandbox is busy: {0} — wait until earlier commands and transfers have ended, then try again")]
    Busy(String),
    /// The outcome of an exec was already returned.
    #[error("wait() was already called on this exec")]
    AlreadyWaited,
    /// A part of agentd itself failed.
    #[error("internal error: {0} — report this as a bug of agentd, with the output of `agentd doctor`")]
    Internal(String),
    /// The embedding program installed no role handler, so no helper process can be started.
    #[error(
        "cannot start a helper process: this program has no role handler — call agentd::isolation::take_role() first in main"
    )]
    NoRoleHandler,
    /// The pool was drained and returns no more sandboxes.
    #[error("the pool has been drained — create another pool")]
    PoolDrained,
    /// A file operation inside the sandbox failed.
    #[error("{path}: {}", std::io::Error::from_raw_os_error(*.errno))]
    File {
        /// The path inside the sandbox.
        path: String,
        /// The errno of the failing call.
        errno: i32,
    },
    /// No backend proves the isolation that the caller requires.
    #[error("no backend proves {missing} on this machine — run `agentd doctor` to see why")]
    Requirement {
        /// The bits that no backend proved.
        missing: String,
    },
    /// The peer of the channel violated the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// An operating system call that belongs to no control failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation that failed.
        context: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl IsolationError {
    /// Wraps an error of an embedding program, which becomes the source. Boxed errors convert with `From`.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Returns the cause if the sandbox, or a process that it needs, was lost.
    pub fn loss(&self) -> Option<&str> {
        match self {
            Self::SandboxGone(cause)
            | Self::SupervisorDied(cause)
            | Self::LauncherDied(cause)
            | Self::MachineLost(cause)
            | Self::DaemonDied(cause) => Some(cause),
            _ => None,
        }
    }

    /// Returns whether the sandbox, or a process that it needs, was lost.
    pub fn is_loss(&self) -> bool {
        self.loss().is_some()
    }
}

impl From<ControlError> for IsolationError {
    fn from(error: ControlError) -> Self {
        match error.control {
            Control::Grants => Self::GrantChanged(error),
            _ => Self::Control(error),
        }
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for IsolationError {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Other(error)
    }
}
