//! Why files could not be copied.

use agentd_core::IsolationError;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Why files could not be copied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CopyError {
    /// It is no list of entries.
    #[error("{0}")]
    Malformed(String),
    /// A name that is no place below what is copied.
    #[error("{path:?}: {why}")]
    Name { path: PathBuf, why: &'static str },
    /// It was granted read-only, is protected, or was not granted.
    #[error("{0:?} may not be changed")]
    Forbidden(PathBuf),
    /// More than may be copied at once.
    #[error("more than {most} {what}")]
    TooMuch { what: &'static str, most: u64 },
    /// The file system refused.
    #[error("{call} {path:?}: {errno}")]
    System { call: &'static str, path: PathBuf, errno: Errno },
}

impl CopyError {
    /// As the caller meets it. `what` was being done.
    pub fn meet(self, what: &str) -> IsolationError {
        match self {
            Self::System { ref call, ref path, errno } => {
                let context = format!("{what}: {call} {}", path.display());
                IsolationError::Io { context, source: errno.into() }
            }
            Self::TooMuch { what: unit, most } => IsolationError::Invalid {
                what: "grants".to_owned(),
                reason: format!(
                    "{what}: more than {most} {unit} — grant a smaller directory, ask for a larger disk (--disk), or use the container backend, \
                     which copies nothing"
                ),
            },
            other => IsolationError::Protocol(format!("{what}: {other}")),
        }
    }

    /// Whether only a guest that does not keep to the protocol sends this.
    pub fn is_hostile(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Name { .. } | Self::Forbidden(_))
    }
}

/// Names the call and the path of an errno.
pub(super) trait At<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, CopyError>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, CopyError> {
        self.map_err(|errno| CopyError::System { call, path: path.to_owned(), errno })
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, call: &'static str, path: &Path) -> Result<T, CopyError> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).at(call, path)
    }
}
