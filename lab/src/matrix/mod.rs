//! Runs the tests of the project. `./test` installs the packages and then starts this task.
//!
//! `table` is the matrix, and `step` defines its rows. `select` chooses rows, and `contain` isolates the run from the machine.
//! `assets` builds the inputs that rows share. `schedule` starts the steps, one more than there are processors, `rows` runs a
//! row, and `report` prints the table at the end.

mod assets;
mod contain;
mod execute;
mod programs;
mod report;
mod rows;
mod schedule;
mod select;
mod step;
mod table;

use crate::{
    args::{Matrix, Test},
    error::{Calling, LabError},
};
use assets::RunContext;
use execute::Log;
use report::{Count, Ended};
use schedule::Step;
use select::Chosen;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Instant,
};
use step::{Asset, Place, Turn};

/// Number of lines of a failed step's log that are printed.
const MAX_LOG_LINES: usize = 400;

/// Runs the requested tests; returns the exit code.
pub fn test(test: &Test) -> Result<u8, LabError> {
    let Some(run) = contain::run_directory() else {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let status = contain::contained(&arguments)?;
        return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
    };
    let turn = select::rotation(&project())? % step::TURNS;
    let (mut chosen, turn) = match test.names.as_slice() {
        [] => (select::by_turn(test.all, turn), (!test.all).then_some(turn)),
        names => (select::by_name(names, test.all)?, None),
    };
    if !rustix::process::geteuid().is_root() {
        chosen.retain(|chosen| !chosen.row.place.needs_root());
    }
    let context = RunContext { project: project(), run, programs: OnceLock::new() };
    let ended = steps_of(&chosen, &context, turn, &test.logs)?;
    print(&ended, turn)
}

/// Prints the matrix, or advances the rotation. Returns the exit code.
pub fn matrix(matrix: &Matrix) -> Result<u8, LabError> {
    if matrix.advance {
        let next = select::advance(&project())?;
        print_line(&format!("rotation {next}: turn {} of {}", next % step::TURNS, step::TURNS));
        return Ok(0);
    }
    for row in table::ROWS {
        print_line(&format!("{}: {}, about {} min", row.name, row.turn, row.minutes));
        print_line(&format!("    where:    {}", row.place));
        print_line(&format!("    suites:   {}", row.suites));
        print_line(&format!("    backends: {}", row.backends));
        print_line(&format!("    why:      {}", row.why));
    }
    Ok(0)
}

fn project() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

struct Run {
    ended: Vec<Ended>,
    logs: PathBuf,
    started: Instant,
}

fn steps_of(chosen: &[Chosen], context: &RunContext, turn: Option<u32>, logs: &Path) -> Result<Run, LabError> {
    fs::create_dir_all(logs).on("mkdir", logs)?;
    let started = Instant::now();
    let of_rows = chosen.iter().flat_map(|chosen| chosen.row.needs);
    let needed: BTreeSet<Asset> = of_rows.flat_map(|asset| asset.needs().iter().chain([asset])).copied().collect();
    let built = needed.into_iter().map(|asset| Step {
        name: format!("build {asset:?}").to_lowercase(),
        builds: Some(asset),
        needs: asset.needs().to_vec(),
        exclusive: matches!(asset, Asset::Microvm | Asset::Gondolin),
        run: Box::new(move || {
            perform(&format!("build {asset:?}").to_lowercase(), started, logs, None, |log| assets::build(asset, context, log))
        }),
    });
    let rows = chosen.iter().map(|chosen| Step {
        name: chosen.row.name.to_owned(),
        builds: None,
        needs: chosen.row.needs.to_vec(),
        exclusive: matches!(chosen.row.place, Place::Units | Place::Host(_)),
        run: Box::new(move || {
            let rotating = turn.is_some() && chosen.row.turn != Turn::Always;
            let counts = Some(chosen.row.place.counts_tests());
            let ended = perform(chosen.row.name, started, logs, counts, |log| rows::run(chosen, context, log));
            Ended { rotating, ..ended }
        }),
    });
    let steps = built.chain(rows).collect();
    // One more than processors: suites on this machine wait half of the time.
    let slots = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    let ended = schedule::run(steps, slots);
    Ok(Run { ended, logs: logs.to_path_buf(), started })
}

/// Runs a step, prints its begin and end, and returns its summary. `counts` is `Some(true)` for a step whose tests are counted.
fn perform(
    name: &str,
    started: Instant,
    logs: &Path,
    counts: Option<bool>,
    run: impl FnOnce(&Log) -> Result<(), LabError>,
) -> Ended {
    let clock = || format!("{}:{:02}", started.elapsed().as_secs() / 60, started.elapsed().as_secs() % 60);
    print_line(&format!("{:>6} begin {name}", clock()));
    let begun = Instant::now();
    let log = Log::new(logs.join(format!("{}.log", name.replace(' ', "-"))));
    let failure = match &log {
        Ok(log) => run(log).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let (text, spent) = log.map(|log| (log.text(), log.spent())).unwrap_or_default();
    let count = (counts == Some(true)).then(|| Count::parse(&text));
    let failure = failure.or_else(|| (count.is_some_and(|count| count.passed == 0)).then(|| "no test ran".to_owned()));
    let ended = Ended { name: name.to_owned(), rotating: false, wall: begun.elapsed(), spent, count, failure };
    print_line(&format!("{:>6} {} {name}", clock(), if ended.failure.is_none() { "passed" } else { "FAILED" }));
    ended
}

/// Prints the logs of failed steps, the table, and the closing line.
fn print(run: &Run, turn: Option<u32>) -> Result<u8, LabError> {
    let failed: Vec<&Ended> = run.ended.iter().filter(|step| step.failure.is_some()).collect();
    for step in &failed {
        let log = run.logs.join(format!("{}.log", step.name.replace(' ', "-")));
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        print_line(&format!("\n== {}: {}", step.name, step.failure.as_deref().unwrap_or_default()));
        print_line(&lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n"));
        print_line(&format!("== complete log: {}", log.display()));
    }
    print_line(&report::table(&run.ended, turn, run.started.elapsed()));
    Ok(u8::from(!failed.is_empty()))
}

/// Prints a line and flushes it. An error is ignored: a closed pipe does not stop the tests.
fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}
