//! Errors of the lab and of the test run.

use std::{io, path::Path};

/// Reasons why the lab failed. A failure of the command in the machine is not an error of the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program on this host failed.
    #[error("{command}: {detail}")]
    Tool {
        /// The command line.
        command: String,
        /// The end of its standard error, or the reason why the program could not be started.
        detail: String,
    },
    /// A call to the operating system failed.
    #[error("{call}: {source}")]
    Io {
        /// The call and its object.
        call: String,
        /// The error of the call.
        source: io::Error,
    },
    /// A file or another input is invalid.
    #[error("{file}: {detail}")]
    Format {
        /// The file or input.
        file: String,
        /// The defect of the input.
        detail: String,
    },
    /// The machine was still running at the time limit.
    #[error("the machine was killed at the time limit of {seconds} s; last console output: {console}")]
    TimedOut {
        /// The limit, in seconds.
        seconds: u64,
        /// The last lines of the kernel's log.
        console: String,
    },
    /// The machine ended without a report on the command.
    #[error("the machine ended before it reported a result ({detail}); last console output: {console}")]
    Died {
        /// The exit status of QEMU.
        detail: String,
        /// True if the command had been started.
        begun: bool,
        /// True if the kernel ended because it executed a breakpoint in its own code.
        breakpoint: bool,
        /// The last lines of the kernel's log.
        console: String,
    },
    /// The time limit of the test run was reached.
    #[error("not ended at the time limit of the run")]
    NotEnded,
    /// The machine booted, but could not carry out the request.
    #[error("in the machine: {0}")]
    Guest(String),
}

/// Adds the name of the failed call to an error.
pub trait Calling<T> {
    /// Converts the error. `call` returns the name of the call and its object.
    ///
    /// # Errors
    /// [`LabError::Io`] for an error.
    fn calling(self, call: impl FnOnce() -> String) -> Result<T, LabError>;

    /// Converts the error of a call on a path.
    ///
    /// # Errors
    /// As for [`Calling::calling`].
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

/// Creates the error for an invalid file or input.
pub fn format_error(file: impl std::fmt::Display, detail: impl std::fmt::Display) -> LabError {
    LabError::Format { file: file.to_string(), detail: detail.to_string() }
}
