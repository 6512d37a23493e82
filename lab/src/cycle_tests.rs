//! The imports between the files of a crate form no large cycle, so that each file can be read after those it builds on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The maximum number of files in a cycle.
const MOST: usize = 4;

type Module = Vec<String>;

#[test]
fn imports_within_a_crate_form_no_cycle_of_more_than_four_files() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let crates = fs::read_dir(workspace.join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let large: Vec<_> = crates
        .chain([workspace.join("lab")])
        .flat_map(|member| cycles(&imports(&member.join("src"))))
        .filter(|cycle| cycle.len() > MOST)
        .collect();
    assert!(large.is_empty(), "cycles of more than {MOST} files: {large:#?}");
}

#[test]
fn cycle_over_a_reexport_is_found() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("a")).unwrap();
    fs::write(place.path().join("lib.rs"), "mod a;\nmod d;\n").unwrap();
    fs::write(place.path().join("a.rs"), "mod b;\nmod c;\nuse b::B;\npub use c::C;\npub struct A;\n").unwrap();
    fs::write(place.path().join("a/b.rs"), "use {super::C, std::fs};\n").unwrap();
    fs::write(place.path().join("a/c.rs"), "fn f() -> crate::a::A { loop {} }\n// use super::b::B;\n").unwrap();
    fs::write(place.path().join("d.rs"), "use crate::a::{b::B, C};\n").unwrap();
    let found = cycles(&imports(place.path()));
    let files = ["a.rs", "a/b.rs", "a/c.rs"].map(|file| place.path().join(file));
    assert_eq!(found, [BTreeSet::from(files)].into());
}

/// A path in a file of a crate, and whether the file only re-exports it.
struct Import {
    path: Module,
    exported: bool,
}

/// Returns the files that each file of a crate imports from. A re-exported name counts as a name of the file that defines it.
/// Test modules are left out.
fn imports(source: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut files = BTreeMap::new();
    find(source, &[], &mut files);
    let imports_of = |(module, file): (&Module, &PathBuf)| {
        let text = fs::read_to_string(file).unwrap();
        let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
        let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let absolute = |Import { path, exported }| Some(Import { path: absolute(module, path, &files)?, exported });
        (module.clone(), paths(code).into_iter().filter_map(absolute).collect())
    };
    let imports: BTreeMap<Module, Vec<Import>> = files.iter().map(imports_of).collect();
    let imported_by = |(module, file): (&Module, &PathBuf)| {
        let own = imports[module].iter().filter(|import| !import.exported);
        let defined = own.map(|import| &files[&definition(&import.path, &imports)]);
        (file.clone(), defined.filter(|other| *other != file).cloned().collect())
    };
    files.iter().map(imported_by).collect()
}

/// Returns the module that defines what a path names.
fn definition(path: &[String], imports: &BTreeMap<Module, Vec<Import>>) -> Module {
    let module = (0..=path.len()).rev().map(|length| &path[..length]).find(|module| imports.contains_key(*module)).unwrap();
    let Some((name, rest)) = path[module.len()..].split_first() else { return module.to_vec() };
    let export = imports[module].iter().find(|import| import.exported && import.path.last() == Some(name) && import.path != path);
    match export {
        Some(export) => definition(&[&export.path, rest].concat(), imports),
        None => module.to_vec(),
    }
}

/// Finds the modules in a directory, with their files.
fn find(directory: &Path, module: &[String], modules: &mut BTreeMap<Module, PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = [module, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            find(&path, &inner, modules);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !name.ends_with("tests") {
            let root = matches!(name.as_str(), "lib" | "main" | "mod");
            modules.entry(if root { module.to_vec() } else { inner }).or_insert(path);
        }
    }
}

/// Returns the paths in `use` declarations and the paths that begin with `crate` or `super`.
fn paths(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = ["use ", "crate::", "super::"].iter().filter_map(|word| rest.find(word)).min() {
        let starts = rest[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && !"_:".contains(before));
        rest = &rest[at..];
        let line = code[..code.len() - rest.len()].rsplit('\n').next().unwrap_or_default();
        let exported = line.trim_start().starts_with("pub");
        let mut own = Vec::new();
        let end = match rest.strip_prefix("use ") {
            Some(declared) if starts => {
                let end = declared.find(';').unwrap_or(declared.len());
                expand(&declared[..end].split_whitespace().collect::<Vec<_>>().join(" "), &[], &mut own);
                end + "use ".len()
            }
            _ => {
                let end = rest.find(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter)).unwrap_or(rest.len());
                if starts {
                    expand(&rest[..end], &[], &mut own);
                }
                end.max(1)
            }
        };
        let exported = exported && rest.starts_with("use ");
        found.extend(own.into_iter().map(|path| Import { path, exported }));
        rest = &rest[end..];
    }
    found
}

/// Expands a `use` tree such as `a::{b, c::d}` to its paths.
fn expand(tree: &str, before: &[String], found: &mut Vec<Module>) {
    let tree = tree.trim();
    let (path, group) = tree.split_once('{').unwrap_or((tree.split(" as ").next().unwrap_or_default(), ""));
    let own = path.split("::").map(str::trim).filter(|part| !part.is_empty() && *part != "self").map(str::to_owned);
    let path: Module = before.iter().cloned().chain(own).collect();
    let mut depth = 0;
    let parts = group.strip_suffix('}').unwrap_or(group).split(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    });
    match group {
        "" => found.push(path),
        _ => parts.for_each(|part| expand(part, &path, found)),
    }
}

/// Returns the path from the crate's root; `None` for a path into another crate.
fn absolute(module: &[String], path: Module, modules: &BTreeMap<Module, PathBuf>) -> Option<Module> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "super" => Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat()),
        child => modules.contains_key(&[module, &[child.to_owned()]].concat()).then(|| [module, &path].concat()),
    }
}

/// Returns the sets of files that reach each other by imports.
fn cycles(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeSet<BTreeSet<PathBuf>> {
    let reached_from = |file: &PathBuf| {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<_> = imports[file].iter().collect();
        while let Some(next) = waiting.pop() {
            if reached.insert(next.clone()) {
                waiting.extend(&imports[next]);
            }
        }
        reached
    };
    let reach: BTreeMap<_, _> = imports.keys().map(|file| (file, reached_from(file))).collect();
    let cycle_of = |file: &PathBuf| reach[file].iter().filter(|other| reach[*other].contains(file)).cloned().collect();
    imports.keys().map(cycle_of).filter(|cycle: &BTreeSet<_>| cycle.len() > 1).collect()
}
