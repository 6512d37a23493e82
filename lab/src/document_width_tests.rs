//! Lines of documents have at most 130 columns (`docs/style.md`).

use std::{fs, path::Path};

const COLUMNS: usize = 130;

#[test]
fn document_lines_outside_tables_and_code_have_at_most_130_columns() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut long = Vec::new();
    for folder in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(workspace.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let mut is_code = false;
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let is_fence = line.trim_start().starts_with("```");
                is_code ^= is_fence;
                if !is_code && !is_fence && !line.starts_with('|') && line.chars().count() > COLUMNS {
                    long.push(format!("{}:{}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(long.is_empty(), "longer than {COLUMNS} columns: {long:#?}");
}
