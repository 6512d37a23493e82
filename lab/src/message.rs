//! The messages between host and machine: one line of JSON each, over the port [`CONTROL`]. The other ports carry bytes in one
//! direction: the output of the command, an archive of the files to keep, and the pulse.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the port for [`CommandRequest`] and [`Event`].
pub const CONTROL: &str = "control";
/// Name of the port for the command's standard output.
pub const STDOUT: &str = "stdout";
/// Name of the port for the command's standard error.
pub const STDERR: &str = "stderr";
/// Name of the port for a tar archive of the files to keep.
pub const FILES: &str = "files";

/// Name of the port for the pulse: one byte per second from the host. Each byte raises an interrupt in the machine; see
/// `docs/decisions/0056-pulse-of-emulated-machines.md`.
pub const PULSE: &str = "pulse";

/// The request to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment variables, in addition to those of every command.
    pub env: Vec<(String, String)>,
    /// True to run the command as the ordinary user, in a delegated cgroup.
    pub user: bool,
    /// True to run a shell on the console, with a terminal.
    pub console: bool,
    /// Files and folders to send after the command has ended.
    pub copy_out: Vec<PathBuf>,
}

/// The events of a machine, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The machine has booted, and is starting the command.
    Begun,
    /// The command has ended.
    Ended(Report),
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The command's exit code.
    Exited(u8),
    /// The signal that killed the command.
    Killed(i32),
    /// The command was not run, or not to its end. The text is the reason.
    Failed(String),
}

impl Report {
    /// Returns the exit code of the lab, as a shell would report it.
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::Exited(code) => Some(*code),
            Self::Killed(signal) => u8::try_from(128 + signal).ok(),
            Self::Failed(_) => None,
        }
    }
}
