//! Builds the request that starts a command at a supervisor.

use agentd_core::{Command, IsolationError, Limits};
use agentd_kernel::rlimit::RlimitPlan;
use agentd_supervisor::protocol::SpawnRequest;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

/// The delay with which the supervisor enforces the deadline, so that it acts only if this process is stopped.
const DEADLINE_DELAY: Duration = Duration::from_secs(1);

fn bytes(text: impl AsRef<OsStr>) -> Vec<u8> {
    text.as_ref().as_bytes().to_vec()
}

/// Translates a command into a request to the supervisor. `limits` are the effective limits.
pub(super) fn request(id: u32, command: &Command, limits: &Limits) -> Result<SpawnRequest, IsolationError> {
    let invalid = |reason: String| IsolationError::Invalid { what: "command".to_owned(), reason };
    let contains_nul = |of: &str| invalid(format!("{of} contains a NUL byte — remove that byte"));
    let mut env = Vec::with_capacity(command.env.len());
    for (name, value) in &command.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(invalid(format!("the variable name {name:?} is empty or contains '=' — use another name")));
        }
        if name.as_bytes().contains(&0) || value.as_bytes().contains(&0) {
            return Err(contains_nul(&format!("the variable {name:?}")));
        }
        env.push([name.as_bytes(), b"=", value.as_bytes()].concat());
    }
    let argv: Vec<Vec<u8>> = command.argv.iter().map(bytes).collect();
    let cwd = command.cwd.as_ref().map_or_else(|| b"/".to_vec(), bytes);
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(invalid("argv is empty or its first argument is empty — name a program".to_owned()));
    }
    if let Some(number) = argv.iter().position(|argument| argument.contains(&0)) {
        return Err(contains_nul(&format!("argv[{number}]")));
    }
    if cwd.contains(&0) {
        return Err(contains_nul("the working directory"));
    }
    let pty = command.pty.map(|size| (size.rows, size.cols));
    let rlimits = RlimitPlan::from_limits(limits);
    let wall = limits.wall.and_then(|wall| wall.checked_add(limits.grace.unwrap_or_default())?.checked_add(DEADLINE_DELAY));
    let wall_ms = wall.and_then(|wall| u64::try_from(wall.as_millis()).ok());
    Ok(SpawnRequest { id, argv, env, cwd, pty, rlimits, wall_ms, own_image: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_argument_variable_or_directory_is_refused_by_name() {
        let command = || Command { argv: vec!["true".into()], ..Command::default() };
        let variable = |name: &str, value: &str| Command { env: vec![(name.into(), value.into())], ..command() };
        for (command, named) in [
            (variable("A=B", "1"), "\"A=B\""),
            (variable("", "1"), "\"\""),
            (variable("NAME", "a\0b"), "\"NAME\""),
            (Command { argv: vec!["true".into(), "a\0b".into()], ..command() }, "argv[1]"),
            (Command { cwd: Some("/a\0b".into()), ..command() }, "working directory"),
        ] {
            let error = request(1, &command, &Limits::default()).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains(" — "), "{error}");
        }
        assert!(request(1, &variable("A", "b=c"), &Limits::default()).is_ok());
    }
}
