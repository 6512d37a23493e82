//! The README's example of the library: a test compares the two, and runs this one. `cargo run --example readme`.
#![allow(clippy::print_stdout, missing_docs, reason = "an example prints")]

use agentd::isolation::{Claim, Command, IsolationError, SandboxSpec, require_backend, take_role};

#[tokio::main(flavor = "current_thread")]
async fn run() -> Result<(), IsolationError> {
    // An error if no backend proves all of these claims, so that nothing runs without isolation.
    let needed = [Claim::Filesystem, Claim::Process, Claim::Network, Claim::Syscalls];
    let (backend, _proven) = require_backend(&std::env::temp_dir(), &needed).await?;
    let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
    let outcome = sandbox.exec(Command { argv: vec!["/bin/uname".into()], ..Command::default() }).await?;
    println!("{:?}: {}", outcome.reason, String::from_utf8_lossy(&outcome.stdout.to_bytes()));
    sandbox.destroy().await
}

pub fn main() -> Result<(), IsolationError> {
    take_role(); // call this first: the helper process that creates sandboxes is the same program
    run()
}
