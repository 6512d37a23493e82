//! `docs/attacks.md` describes every group of attacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

#[test]
fn attack_groups_of_the_code_are_those_of_the_table() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(workspace.join("docs/attacks.md")).unwrap();
    let mut found: BTreeMap<u32, BTreeSet<PathBuf>> = BTreeMap::new();
    for source in ["agentd-attack/src", "agentd-isolation/src"] {
        for entry in fs::read_dir(workspace.join("crates").join(source)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for group in groups(&text) {
                found.entry(group).or_default().insert(Path::new(source).join(path.file_name().unwrap()));
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    for (group, sources) in &found {
        let row = table.lines().find(|line| line.starts_with(&format!("| A{group} |")));
        let row = row.unwrap_or_else(|| panic!("docs/attacks.md has no row for A{group}"));
        for source in sources {
            assert!(row.contains(&format!("`{}`", source.display())), "the row of A{group} lacks {}", source.display());
        }
    }
    let rows = table.lines().filter_map(|line| line.strip_prefix("| A")?.split(' ').next()?.parse().ok());
    assert_eq!(rows.collect::<BTreeSet<u32>>(), found.into_keys().collect());
}

#[test]
fn every_check_is_named_after_its_group() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates/agentd-attack/src");
    let texts = fs::read_dir(sources).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let texts: Vec<String> = texts.collect();
    let checks = texts.iter().flat_map(|text| text.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()));
    let checks: Vec<&str> = checks.collect();
    assert!(checks.len() > 20, "{checks:?}");
    let has_group =
        |name: &&str| name.strip_prefix('a').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    let without: Vec<&str> = checks.into_iter().filter(|name| !has_group(name)).collect();
    assert!(without.is_empty(), "checks without a group: {without:?}");
}

/// Returns the groups of the checks that a file defines (`"a5_…"`), and those that its module documentation names (`A5`).
fn groups(text: &str) -> BTreeSet<u32> {
    let number = |word: &str| word.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok();
    let is_check = |part: &str| part.contains('_') && part.split('_').next().is_some_and(|head| head.parse::<u32>().is_ok());
    let checks = text.split(": \"a").skip(1).filter(|part| is_check(part.split('"').next().unwrap_or_default()));
    let head = text.lines().filter_map(|line| line.strip_prefix("//!")).flat_map(|line| line.split(' '));
    let documented = head.filter_map(|word| word.strip_prefix('A'));
    checks.chain(documented).filter_map(number).collect()
}
