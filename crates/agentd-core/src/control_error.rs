//! The error of one isolation mechanism: the control, the call, the errno, the remedy and the source.

use crate::{remedy::Remedy, sources::with_sources};
use serde::{Deserialize, Serialize};
use std::{error::Error, fmt, io, sync::Arc};

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
    /// The objects of grants. This control fails if a path leads to an object other than the granted one, even if the caller
    /// accepts missing controls.
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

/// A control that could not be applied. The supervisor, the launcher and the library exchange this error; all fields except the
/// source cross the boundary of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlError {
    /// The control that failed.
    pub control: Control,
    /// The call and its object, e.g. `mount proc on /proc`.
    pub call: String,
    /// The errno of the call (`errno(3)`), if the failure has one.
    pub errno: Option<i32>,
    /// The remedy. Serialised as a string, empty for [`Remedy::None`].
    pub remedy: Remedy,
    /// The error that caused this one, in the process where it happened. Shared, because this error is cloned.
    #[serde(skip)]
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ControlError {
    /// Creates an error of `control` in `call` that has no remedy.
    pub fn new(control: Control, call: impl Into<String>, errno: Option<i32>) -> Self {
        Self { control, call: call.into(), errno, remedy: Remedy::None, source: None }
    }

    /// Creates an error of `control` in `call` that was caused by `source` and has no remedy. The errno is that of the first
    /// operating system error among `source` and its sources. Without one, the messages of `source` and its sources become
    /// the end of `call`, because `source` does not cross the boundary of a process.
    pub fn caused_by(control: Control, call: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        let errno = errno(&source);
        let mut call = call.into();
        if errno.is_none() {
            call = format!("{call}: {}", with_sources(&source));
        }
        Self { source: Some(Arc::new(source)), ..Self::new(control, call, errno) }
    }

    /// Sets the remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Remedy::from(remedy.into());
        self
    }

    /// Applies `change` to every text of the error.
    #[must_use]
    pub fn map_texts(self, change: impl Fn(&str) -> String) -> Self {
        let Self { control, call, errno, remedy, source } = self;
        Self { control, call: change(&call), errno, remedy: change(remedy.as_str()).into(), source }
    }
}

/// Returns the errno of the first operating system error among `error` and its sources.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.control, self.call)?;
        if let Some(errno) = self.errno {
            write!(f, ": {}", io::Error::from_raw_os_error(errno))?;
        }
        write!(f, "{}", self.remedy)
    }
}

impl Error for ControlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Compares all fields except for the source, which does not cross the boundary of a process.
impl PartialEq for ControlError {
    fn eq(&self, other: &Self) -> bool {
        (self.control, &self.call, self.errno, &self.remedy) == (other.control, &other.call, other.errno, &other.remedy)
    }
}

impl Eq for ControlError {}
