//! Measures file-heavy work: the time in which a shell creates, stats and removes many files on tmpfs, in a sandbox relative to
//! outside.

use super::figure::{median, ratio, spawn};
use crate::cli::failure::Failure;
use agentd_core::{Command, Sandbox};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Creates, stats and removes 20,000 files below `$1`.
const SCRIPT: &str = "d=$1/agentd-bench-$$; mkdir $d && cd $d || exit; i=0
    while [ $i -lt 20000 ]; do : > $i; i=$((i+1)); done
    i=0; while [ $i -lt 20000 ]; do [ -f $i ] || exit; i=$((i+1)); done
    cd / && rm -r $d";
/// A tmpfs outside and inside the sandbox.
const OUTSIDE: &str = "/dev/shm";
const INSIDE: &str = "/tmp";
/// Magic number of tmpfs (`statfs(2)`).
const TMPFS: i64 = 0x0102_1994;
/// The maximum number of rounds; one round takes about half a second.
const ROUNDS: u32 = 20;

/// Measures the sandboxes and this host in turn. Returns a ratio of medians for each sandbox, or nothing if `/dev/shm` is not
/// a tmpfs.
pub(super) async fn measure(
    sandboxes: &[(&'static str, Arc<dyn Sandbox>)],
    rounds: u32,
) -> Result<Vec<(&'static str, f64)>, Failure> {
    if memory().is_none() {
        return Ok(Vec::new());
    }
    let mut outside = Vec::new();
    let mut inside: Vec<Vec<Duration>> = vec![Vec::new(); sandboxes.len()];
    for round in 0..=rounds.min(ROUNDS) {
        let mut took = vec![run_outside()?];
        for (_, sandbox) in sandboxes {
            took.push(run_inside(sandbox).await?);
        }
        // The first round is a warm-up.
        if round > 0 {
            outside.push(took[0]);
            inside.iter_mut().zip(&took[1..]).for_each(|(samples, sample)| samples.push(*sample));
        }
    }
    let base = median(&mut outside);
    Ok(sandboxes.iter().zip(&mut inside).map(|((name, _), samples)| (*name, ratio(median(samples), base))).collect())
}

/// Returns a directory whose files are in memory.
pub(super) fn memory() -> Option<&'static Path> {
    rustix::fs::statfs(OUTSIDE).is_ok_and(|found| found.f_type == TMPFS).then_some(Path::new(OUTSIDE))
}

fn line(place: &str) -> [&str; 5] {
    ["/bin/sh", "-c", SCRIPT, "sh", place]
}

fn run_outside() -> Result<Duration, Failure> {
    let started = Instant::now();
    spawn(&line(OUTSIDE).map(str::to_owned))?;
    Ok(started.elapsed())
}

async fn run_inside(sandbox: &Arc<dyn Sandbox>) -> Result<Duration, Failure> {
    let argv = line(INSIDE).map(Into::into).to_vec();
    let started = Instant::now();
    let outcome = sandbox.exec(Command { argv, cwd: Some(Path::new("/").into()), ..Command::default() }).await?;
    let took = started.elapsed();
    if outcome.exit_code == Some(0) {
        Ok(took)
    } else {
        Err(format!("measure files on tmpfs: the script failed: {outcome:?}").into())
    }
}
