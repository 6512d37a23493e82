//! Execs: starting, limiting and ending one command, and capturing its output.
//!
//! - `running`: the state machine of an exec. It handles the deadline, grace period, limits and end for every transport.
//! - `transport`: the interface that the state machine needs to the peer that runs the command.
//! - `capture`, `handle`: the two ways to run an exec: to its end with captured output, or with streams that the caller serves.
//! - `supervised`, with `request`, `stdio`, `pipe` and `limits`: the transport to a supervisor on this kernel.
//! - `effective`: the effective limits of a command.

pub mod capture;
mod effective;
pub mod handle;
mod limits;
mod pipe;
mod request;
mod running;
mod stdio;
mod supervised;
pub mod transport;

pub use effective::effective;
pub use running::Exec;
pub(crate) use supervised::{run_to_end, stream, stream_on, usage};

use agentd_core::Command;
use agentd_supervisor::role::Role;
use serde::{Deserialize, Serialize};

/// The program that an exec runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Executable {
    /// The program named by the command.
    FromPath,
    /// The executable of this process, in the role that runs the attacks.
    Attack,
    /// The executable of this process, in the role that carries out operations on files.
    Tool,
}

impl Executable {
    /// Returns the role of the process; `None` for the program of the command.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::FromPath => None,
            Self::Attack => Some(Role::Attack),
            Self::Tool => Some(Role::Tool),
        }
    }
}

/// Returns `command` as the command of a process in the role [`Role::Tool`].
pub fn tool(command: Command) -> Command {
    Command { argv: vec![Role::Tool.name().into()], ..command }
}
