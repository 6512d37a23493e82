//! `docs/decisions/README.md` lists every decision with its title and its status.

use std::{fs, path::Path};

#[test]
fn decision_table_has_titles_and_statuses_of_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/decisions");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| [")).collect();
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut expected: Vec<String> = names
        .filter(|name| name != "README.md")
        .map(|name| row(&name, &fs::read_to_string(folder.join(&name)).unwrap()))
        .collect();
    rows.sort_unstable();
    expected.sort_unstable();
    assert_eq!(rows, expected);
}

/// Returns the row of a decision, with its whole status.
fn row(name: &str, text: &str) -> String {
    let (number, title) = text.lines().next().and_then(|line| line.strip_prefix("# ")?.split_once(": ")).unwrap();
    let status = text.split("\n\n").find_map(|paragraph| paragraph.strip_prefix("Status: ")).unwrap().replace('\n', " ");
    // A link is `[NUMBER](FILE)`; the table has the number only.
    let words: Vec<&str> = status.split("](").map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
    let status = words.concat().replace('[', "");
    format!("| [{number}]({name}) | {title} | {} |", status.trim_end())
}
