//! Measures a run in a workspace with many directories. agentd searches them for protected paths before and after the command.

use super::figure::{PROGRAM, median, spawn};
use crate::cli::failure::Failure;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// The workspace has this number of directories, each with this number of subdirectories.
const OUTER: u32 = 100;
const INNER: u32 = 99;
/// The maximum number of rounds; each round creates a new workspace.
const ROUNDS: u32 = 20;

/// The number of directories in the workspace.
pub(super) const DIRECTORIES: u32 = OUTER + OUTER * INNER;

/// Medians of a whole `agentd run`.
pub(super) struct Protected {
    /// Without a workspace.
    pub none: Duration,
    /// The first run in a new workspace.
    pub first: Duration,
    /// The second run in the same workspace.
    pub second: Duration,
}

/// Measures the runs of the program `own` with `backend`. The workspaces are created below `scratch`.
pub(super) fn measure(own: &str, backend: &str, scratch: &Path, rounds: u32) -> Result<Protected, Failure> {
    let (mut none, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds.min(ROUNDS) {
        let workspace = scratch.join(format!("workspace-{round}"));
        create(&workspace)?;
        let name = workspace.display().to_string();
        let took = [run(own, backend, "none")?, run(own, backend, &name)?, run(own, backend, &name)?];
        fs::remove_dir_all(&workspace)?;
        // The first round is a warm-up.
        if round > 0 {
            [&mut none, &mut first, &mut second].into_iter().zip(took).for_each(|(samples, took)| samples.push(took));
        }
    }
    Ok(Protected { none: median(&mut none), first: median(&mut first), second: median(&mut second) })
}

fn create(workspace: &Path) -> std::io::Result<()> {
    for outer in 0..OUTER {
        let outer = workspace.join(outer.to_string());
        fs::create_dir_all(&outer)?;
        for inner in 0..INNER {
            fs::create_dir(outer.join(inner.to_string()))?;
        }
    }
    Ok(())
}

fn run(own: &str, backend: &str, workspace: &str) -> Result<Duration, Failure> {
    let line = [own, "run", "--backend", backend, "--workspace", workspace, "--", PROGRAM].map(str::to_owned);
    let started = Instant::now();
    spawn(&line)?;
    Ok(started.elapsed())
}
