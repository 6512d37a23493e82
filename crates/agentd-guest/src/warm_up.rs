//! Prepares an agent before its first request, so that the first request takes less time.

use super::inside::GuestRoot;
use agentd_core::{Command, IsolationError, Sandbox, SandboxSpec};
use agentd_log::LogFailure as _;
use std::path::Path;

/// The program that is executed. Executing it also loads the libraries that nearly every program uses.
const PROGRAM: &str = "/bin/true";

/// Creates a sandbox with `root` as its root, runs a program in it, and destroys it. Afterwards the launcher is running, and the
/// page cache holds what the kernel and the launcher read from disk. If a machine is saved at that point, the machines restored
/// from it need not repeat these reads.
///
/// # Errors
/// Returns the error of creating or destroying the sandbox. A root without the program is not an error.
pub async fn warm_up(root: &Path) -> Result<(), IsolationError> {
    let sandbox = GuestRoot::new(root).make(SandboxSpec::default(), None).await?.0;
    // A root without a working `/bin/true` may still contain other programs.
    let command = Command { argv: vec![PROGRAM.into()], ..Command::default() };
    sandbox.exec(command).await.or_debug("execute a program to load its files into the page cache", PROGRAM);
    sandbox.destroy().await
}
