//! Calls programs of this host.

use crate::error::{Calling, LabError};
use std::process::{Command, Stdio};

/// Runs a program that must succeed; returns its standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>, LabError> {
    let called = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().calling(|| called.clone())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(LabError::Tool { command: called, detail: format!("{}: {}", output.status, last.join("; ")) })
}

/// Sets the environment and the directory that were set for `from`, for `to` too.
pub fn copy_settings(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        to.current_dir(folder);
    }
}

/// Returns a command that runs a program as root: through `sudo`, unless this process is root.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}
