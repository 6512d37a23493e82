//! A pool of four sandboxes for commands that must not wait. `cargo run --package agentd --example pool`.
#![allow(clippy::print_stdout, missing_docs, reason = "an example prints")]

use agentd::isolation::{Claim, Command, IsolationError, PoolLimits, SandboxPool, SandboxSpec, require_backend, take_role};

#[tokio::main(flavor = "current_thread")]
async fn serve() -> Result<(), IsolationError> {
    let needed = [Claim::Filesystem, Claim::Process, Claim::Network, Claim::Syscalls];
    let (backend, _proven) = require_backend(&std::env::temp_dir(), &needed).await?;
    let pool = SandboxPool::new(backend, SandboxSpec::default(), PoolLimits { idle: 4, ..PoolLimits::default() })?;
    pool.filled().await?; // optional: reports a failing backend early, and the first take does not wait
    for program in ["/bin/uname", "/bin/date"] {
        let sandbox = pool.take().await?;
        let outcome = sandbox.exec(Command { argv: vec![program.into()], ..Command::default() }).await;
        sandbox.destroy().await?;
        println!("{}", String::from_utf8_lossy(&outcome?.stdout.to_bytes()));
    }
    pool.drain().await
}

pub fn main() -> Result<(), IsolationError> {
    take_role();
    serve()
}
