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

/// The number of leaves for each round, up to a million. One commit adds all leaves of a step.
const PER_ROUND: u64 = 5_000;
const MAX_LEAVES: u64 = 1_000_000;
const STEPS: u64 = 50;

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
pub(super) async fn measure(own: &str, scratch: &Path, rounds: u32) -> Result<[Verification; 2], Failure> {
    let leaves = u64::from(rounds).saturating_mul(PER_ROUND).min(MAX_LEAVES);
    let step = leaves / STEPS;
    let data = scratch.join("long");
    let log = Records::at(&data.join("records"));
    let sandbox = HostDirectBackend::new(scratch).create_sandbox(SandboxSpec::default()).await?;
    append(&log, 0..step)?;
    let short = verified(&sandbox, own, &data, step).await?;
    for number in 1..STEPS {
        append(&log, number * step..(number + 1) * step)?;
    }
    let long = verified(&sandbox, own, &data, STEPS * step).await?;
    sandbox.destroy().await?;
    Ok([short, long])
}

fn append(log: &Records, numbers: std::ops::Range<u64>) -> Result<(), Failure> {
    let leaves = numbers.map(|number| records::outcome(&number.to_string())).collect::<Result<Vec<_>, _>>()?;
    log.recorder()?.record_all(&leaves)?;
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
