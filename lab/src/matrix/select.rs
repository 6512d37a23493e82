//! Chooses the rows of a run.
//!
//! A row that does not take part in every run rotates: it has a turn. The committed file `.ci/rotation` holds a number; a run
//! takes the turn that equals this number modulo [`TURNS`](super::step::TURNS). Each merge to `main` increments the number in its
//! merge commit (`cargo xtask matrix --advance`). Five consecutive merges then run every row at least once, and the choice
//! depends only on the commit. A count or a hash of commits would not guarantee that, because merges have different numbers of
//! commits.

use super::{
    step::{Row, Turn},
    table::ROWS,
};
use crate::error::{Calling, LabError, format_error};
use std::{fs, path::Path};

/// A row of a run, and the suites to which the command line limits it.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The row.
    pub row: Row,
    /// The named suites; if empty, all suites of the row.
    pub only: Vec<String>,
}

/// Returns the rows of a run for which the command line names no rows or suites: the rows of `turn`, and with `all` the rows of
/// other turns after them.
pub fn by_turn(all: bool, turn: u32) -> Vec<Chosen> {
    let takes_part = |row: &&Row| row.turn == Turn::Always || row.turn == Turn::Rotates(turn);
    let (mut rows, others): (Vec<&Row>, Vec<&Row>) = ROWS.iter().partition(takes_part);
    rows.extend(others.into_iter().filter(|_| all));
    rows.into_iter().map(|row| Chosen { row: *row, only: Vec::new() }).collect()
}

/// Returns the named rows and suites. The name of a row selects all its suites. The name of a suite selects that suite in every
/// row that has it and does not rotate; with `all`, in every row that has it.
pub fn by_name(names: &[String], all: bool) -> Result<Vec<Chosen>, LabError> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for row in ROWS {
        let only: Vec<String> = names.iter().filter(|name| row.suites.include(name) && !is_row(name)).cloned().collect();
        if names.iter().any(|name| name == row.name) {
            chosen.push(Chosen { row: *row, only: Vec::new() });
        } else if !only.is_empty() && (all || row.turn == Turn::Always) {
            chosen.push(Chosen { row: *row, only });
        }
    }
    if chosen.is_empty() {
        return Err(format_error(names.join(" "), "no row or always-running suite has this name — see `cargo xtask matrix`"));
    }
    Ok(chosen)
}

fn is_row(name: &str) -> bool {
    ROWS.iter().any(|row| row.name == name)
}

/// Returns the number in `.ci/rotation`.
pub fn rotation(project: &Path) -> Result<u32, LabError> {
    let file = project.join(".ci/rotation");
    let text = fs::read_to_string(&file).on("read", &file)?;
    text.trim().parse().map_err(|error| format_error(file.display(), error))
}

/// Increments the number in `.ci/rotation`; returns the new number.
pub fn advance(project: &Path) -> Result<u32, LabError> {
    let next = rotation(project)?.wrapping_add(1);
    let file = project.join(".ci/rotation");
    fs::write(&file, format!("{next}\n")).on("write", &file)?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::step::TURNS;

    /// Maximum number of processor minutes that the rotating rows may add to a run. The rows that always run, with the builds,
    /// take about 45, and two processors have 80 in the 40 minutes of a run.
    const BOUND: u32 = 24;

    #[test]
    fn all_turns_run_every_row_and_each_turn_is_bounded() {
        let mut seen: Vec<&str> = Vec::new();
        for turn in 0..TURNS {
            let rows = by_turn(false, turn);
            let rotating: u32 =
                rows.iter().filter(|chosen| chosen.row.turn != Turn::Always).map(|chosen| chosen.row.minutes).sum();
            assert!((1..=BOUND).contains(&rotating), "turn {turn}: {rotating} minutes");
            seen.extend(rows.iter().map(|chosen| chosen.row.name));
        }
        let missing: Vec<_> = ROWS.iter().filter(|row| !seen.contains(&row.name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn all_rows_begin_with_those_of_the_turn() {
        let names = |chosen: Vec<Chosen>| chosen.iter().map(|chosen| chosen.row.name).collect::<Vec<_>>();
        let (own, all) = (names(by_turn(false, 3)), names(by_turn(true, 3)));
        assert_eq!(all[..own.len()], own);
        assert_eq!(all.len(), ROWS.len());
    }

    #[test]
    fn row_names_are_unique_and_no_suite_has_one() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..index].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(!row.why.is_empty());
        }
    }

    #[test]
    fn suite_name_limits_rows_and_row_name_selects_whole_row() {
        let chosen = by_name(&["attack".to_owned(), "pool".to_owned()], false).unwrap();
        let user = chosen.iter().find(|chosen| chosen.row.name == "user").unwrap();
        assert_eq!(user.only, ["attack", "pool"]);
        assert!(chosen.iter().all(|chosen| chosen.row.turn == Turn::Always));
        assert!(by_name(&["lab-6.1-root".to_owned()], false).unwrap()[0].only.is_empty());
    }

    #[test]
    fn committed_rotation_is_a_number() {
        rotation(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
    }
}
