//! Errors of copying files.

use agentd_core::IsolationError;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// The reason why files could not be copied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CopyError {
    /// The bytes are not a valid list of entries.
    #[error("{0}")]
    Malformed(String),
    /// A name does not denote a place below the copied directory.
    #[error("{path:?}: {why}")]
    Name { path: PathBuf, why: &'static str },
    /// The path was granted read-only, is protected, or was not granted.
    #[error("{0:?}: the guest has changed this path, although it is read-only, protected or not granted")]
    Forbidden(PathBuf),
    /// A limit of the copy is exceeded.
    #[error("more than {max} {what}")]
    TooMuch { what: &'static str, max: u64 },
    /// A system call failed.
    #[error("{call} {path:?}: {errno}")]
    System {
        call: &'static str,
        path: PathBuf,
        #[source]
        errno: Errno,
    },
}

impl CopyError {
    /// Converts to the error that the caller receives. `what` is the activity that failed.
    pub fn into_isolation(self, what: &str) -> IsolationError {
        match self {
            Self::System { ref call, ref path, errno } => {
                let context = format!("{what}: {call} {}", path.display());
                IsolationError::Io { context, source: errno.into() }
            }
            Self::TooMuch { what: unit, max } => IsolationError::Invalid {
                what: "grants".to_owned(),
                reason: format!(
                    "{what}: more than {max} {unit} — grant a smaller directory, request a larger disk (--disk), or use the \
                     container backend, which copies nothing"
                ),
            },
            other => IsolationError::Protocol(format!("{what}: {other}")),
        }
    }

    /// Returns true for errors that only a guest violating the protocol can cause.
    pub fn is_hostile(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Name { .. } | Self::Forbidden(_))
    }
}

/// Adds the call and the path to an errno.
pub(super) trait ErrnoContext<T> {
    fn during(self, call: &'static str, path: &Path) -> Result<T, CopyError>;
}

impl<T> ErrnoContext<T> for Result<T, Errno> {
    fn during(self, call: &'static str, path: &Path) -> Result<T, CopyError> {
        self.map_err(|errno| CopyError::System { call, path: path.to_owned(), errno })
    }
}

impl<T> ErrnoContext<T> for std::io::Result<T> {
    fn during(self, call: &'static str, path: &Path) -> Result<T, CopyError> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).during(call, path)
    }
}
