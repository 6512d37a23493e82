//! Lines of documents and of comments have at most 130 columns (`docs/style.md`), and the cells of tables can be read.

use crate::source_tests::{all_files, members};
use std::{
    fs,
    path::{Path, PathBuf},
};

const COLUMNS: usize = 130;

/// The maximum number of words in a cell of a table. What needs more has a section below the table.
const WORDS: usize = 60;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the documents in these folders of the workspace.
fn documents(folders: &[&str]) -> Vec<PathBuf> {
    let entries = folders.iter().flat_map(|folder| fs::read_dir(workspace().join(folder)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn document_lines_outside_tables_and_code_have_at_most_130_columns() {
    let mut long = Vec::new();
    for path in documents(&["", "docs", "docs/decisions"]) {
        let mut is_code = false;
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            if !is_code && !is_fence && !line.starts_with('|') && line.chars().count() > COLUMNS {
                long.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {COLUMNS} columns: {long:#?}");
}

#[test]
fn comments_of_sources_have_at_most_130_columns() {
    let mut long = Vec::new();
    for path in members().iter().flat_map(|source| all_files(source)) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.trim_start().starts_with("//") && line.chars().count() > COLUMNS {
                long.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {COLUMNS} columns: {long:#?}");
}

#[test]
fn cells_of_tables_have_at_most_60_words() {
    let mut long = Vec::new();
    for path in documents(&["", "docs"]) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
            if line.split(" | ").any(|cell| cell.split_whitespace().count() > WORDS) {
                long.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(long.is_empty(), "a cell has more than {WORDS} words: {long:#?}");
}
