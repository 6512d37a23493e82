//! Runs programs of this host.

use super::error::{IoContext, SetupError};
use std::{
    io,
    process::{Command, Stdio},
};

/// The number of output lines in the error of a failed program.
const ERROR_LINES: usize = 4;

/// Runs a program and returns its standard output. `remedy` states how to install the program if it is missing.
///
/// # Errors
/// [`SetupError::NoProgram`] if the program is missing, and [`SetupError::Program`] if it fails.
pub(crate) fn run(command: &mut Command, remedy: &str) -> Result<Vec<u8>, SetupError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let called = format!("{command:?}");
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SetupError::NoProgram { program, remedy: remedy.to_owned() });
        }
        ran => ran.context(|| format!("run {program}"))?,
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(ERROR_LINES)..].join("; ");
    Err(SetupError::Program { command: called, detail: format!("{}: {last}", output.status) })
}
