//! Errors that name the layer, the call, the errno and the remedy.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One isolation mechanism, or one step of making a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layer {
    /// User, pid, ipc, uts, net, mount and cgroup namespaces (`namespaces(7)`).
    Namespaces,
    /// The id maps of the sandbox and of its granted mounts.
    Idmap,
    /// The private mount view.
    Mounts,
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
    /// Making the process, and the channel to it.
    Process,
    /// Executing a command.
    Exec,
    /// The file system on disk that holds what a sandbox writes.
    Volume,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::Idmap => "idmap",
            Self::Mounts => "mounts",
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

/// A layer that could not be applied. It crosses the process boundary between supervisor, launcher and library as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerError {
    /// The layer that failed.
    pub layer: Layer,
    /// The call and its object, e.g. `mount proc on /proc`.
    pub call: String,
    /// The errno of that call, when it was one (`errno(3)`).
    pub errno: Option<i32>,
    /// What the user can do about it; empty when there is nothing to advise.
    pub remedy: String,
}

impl LayerError {
    /// An error of `layer` in `call`.
    pub fn new(layer: Layer, call: impl Into<String>, errno: Option<i32>) -> Self {
        Self { layer, call: call.into(), errno, remedy: String::new() }
    }

    /// The same error with advice.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer, self.call)?;
        if let Some(errno) = self.errno {
            write!(f, ": {}", std::io::Error::from_raw_os_error(errno))?;
        }
        if !self.remedy.is_empty() {
            write!(f, " — {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for LayerError {}

/// Why a backend, a sandbox or an exec could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IsolationError {
    /// The name is not in the registry.
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
        /// Why.
        reason: String,
    },
    /// A layer could not be applied; nothing was run.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The spec or command asks for something that cannot be.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// Which part of the request.
        what: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Something that the backend drives is not installed.
    #[error("backend '{backend}' is not available: {reason}")]
    Unavailable {
        /// Canonical backend name.
        backend: String,
        /// What is missing, and the command that provides it.
        reason: String,
    },
    /// The backend has no such ability.
    #[error("backend '{backend}' does not support {operation}")]
    Unsupported {
        /// Canonical backend name.
        backend: String,
        /// The operation asked for.
        operation: &'static str,
    },
    /// The command could not be started.
    #[error("{program}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Spawn {
        /// The program as given.
        program: String,
        /// `ENOENT` when not found, `EACCES` when not executable, ….
        errno: i32,
    },
    /// The sandbox is gone: destroyed, or its supervisor or launcher died.
    #[error("the sandbox is gone: {0}")]
    Lost(String),
    /// A pool of sandboxes gives none any more.
    #[error("the pool has been drained — make another one")]
    PoolDrained,
    /// A file operation inside the sandbox failed.
    #[error("{path}: {}", std::io::Error::from_raw_os_error(*.errno))]
    File {
        /// The path inside the sandbox.
        path: String,
        /// The errno of the failing call.
        errno: i32,
    },
    /// No backend satisfies what the caller requires.
    #[error("no backend proves {missing} on this machine — see `agentd doctor`")]
    Requirement {
        /// The bits that no backend proved.
        missing: String,
    },
    /// The other side of the channel spoke nonsense.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// An operating system call outside any layer failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// The cause.
        source: std::io::Error,
    },
}
