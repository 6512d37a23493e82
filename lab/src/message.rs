//! What the two sides say to each other, a line of JSON each, over the port [`CONTROL`]. The other ports carry bytes one way: what the
//! command writes, and an archive of the files to keep.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The port of these messages.
pub const CONTROL: &str = "control";
/// The command's standard output.
pub const STDOUT: &str = "stdout";
/// The command's standard error.
pub const STDERR: &str = "stderr";
/// A tar archive.
pub const FILES: &str = "files";

/// What a machine is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables beside those that every command has.
    pub env: Vec<(String, String)>,
    /// As the ordinary user, in a delegated control group.
    pub user: bool,
    /// On the console, with a terminal.
    pub console: bool,
    /// Files and folders to send when it has ended.
    pub copy_out: Vec<PathBuf>,
}

/// What the machine says, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// It has come up, and begins with the command.
    Begun,
    /// That has ended.
    Ended(Report),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The command's exit code.
    Exited(u8),
    /// The signal that killed it.
    Killed(i32),
    /// It was not run, or not to its end.
    Failed(String),
}

impl Report {
    /// The exit code of the lab, as a shell has it.
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::Exited(code) => Some(*code),
            Self::Killed(signal) => u8::try_from(128 + signal).ok(),
            Self::Failed(_) => None,
        }
    }
}
