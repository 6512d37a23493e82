//! What can go wrong in the lab.

use std::{io, path::Path};

/// Why the lab failed; nothing that the command in it did.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program of this machine's did not do its part.
    #[error("{command}: {detail}")]
    Tool {
        /// How it was called.
        command: String,
        /// What it said, or why it could not be started.
        detail: String,
    },
    /// A call to the operating system.
    #[error("{call}: {source}")]
    Io {
        /// Which, with what.
        call: String,
        /// Its answer.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{file}: {detail}")]
    Format {
        /// Which.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// The machine was still running when its time was over.
    #[error("the machine was ended after {seconds} s; last said: {console}")]
    TimedOut {
        /// The limit.
        seconds: u64,
        /// The last lines of the kernel's log.
        console: String,
    },
    /// The machine ended without saying what became of the command.
    #[error("the machine ended without an answer ({detail}); last said: {console}")]
    Died {
        /// What QEMU answered.
        detail: String,
        /// Whether it had begun with the command.
        begun: bool,
        /// The last lines of the kernel's log.
        console: String,
    },
    /// The machine came up, and could not do what it was asked.
    #[error("in the machine: {0}")]
    Guest(String),
}

/// Names the call that failed.
pub trait Calling<T> {
    /// `call` says which, with what.
    fn calling(self, call: impl FnOnce() -> String) -> Result<T, LabError>;

    /// The same, of a call with one path.
    fn on(self, verb: &str, path: &Path) -> Result<T, LabError>
    where
        Self: Sized,
    {
        self.calling(|| format!("{verb} {}", path.display()))
    }
}

impl<T, E: Into<io::Error>> Calling<T> for Result<T, E> {
    fn calling(self, call: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::Io { call: call(), source: error.into() })
    }
}

/// Says that a file is not what it should be.
pub fn format_error(file: impl std::fmt::Display, detail: impl std::fmt::Display) -> LabError {
    LabError::Format { file: file.to_string(), detail: detail.to_string() }
}
