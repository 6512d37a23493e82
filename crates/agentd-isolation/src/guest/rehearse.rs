//! What an agent does before it is asked for anything, so that it need not be done when it is.

use super::inside::Inside;
use agentd_core::{Command, IsolationError, Sandbox, SandboxSpec};
use std::path::Path;

/// What is executed. With it come the libraries of nearly every program.
const PROGRAM: &str = "/bin/true";

/// Makes a sandbox with `root` as its root, runs a program in it, and destroys it: the launcher runs afterwards, and what the kernel and it
/// read from disk for that is in memory. A machine that is saved then does not read it again in any that is started from it.
///
/// # Errors
/// What hinders a sandbox from being made. A root without the program is none.
pub async fn rehearse(root: &Path) -> Result<(), IsolationError> {
    let sandbox = Inside::new(root).make(SandboxSpec::default()).await?;
    // A root in which it does not run may have others that do.
    sandbox.exec(Command { argv: vec![PROGRAM.into()], ..Command::default() }).await.ok();
    sandbox.destroy().await
}
