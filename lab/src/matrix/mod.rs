//! Runs the tests of the project. `./test` installs the packages and then starts this task.
//!
//! `table` is the matrix, and `step` defines its rows. `select` chooses rows, and `contain` isolates the run from the machine.
//! `assets` builds the inputs that rows share. `schedule` starts the steps, one more than there are processors, `rows` runs a
//! row, `private` isolates the suites of one row from those of another, and `report` prints the table at the end.

mod assets;
mod contain;
mod execute;
mod private;
mod programs;
mod report;
mod rows;
mod schedule;
mod select;
mod step;
mod table;

use crate::{
    args::{Matrix, Test},
    error::{Calling, LabError, format_error},
};
use assets::RunContext;
use execute::Log;
use report::{Count, Ended, Outcome, Part};
use schedule::Step;
use select::Chosen;
use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};
use step::{Asset, Turn};

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
        [] => (select::by_turn(test.all, turn), Some(turn)),
        names => (select::by_name(names, test.all)?, None),
    };
    if !rustix::process::geteuid().is_root() {
        chosen.retain(|chosen| !chosen.row.place.needs_root());
    }
    let context = RunContext { project: project(), run, programs: OnceLock::new() };
    let limit = test.limit.map(|minutes| Duration::from_secs(60 * minutes));
    let ended = steps_of(&chosen, &context, turn, &test.logs, limit)?;
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
        print_line(&format!("{}: {}, about {} min of processor time", row.name, row.turn, row.minutes));
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

fn steps_of(
    chosen: &[Chosen],
    context: &RunContext,
    turn: Option<u32>,
    logs: &Path,
    limit: Option<Duration>,
) -> Result<Run, LabError> {
    fs::create_dir_all(logs).on("mkdir", logs)?;
    let started = Instant::now();
    let clock = Clock { started, deadline: limit.map(|limit| started + limit) };
    let of_rows = chosen.iter().flat_map(|chosen| chosen.row.needs);
    let needed: BTreeSet<Asset> = of_rows.flat_map(|asset| asset.needs().iter().chain([asset])).copied().collect();
    let built = needed.into_iter().map(|asset| Step {
        name: format!("build {asset:?}").to_lowercase(),
        builds: Some(asset),
        needs: asset.needs().to_vec(),
        lane: None,
        run: Box::new(move || {
            perform(&format!("build {asset:?}").to_lowercase(), clock, logs, None, |log| assets::build(asset, context, log))
        }),
    });
    let rows = chosen.iter().map(|chosen| Step {
        name: chosen.row.name.to_owned(),
        builds: None,
        needs: chosen.row.needs.to_vec(),
        lane: chosen.row.place.lane(),
        run: Box::new(move || {
            let counts = Some(chosen.row.place.counts_tests());
            perform(chosen.row.name, clock, logs, counts, |log| rows::run(chosen, context, log))
        }),
    });
    let steps = built.chain(rows).collect();
    // One more than processors: suites on this machine wait half of the time.
    let slots = std::thread::available_parallelism().map_or(1, usize::from) + 1;
    let mut ended = schedule::run(steps, slots, clock.deadline);
    for step in &mut ended {
        let row = chosen.iter().find(|chosen| chosen.row.name == step.name);
        step.part = row.map_or(Part::Always, |chosen| part(chosen.row.turn, turn));
    }
    Ok(Run { ended, logs: logs.to_path_buf(), started })
}

/// Returns the part of the matrix to which a row belongs, in a run of `turn`.
fn part(row: Turn, turn: Option<u32>) -> Part {
    match (turn, row) {
        (None, _) | (_, Turn::Always) => Part::Always,
        (Some(turn), Turn::Rotates(own)) if own == turn => Part::Rotating,
        (Some(_), Turn::Rotates(_)) => Part::Other,
    }
}

/// The start of a run, and the time at which the run must end.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Instant,
    deadline: Option<Instant>,
}

/// Prints the minutes and seconds since the start.
impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.started.elapsed().as_secs();
        write!(f, "{:>3}:{:02}", seconds / 60, seconds % 60)
    }
}

/// Runs a step, prints when the step starts and ends, and returns its summary. `counts` is `Some(true)` for a step whose tests
/// are counted.
fn perform(name: &str, clock: Clock, logs: &Path, counts: Option<bool>, run: impl FnOnce(&Log) -> Result<(), LabError>) -> Ended {
    print_line(&format!("{clock} begin {name}"));
    let begun = Instant::now();
    let log = Log::new(logs.join(format!("{}.log", name.replace(' ', "-"))), clock.deadline);
    let result = log.as_ref().map_or_else(|error| Err(format_error(logs.display(), error)), run);
    let (text, spent) = log.map(|log| (log.text(), log.spent())).unwrap_or_default();
    let count = (counts == Some(true)).then(|| Count::parse(&text));
    let outcome = match result {
        Err(LabError::NotEnded) if !report::has_failed_test(&text) => Outcome::NotEnded,
        Err(error) => Outcome::Failed(error.to_string()),
        Ok(()) if count.is_some_and(|count| count.passed == 0) => Outcome::Failed("no test ran".to_owned()),
        Ok(()) => Outcome::Passed,
    };
    let word = match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed(_) => "FAILED",
        Outcome::NotEnded => "NOT ENDED",
    };
    print_line(&format!("{clock} {word} {name}"));
    Ended { name: name.to_owned(), part: Part::Always, wall: begun.elapsed(), spent, at: clock.started.elapsed(), count, outcome }
}

/// Prints the logs of failed steps, the table, and the closing line.
fn print(run: &Run, turn: Option<u32>) -> Result<u8, LabError> {
    for step in run.ended.iter().filter(|step| step.failure().is_some()) {
        let log = run.logs.join(format!("{}.log", step.name.replace(' ', "-")));
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        print_line(&format!("\n== {}: {}", step.name, step.failure().unwrap_or_default()));
        print_line(&lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n"));
        print_line(&format!("== complete log: {}", log.display()));
    }
    print_line(&report::table(&run.ended, turn, run.started.elapsed()));
    Ok(u8::from(!report::succeeded(&run.ended)))
}

/// Prints a line and flushes it. An error is ignored: a closed pipe does not stop the tests.
fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}
