//! Calling the programs of this machine that the lab is put together with.

use crate::error::{Calling, LabError};
use std::process::{Command, Stdio};

/// A program that must succeed; its standard output.
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

/// A program that needs to be root, by `sudo` where this one is not.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}
