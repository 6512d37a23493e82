//! Why there is no installation.

use std::{io, path::PathBuf};

/// Why Gondolin could not be set up or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A call of the system failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, and to what.
        context: String,
        /// Its cause.
        source: io::Error,
    },
    /// A program of this machine is not there.
    #[error("there is no {program} — {remedy}")]
    NoProgram {
        /// The program.
        program: String,
        /// What provides it.
        remedy: String,
    },
    /// A program of this machine failed.
    #[error("{command}: {detail}")]
    Program {
        /// What was called.
        command: String,
        /// How it ended, and what it said last.
        detail: String,
    },
    /// Something that was to be downloaded is not there, and may not be fetched.
    #[error(
        "{}: no {what} — run `agentd gondolin setup` where there is a network, and give a copy of its `downloads` with --offline",
        place.display()
    )]
    NotDownloaded {
        /// What is missing.
        what: String,
        /// Where it was looked for.
        place: PathBuf,
    },
    /// There is no installation, or not a whole one of this version.
    #[error("{}: {reason} — make it: agentd gondolin setup", path.display())]
    NotInstalled {
        /// The directory or the file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The kernel or the file system of the guest could not be made.
    #[error(transparent)]
    Asset(#[from] agentd_vm::AssetError),
}

/// Says what was being done when a call failed.
pub(crate) trait Context<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::Io { context: context(), source: error.into() })
    }
}
