//! The files of a crate refer to each other in no large cycle, so that each file can be read after those it builds on.

use crate::source_tests::{files, members, words};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The maximum number of files in a cycle.
const MAX_CYCLE: usize = 4;

/// The maximum number of re-exports between a path and the definition of what it names.
const MAX_EXPORTS: usize = 8;

type Module = Vec<String>;

#[test]
fn references_within_a_crate_form_no_cycle_of_more_than_four_files() {
    let large: Vec<_> =
        members().iter().flat_map(|source| cycles(&references(source))).filter(|cycle| cycle.len() > MAX_CYCLE).collect();
    assert!(large.is_empty(), "cycles of more than {MAX_CYCLE} files: {large:#?}");
}

#[test]
fn cycle_over_a_reexport_is_found() {
    let source = [
        ("lib.rs", "mod a;\nmod d;\n"),
        ("a.rs", "mod b;\nmod c;\nuse b::B;\npub use c::C;\npub struct A;\n"),
        ("a/b.rs", "use {super::C, std::fs};\n"),
        ("a/c.rs", "fn f() -> crate::a::A { loop {} }\n// use super::b::B;\n"),
        ("d.rs", "use crate::a::{b::B, C};\n"),
    ];
    assert_eq!(cycles_of(&source), [BTreeSet::from(["a.rs", "a/b.rs", "a/c.rs"].map(str::to_owned))].into());
}

#[test]
fn cycle_over_paths_within_expressions_is_found() {
    let source = [
        ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\npub fn f() { a::f() }\n"),
        ("a.rs", "use super::b;\nfn f() { println!(\"{}\", b::f()) }\n"),
        ("b.rs", "fn f() { crate::c::C::new().d::<u8>() }\n"),
        ("c.rs", "#[cfg(test)]\nmod tests { use crate::d; }\nfn f() { super::f() }\n"),
        ("d.rs", "pub(super) fn d() { let a = std::a::f; \"super::f\"; a.f() }\n"),
    ];
    assert_eq!(cycles_of(&source), [BTreeSet::from(["a.rs", "b.rs", "c.rs", "lib.rs"].map(str::to_owned))].into());
}

/// Returns the cycles of a crate that consists of these files.
fn cycles_of(source: &[(&str, &str)]) -> BTreeSet<BTreeSet<String>> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in source {
        let file = directory.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let name = |file: &PathBuf| file.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_owned();
    cycles(&references(directory.path())).iter().map(|cycle| cycle.iter().map(name).collect()).collect()
}

/// A name that a `use` declaration brings into a file.
struct Import {
    name: String,
    path: Module,
    exported: bool,
}

/// A file of a crate.
struct Source {
    file: PathBuf,
    imports: Vec<Import>,
    /// Paths outside `use` declarations.
    inline: Vec<Module>,
}

type Sources = BTreeMap<Module, Source>;

/// Returns the files that each file of a crate refers to, in `use` declarations or in paths anywhere else. A re-exported name
/// counts as a name of the file that defines it. The import of a module counts only where a path uses the module. Tests are left
/// out.
fn references(source: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let sources: Sources = files(source)
        .into_iter()
        .map(|file| {
            let (imports, inline) = paths(&words(&file));
            (module(source, &file), Source { file, imports, inline })
        })
        .collect();
    let referred_to_by = |(module, source): (&Module, &Source)| {
        let imported = source.imports.iter().filter(|import| !import.exported).map(|import| &import.path);
        let defined =
            imported.chain(&source.inline).filter_map(|path| definition(&absolute(module, path, &sources)?, &sources, 0));
        (source.file.clone(), defined.filter(|file| *file != source.file).collect())
    };
    sources.iter().map(referred_to_by).collect()
}

/// Returns the path of the module that a file holds.
fn module(source: &Path, file: &Path) -> Module {
    let path = file.strip_prefix(source).unwrap().with_extension("");
    let mut module: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    let root = module.last().is_some_and(|name| name == "lib" || name == "mod");
    let program = module == ["main"] && !source.join("lib.rs").exists();
    if root || program {
        module.pop();
    }
    module
}

/// Returns the path from the crate's root; `None` for a path into another crate, or of a name that the file itself defines.
fn absolute(module: &[String], path: &[String], sources: &Sources) -> Option<Module> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat()),
        child if sources.contains_key(&[module, &[child.to_owned()]].concat()) => Some([module, path].concat()),
        name => {
            let import =
                sources[module].imports.iter().find(|import| import.name == name && import.path.first() != Some(first))?;
            Some([&absolute(module, &import.path, sources)?, rest].concat())
        }
    }
}

/// Returns the file that defines what a path names; `None` for a path that ends with a module.
fn definition(path: &[String], sources: &Sources, exports: usize) -> Option<PathBuf> {
    let length = (0..=path.len()).rev().find(|length| sources.contains_key(&path[..*length]))?;
    let (module, source) = (&path[..length], &sources[&path[..length]]);
    let (name, rest) = path[length..].split_first()?;
    let import = source.imports.iter().find(|import| import.name == *name);
    let imported = import.and_then(|import| absolute(module, &import.path, sources));
    match imported {
        Some(imported) if exports < MAX_EXPORTS => definition(&[&imported, rest].concat(), sources, exports + 1),
        _ => Some(source.file.clone()),
    }
}

/// Returns the imports of a file, and its paths outside of `use` declarations.
fn paths(words: &[String]) -> (Vec<Import>, Vec<Module>) {
    let (mut imports, mut inline) = (Vec::new(), Vec::new());
    let is_name = |word: &str| word.starts_with(|letter: char| letter.is_alphabetic() || letter == '_');
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut at = 0;
    while at < words.len() {
        let before = if at == 0 { "" } else { word(at - 1) };
        // `impl Trait + use<>` is not a declaration.
        if word(at) == "use" && word(at + 1) != "<" {
            let end = at + words[at..].iter().position(|word| word == ";").unwrap();
            expand(&words[at + 1..end], &[], before == "pub" || before == ")", &mut imports);
            at = end;
        } else if is_name(word(at)) && before != "::" && before != "." {
            let start = at;
            let mut path = vec![words[at].clone()];
            while word(at + 1) == "::" && is_name(word(at + 2)) {
                path.push(words[at + 2].clone());
                at += 2;
            }
            let visibility =
                ["(", "in"].contains(&before) && start > 1 && words[..start].iter().rev().take(3).any(|word| word == "pub");
            if !visibility {
                inline.push(path);
            }
        }
        at += 1;
    }
    // A single word is a path only if it is a name that the file re-exports: a type, or a function that is called.
    inline.retain(|path| path.len() > 1 || imports.iter().any(|import: &Import| import.exported && import.name == path[0]));
    (imports, inline)
}

/// Expands a `use` tree such as `a::{b, c::d as e}` to its imports.
fn expand(tree: &[String], before: &[String], exported: bool, imports: &mut Vec<Import>) {
    let group = tree.iter().position(|word| word == "{");
    let head = &tree[..group.unwrap_or(tree.len())];
    let renamed = head.iter().position(|word| word == "as");
    let own = head[..renamed.unwrap_or(head.len())].iter().filter(|word| *word != "::");
    let mut path: Module = before.iter().chain(own).cloned().collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let Some(group) = group else {
        let name = renamed.map_or(path.last(), |renamed| head.get(renamed + 1));
        imports.extend(name.cloned().map(|name| Import { name, path, exported }));
        return;
    };
    let mut depth = 0;
    let parts = tree[group + 1..tree.len() - 1].split(|word| {
        depth += i32::from(word == "{") - i32::from(word == "}");
        word == "," && depth == 0
    });
    parts.for_each(|part| expand(part, &path, exported, imports));
}

/// Returns the sets of files that reach each other by references.
fn cycles(references: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeSet<BTreeSet<PathBuf>> {
    let reached_from = |file: &PathBuf| {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<_> = references[file].iter().collect();
        while let Some(next) = waiting.pop() {
            if reached.insert(next.clone()) {
                waiting.extend(&references[next]);
            }
        }
        reached
    };
    let reach: BTreeMap<_, _> = references.keys().map(|file| (file, reached_from(file))).collect();
    let cycle_of = |file: &PathBuf| reach[file].iter().filter(|other| reach[*other].contains(file)).cloned().collect();
    references.keys().map(cycle_of).filter(|cycle: &BTreeSet<_>| cycle.len() > 1).collect()
}
