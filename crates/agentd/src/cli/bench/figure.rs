//! A figure that `agentd bench` measures, and how a program or a command is run for it.

use crate::cli::failure::Failure;
use agentd_core::{Command, IsolationBackend, Network, Sandbox};
use std::{
    path::Path,
    pin::Pin,
    process::{Command as Spawn, Stdio},
    sync::Arc,
    time::Duration,
};

pub(super) const PROGRAM: &str = "/bin/true";

/// The measurement of a row.
pub(super) enum Row {
    Spawn,
    Exec(Arc<dyn Sandbox>),
    /// Creates a sandbox with this network, runs the program in it and destroys it.
    Cold(Arc<dyn IsolationBackend>, Network),
    Program(Vec<String>),
    /// A future that measures its own time, because a part of its work is not counted.
    Timed(Box<dyn Fn() -> Timed>),
}

/// A future that measures a row and yields the time that the row took.
pub(super) type Timed = Pin<Box<dyn Future<Output = Result<Duration, Failure>>>>;

pub(super) struct Figure {
    pub(super) name: String,
    pub(super) row: Row,
    pub(super) samples: Vec<Duration>,
}

pub(super) fn figure(name: &str, row: Row) -> Figure {
    Figure { name: name.to_owned(), row, samples: Vec::new() }
}

pub(super) async fn exec(sandbox: &Arc<dyn Sandbox>) -> Result<(), Failure> {
    let outcome =
        sandbox.exec(Command { argv: vec![PROGRAM.into()], cwd: Some(Path::new("/").into()), ..Command::default() }).await?;
    if outcome.exit_code == Some(0) {
        Ok(())
    } else {
        Err(format!("measure an exec of {PROGRAM}: it failed: {outcome:?}").into())
    }
}

pub(super) fn spawn(line: &[String]) -> Result<(), Failure> {
    let status =
        Spawn::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", line.join(" ")).into()) }
}

pub(super) fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

pub(super) fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(f64::EPSILON)
}
