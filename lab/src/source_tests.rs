//! Reads the sources of the workspace as words, for the tests of its structure and names.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the `src` directory of each member of the workspace.
pub(crate) fn members() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let crates = fs::read_dir(workspace.join("crates")).unwrap().map(|entry| entry.unwrap().path().join("src"));
    crates.chain([workspace.join("lab/src")]).collect()
}

/// Returns the Rust files below a directory, without those that hold only tests.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = all_files(directory);
    found.retain(|path| !path.to_str().unwrap().ends_with("tests.rs"));
    found
}

/// Returns all Rust files below a directory.
pub(crate) fn all_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the words of a file: identifiers, `::`, other punctuation and delimiters, one character each. Literals and comments
/// have no words. Items under `#[cfg(test)]` are left out.
pub(crate) fn words(file: &Path) -> Vec<String> {
    let tokens: TokenStream = fs::read_to_string(file).unwrap().parse().unwrap();
    let mut words = Vec::new();
    flatten(tokens, &mut words);
    without_tests(&words)
}

fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    let mut colon = false;
    for token in tokens {
        let doubled = colon && matches!(&token, TokenTree::Punct(sign) if sign.as_char() == ':');
        colon = matches!(&token, TokenTree::Punct(sign) if sign.as_char() == ':') && !doubled;
        match token {
            TokenTree::Punct(_) if doubled => *words.last_mut().unwrap() = "::".to_owned(),
            TokenTree::Punct(sign) => words.push(sign.to_string()),
            TokenTree::Ident(name) => words.push(name.to_string()),
            TokenTree::Literal(_) => words.push(String::new()),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis | Delimiter::None => ("(", ")"),
                };
                words.push(open.to_owned());
                flatten(group.stream(), words);
                words.push(close.to_owned());
            }
        }
    }
}

/// Leaves out each item that follows `#[cfg(test)]`, up to its `;` or its closing brace.
fn without_tests(words: &[String]) -> Vec<String> {
    let test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if !words[at..].iter().map(String::as_str).take(test.len()).eq(test) {
            kept.push(words[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        while at < words.len() {
            let word = words[at].as_str();
            depth += i32::from(["{", "(", "["].contains(&word)) - i32::from(["}", ")", "]"].contains(&word));
            at += 1;
            if depth == 0 && [";", "}"].contains(&word) {
                break;
            }
        }
    }
    kept
}
