//! `docs/protocols.md` states the current versions of the wire formats.

use std::{fs, path::Path};

/// The formats with a version: their number in the table, and the file that defines `VERSION`.
const FORMATS: [(u32, &str); 4] = [
    (3, "agentd-supervisor/src/protocol.rs"),
    (4, "agentd-daemon/src/protocol.rs"),
    (5, "agentd-guest/src/frame.rs"),
    (14, "agentd-tool/src/wire.rs"),
];

#[test]
fn versions_of_the_protocol_table_are_those_of_the_code() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(workspace.join("docs/protocols.md")).unwrap();
    for (number, file) in FORMATS {
        let row = table.lines().find(|line| line.starts_with(&format!("| {number} |")));
        let row = row.unwrap_or_else(|| panic!("docs/protocols.md has no row {number}"));
        let code = fs::read_to_string(workspace.join("crates").join(file)).unwrap();
        let definition = code.lines().find_map(|line| line.split_once("const VERSION: u")?.1.split_once(" = "));
        let defined = number_at_start(definition.unwrap_or_else(|| panic!("{file} defines no VERSION")).1);
        let documented = row.split_once(", now ").and_then(|(_, rest)| number_at_start(rest));
        assert!(defined.is_some(), "{file}: VERSION is not a number");
        assert_eq!(documented, defined, "docs/protocols.md, row {number}: VERSION in {file}");
    }
}

fn number_at_start(text: &str) -> Option<u32> {
    text.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
