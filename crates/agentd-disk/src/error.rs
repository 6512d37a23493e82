//! The error of a failed file operation.

use std::{io, path::PathBuf};

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path:?}: {source}")]
pub struct DiskError {
    /// The operation.
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Adds the operation and the file to an I/O error.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, DiskError> {
        self.map_err(|error| DiskError { doing, path: path.into(), source: error.into() })
    }
}
