//! The table of `docs/compatibility.md`. Each test has a row, with its observations in each backend as each user. A test fails if
//! the document contains something else; with `AGENTD_WRITE_TABLES=1`, it writes its cells instead.

use std::{
    fs,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

const DOCUMENT: &str = include_str!("../../../../docs/compatibility.md");
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
const HEAD: &str = "| programs | native, root | native, user | container, root | container, user | test |";
const NOT_TRIED: &str = "not tried";

/// The users of the table. `User` has no subordinate ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum As {
    Root,
    User,
}

impl As {
    /// The user that runs this test.
    pub fn caller() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::User }
    }
}

/// Returns the cells of the row of a test, without the programs and the test.
fn cells(document: &str, test: &str) -> Option<Vec<String>> {
    let line = document.lines().find(|line| line.ends_with(&format!("| `{test}` |")))?;
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    Some(cells[1..cells.len() - 1].iter().map(|cell| (*cell).to_owned()).collect())
}

/// Prints the row of a test with its observations, and compares it with the document, or writes it there.
#[track_caller]
pub fn report(test: &str, programs: &str, seen: &[(&str, As, String)]) {
    static WRITING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let writes = std::env::var_os("AGENTD_WRITE_TABLES").is_some();
    let document = if writes { fs::read_to_string(FILE).unwrap() } else { DOCUMENT.to_owned() };
    let mut cells = cells(&document, test).unwrap_or_else(|| vec![NOT_TRIED.to_owned(); 4]);
    for (backend, user, words) in seen {
        cells[2 * usize::from(*backend == "container") + usize::from(*user == As::User)].clone_from(words);
    }
    let row = format!("| {programs} | {} | `{test}` |", cells.join(" | "));
    io::stdout().write_all(format!("{row}\n").as_bytes()).unwrap();
    if writes {
        fs::write(FILE, with_row(&document, test, &row)).unwrap();
    } else {
        let hint = "to write it: AGENTD_WRITE_TABLES=1 cargo test -p agentd --test compatibility, as root and as a user";
        assert!(document.lines().any(|line| line == row), "docs/compatibility.md lacks the row\n{row}\n{hint}");
    }
}

/// Returns the document with a new or replaced row.
fn with_row(document: &str, test: &str, row: &str) -> String {
    let mut lines: Vec<&str> = document.lines().collect();
    let place = lines.iter().position(|line| line.ends_with(&format!("| `{test}` |")));
    if let Some(place) = place {
        lines[place] = row;
    } else {
        let head = lines.iter().position(|line| *line == HEAD).unwrap();
        let end = lines[head..].iter().position(|line| !line.starts_with('|')).unwrap();
        lines.insert(head + end, row);
    }
    lines.join("\n") + "\n"
}

/// Returns the names of the tests in the document's table.
pub fn named() -> Vec<&'static str> {
    let rows = DOCUMENT.lines().skip_while(|line| *line != HEAD).skip(2).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| Some(row.strip_suffix("` |")?.rsplit_once('`')?.1)).collect()
}
