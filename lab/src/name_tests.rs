//! A type name stands for few things, so that a reader knows which one is meant.

use crate::source_tests::{files, members, words};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The maximum number of types with one name in the workspace.
const MAX_DEFINITIONS: usize = 3;

#[test]
fn no_type_name_is_defined_more_than_three_times() {
    let all: Vec<PathBuf> = members().iter().flat_map(|source| files(source)).collect();
    let often: BTreeMap<_, _> = definitions(&all).into_iter().filter(|(_, files)| files.len() > MAX_DEFINITIONS).collect();
    assert!(often.is_empty(), "type names with more than {MAX_DEFINITIONS} definitions: {often:#?}");
}

#[test]
fn definitions_of_every_kind_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.rs");
    let text = "struct A;\nenum A {}\ntrait A {}\ntype A = u8;\nunion A { a: u8 }\n// struct A;\nfn struct_a() -> A {}\n\
                impl B for A { type A = u8; }\ntrait B { type A; }\nconst C: &str = \"struct A;\";\n\
                #[cfg(test)]\nmod tests { struct A; }\n";
    std::fs::write(&file, text).unwrap();
    let counts: Vec<_> = definitions(&[file]).into_iter().map(|(name, files)| (name, files.len())).collect();
    assert_eq!(counts, [("A".to_owned(), 5), ("B".to_owned(), 1)]);
}

/// Returns the names of the structs, enums, unions, traits and type aliases in files, each with the files that define it.
/// Associated types are not definitions.
fn definitions(files: &[PathBuf]) -> BTreeMap<String, Vec<&Path>> {
    let mut found: BTreeMap<String, Vec<&Path>> = BTreeMap::new();
    for file in files {
        for name in defined(&words(file)) {
            found.entry(name).or_default().push(file);
        }
    }
    found
}

fn defined(words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    // For each open brace: whether it belongs to an `impl` or a trait.
    let mut open: Vec<bool> = Vec::new();
    let mut associated = false;
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).filter(|next| next.starts_with(|letter: char| letter.is_uppercase()));
        match (word.as_str(), next) {
            ("struct" | "enum" | "union" | "trait", Some(name)) => found.push(name.clone()),
            ("type", Some(name)) if open.last() != Some(&true) => found.push(name.clone()),
            _ => {}
        }
        match word.as_str() {
            // `impl` before a type begins an item unless it is in a signature.
            "impl" if at == 0 || ["}", ";", "]", "unsafe", "{"].contains(&words[at - 1].as_str()) => associated = true,
            "trait" => associated = true,
            "{" => open.push(std::mem::take(&mut associated)),
            "}" => drop(open.pop()),
            _ => {}
        }
    }
    found
}
