//! The verification of a long audit log: its time, and the memory of the process that verifies.

use super::records;
use crate::cli::failure::Failure;
use agentd_core::{Command, IsolationBackend as _, Sandbox, SandboxSpec};
use agentd_isolation::HostDirectBackend;
use agentd_records::Records;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// The number of leaves, and how many of them one commit adds.
const LEAVES: u64 = 1_000_000;
const COMMIT: u64 = 20_000;

/// `agentd audit verify` of a log.
pub(super) struct Verification {
    /// The number of leaves.
    pub leaves: u64,
    /// The time of the whole process.
    pub took: Duration,
    /// The peak resident memory of the process in bytes (`getrusage(2)`).
    pub memory: u64,
}

/// Measures the verification of a short and of a long log. Both are created below `scratch`.
pub(super) async fn measure(own: &str, scratch: &Path) -> Result<[Verification; 2], Failure> {
    let data = scratch.join("long");
    let log = Records::at(&data.join("records"));
    let sandbox = HostDirectBackend::new(scratch).create_sandbox(SandboxSpec::default()).await?;
    append(&log, 0..COMMIT)?;
    let short = verified(&sandbox, own, &data, COMMIT).await?;
    append(&log, COMMIT..LEAVES)?;
    let long = verified(&sandbox, own, &data, LEAVES).await?;
    sandbox.destroy().await?;
    Ok([short, long])
}

fn append(log: &Records, numbers: std::ops::Range<u64>) -> Result<(), Failure> {
    let end = numbers.end;
    for first in numbers.step_by(usize::try_from(COMMIT)?) {
        let leaves = (first..end.min(first + COMMIT)).map(|number| records::outcome(&number.to_string()));
        log.recorder()?.record_all(&leaves.collect::<Result<Vec<_>, _>>()?)?;
    }
    Ok(())
}

async fn verified(sandbox: &Arc<dyn Sandbox>, own: &str, data: &Path, leaves: u64) -> Result<Verification, Failure> {
    let command = Command {
        argv: [own, "audit", "verify"].map(Into::into).to_vec(),
        env: vec![("AGENTD_DATA_DIR".into(), data.into())],
        cwd: Some(Path::new("/").into()),
        ..Command::default()
    };
    let started = Instant::now();
    let outcome = sandbox.exec(command).await?;
    let took = started.elapsed();
    if outcome.exit_code != Some(0) {
        return Err(format!("measure the verification of a log: it failed: {outcome:?}").into());
    }
    Ok(Verification { leaves, took, memory: outcome.usage.peak_memory })
}
