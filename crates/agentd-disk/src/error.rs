//! The error of a failed file operation.

use std::{io, path::PathBuf};

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path:?}: {source}")]
pub struct DiskError {
    /// The operation.
    pub operation: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Adds the operation and the file to an I/O error.
pub trait FileContext<T> {
    /// Returns the value, or the error of `operation` on the file at `path`.
    ///
    /// # Errors
    /// If the result is an error.
    fn during(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> FileContext<T> for Result<T, E> {
    fn during(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T, DiskError> {
        self.map_err(|error| DiskError { operation, path: path.into(), source: error.into() })
    }
}
