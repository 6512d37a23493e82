//! The errors of setting up and opening an installation.

use std::{io, path::PathBuf};

/// An error of setting up or opening an installation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation and its object.
        context: String,
        /// The cause.
        source: io::Error,
    },
    /// A required program is not installed on this host.
    #[error("find a program: {program}: not installed — {remedy}")]
    NoProgram {
        /// The program.
        program: String,
        /// The way to install the program.
        remedy: String,
    },
    /// A program on this host failed.
    #[error("{command}: {detail}")]
    Program {
        /// The command line.
        command: String,
        /// The exit status and the last lines of output.
        detail: String,
    },
    /// A download is missing, and fetching is not allowed.
    #[error(
        "find a download: {what}: not in {} — run `agentd gondolin setup` on a host with network access, \
         and pass a copy of its `downloads` folder with --offline",
        place.display()
    )]
    NotDownloaded {
        /// The missing file.
        what: String,
        /// The directory that was searched.
        place: PathBuf,
    },
    /// There is no installation, or an incomplete one, or one of another version.
    #[error("open the Gondolin installation: {}: {reason} — run `agentd gondolin setup`", path.display())]
    NotInstalled {
        /// The directory or the file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// The kernel or the file system of the guest could not be created.
    #[error(transparent)]
    Asset(#[from] agentd_vm::AssetError),
}

/// Adds the failed operation to an I/O error.
pub(crate) trait IoContext<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::Io { context: context(), source: error.into() })
    }
}
