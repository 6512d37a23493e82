//! What could not be done with a file.

use std::{io, path::PathBuf};

/// A file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path:?}: {source}")]
pub struct DiskError {
    /// What was being done.
    pub doing: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Names what was being done to which file when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, DiskError> {
        self.map_err(|error| DiskError { doing, path: path.into(), source: error.into() })
    }
}
