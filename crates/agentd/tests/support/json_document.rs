//! Compares JSON objects with the tables of `docs/json.md`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../../../../docs/json.md");

/// A row of a table.
struct Row<'a> {
    /// The type of the value.
    kind: &'a str,
    /// True if the key is present only under a condition.
    is_conditional: bool,
}

/// Asserts that the table `number` below the heading `section` has every key of `objects`, and that the objects together have
/// every key of the table whose presence has no condition.
pub fn is_documented(section: &str, number: usize, objects: &[&Value]) {
    let rows = table(section, number);
    let (mut leaves, mut present) = (BTreeSet::new(), BTreeSet::new());
    objects.iter().for_each(|object| walk(object, "", &rows, &mut leaves, &mut present));
    let is_known = |leaf: &String| {
        let parts = [format!("{leaf}."), format!("{leaf}[]")];
        rows.keys().any(|key| key == leaf || parts.iter().any(|part| key.starts_with(part.as_str())))
    };
    let unknown: Vec<_> = leaves.iter().filter(|leaf| !is_known(leaf)).collect();
    assert!(unknown.is_empty(), "docs/json.md, {section}: not documented: {unknown:?}");
    let is_missing = |(key, row): &(&&str, &Row<'_>)| !row.is_conditional && !present.contains(**key);
    let missing: Vec<_> = rows.iter().filter(is_missing).map(|(key, _)| key).collect();
    assert!(missing.is_empty(), "docs/json.md, {section}: no object has {missing:?}");
}

/// Returns the rows of a table by key.
fn table(section: &str, number: usize) -> BTreeMap<&'static str, Row<'static>> {
    let heading = format!("## {section}\n");
    let text = DOCUMENT.split_once(&heading).unwrap_or_else(|| panic!("docs/json.md has no section {section}")).1;
    let text = text.split("\n## ").next().unwrap();
    let table = text.split("| key | type | meaning |\n").nth(number + 1);
    let table = table.unwrap_or_else(|| panic!("{section}: no table {number}"));
    let lines = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [key, kind, meaning] = cells[..] else { panic!("docs/json.md: not three cells: {line}") };
        let is_conditional = meaning.starts_with("only ");
        (key.trim_start_matches("| ").trim_matches('`'), Row { kind, is_conditional })
    };
    lines.map(row).collect()
}

/// Collects the keys that are present, and those whose value contains no further keys.
fn walk(
    value: &Value,
    path: &str,
    rows: &BTreeMap<&str, Row<'_>>,
    leaves: &mut BTreeSet<String>,
    present: &mut BTreeSet<String>,
) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(_) if rows.get(path).is_some_and(|row| row.kind == "object") => Vec::new(),
        Value::Object(map) if path.is_empty() => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (format!("{path}.{key}"), value)).collect(),
        Value::Array(all) => all.iter().filter(|part| part.is_object()).map(|part| (format!("{path}[]"), part)).collect(),
        _ => Vec::new(),
    };
    present.insert(path.to_owned());
    if parts.is_empty() && !path.is_empty() {
        leaves.insert(path.to_owned());
    }
    parts.iter().for_each(|(path, part)| walk(part, path, rows, leaves, present));
}
