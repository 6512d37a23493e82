//! Builds the request that starts a command at a supervisor.

use agentd_core::{Command, IsolationError, Limits};
use agentd_kernel::rlimit::RlimitPlan;
use agentd_supervisor::protocol::SpawnRequest;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

/// How much later than this process the supervisor enforces the deadline. It takes effect only if this process is stopped.
const BEHIND: Duration = Duration::from_secs(1);

fn bytes(text: impl AsRef<OsStr>) -> Vec<u8> {
    text.as_ref().as_bytes().to_vec()
}

/// Translates a command into a request to the supervisor. `limits` are the effective limits.
pub(super) fn request(id: u32, command: &Command, limits: &Limits) -> Result<SpawnRequest, IsolationError> {
    let invalid = |reason: &str| IsolationError::Invalid { what: "command".to_owned(), reason: reason.to_owned() };
    let mut env = Vec::with_capacity(command.env.len());
    for (name, value) in &command.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(invalid("the name of an environment variable is empty or contains '=' — use another name"));
        }
        env.push([name.as_bytes(), b"=", value.as_bytes()].concat());
    }
    let argv: Vec<Vec<u8>> = command.argv.iter().map(bytes).collect();
    let cwd = command.cwd.as_ref().map_or_else(|| b"/".to_vec(), bytes);
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(invalid("argv is empty or its first argument is empty — name a program"));
    }
    if argv.iter().chain(&env).chain([&cwd]).any(|s| s.contains(&0)) {
        return Err(invalid("an argument, a variable or the working directory contains a NUL byte — remove it"));
    }
    let pty = command.pty.map(|size| (size.rows, size.cols));
    let rlimits = RlimitPlan::from_limits(limits);
    let wall = limits.wall.and_then(|wall| wall.checked_add(limits.grace.unwrap_or_default())?.checked_add(BEHIND));
    let wall_ms = wall.and_then(|wall| u64::try_from(wall.as_millis()).ok());
    Ok(SpawnRequest { id, argv, env, cwd, pty, rlimits, wall_ms, own_image: false })
}
