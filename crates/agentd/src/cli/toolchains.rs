//! The caller's toolchains and package caches: which of them are shown, and hints for programs that are in none of them.

use super::{grants::Guard, writer};
use agentd_core::Grant;
use agentd_isolation::{
    SYSTEM_DIRECTORIES,
    layouts::{self, Caller, LeftOut, ShownLayouts},
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The maximum number of directories in a hint.
const MAX_NAMED: usize = 3;
/// The maximum number of words of a command that are looked up in the hidden directories.
const MAX_WORDS: usize = 256;

/// Returns grants of the toolchains on the caller's `PATH`, except those named in `off`.
pub(crate) fn toolchains(guard: &Guard, off: &[String]) -> ShownLayouts {
    with_caller(guard, |caller| layouts::toolchains(caller, without(off)))
}

/// Returns copy-on-write grants of the caller's package caches, except those named in `off`, for a sandbox with this home
/// directory.
pub(crate) fn caches(guard: &Guard, home: &Path, granted: &[Grant], off: &[String]) -> Vec<Grant> {
    with_caller(guard, |caller| layouts::caches(caller, home, granted, without(off)).grants)
}

fn with_caller<T>(guard: &Guard, ask: impl FnOnce(&Caller<'_>) -> T) -> T {
    ask(&Caller { guard, path: &search_path(), variable: &|name| std::env::var_os(name) })
}

fn without(off: &[String]) -> LeftOut<'_> {
    if off.iter().any(|name| name == "all") { LeftOut::All } else { LeftOut::Tools(off) }
}

fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Prints how to grant the hidden directories of the caller's `PATH` that contain a program, after that program was not found.
pub(crate) fn hint(program: &str, granted: &[Grant]) {
    let guard = Guard::host();
    let left_out = toolchains(&guard, &[]).left_out;
    for entry in hidden(&search_path(), granted).into_iter().filter(|entry| entry.join(program).is_file()).take(MAX_NAMED) {
        if let Some((path, reason)) = left_out.iter().find(|(path, _)| path.canonicalize().is_ok_and(|at| entry.starts_with(at)))
        {
            writer::message(format_args!(
                "note: {program} is in {}, which is not visible in the sandbox: {}: {reason}",
                entry.display(),
                path.display()
            ));
            continue;
        }
        let shown = directory_to_grant(&entry, &entry.join(program), &guard);
        let (entry, remedy) = (entry.display(), shown.display());
        match guard.refusal(&shown) {
            None => writer::message(format_args!(
                "note: {program} is in {entry}, which is not visible in the sandbox — use --ro {remedy}"
            )),
            Some(reason) => {
                writer::message(format_args!(
                    "note: {program} is in {entry}, which is not visible in the sandbox and cannot be granted: {reason}"
                ));
            }
        }
    }
}

/// Prints the line of [`hint`] after a command ended with "not found" (`sh(1p)`). A shell does not report which program it did
/// not find. If an argument names a program that only a hidden directory has, the hint is about that program. Otherwise prints
/// one line with the hidden directories of `PATH` below the home directory.
pub(crate) fn hint_after_shell(argv: &[OsString], granted: &[Grant]) {
    let (path, guard) = (search_path(), Guard::host());
    let hidden = hidden(&path, granted);
    if let Some(program) = hidden_program(argv, &path, &hidden) {
        return hint(&program, granted);
    }
    let Some(home) = guard.home().and_then(|home| home.canonicalize().ok()) else { return };
    let below = hidden.iter().filter(|entry| entry.starts_with(&home) && guard.refusal(entry).is_none()).take(MAX_NAMED);
    let options: Vec<String> = below.map(|entry| format!("--ro {}", entry.display())).collect();
    if !options.is_empty() {
        let options = options.join(" or ");
        writer::message(format_args!(
            "note: the missing program may be in a directory of PATH that is not visible in the sandbox — use {options}"
        ));
    }
}

/// Returns the first word of the arguments that is the name of a program in a hidden directory, and in no other entry of `path`.
fn hidden_program(argv: &[OsString], path: &OsString, hidden: &[PathBuf]) -> Option<String> {
    let is_shown = |name: &str| {
        let entries = std::env::split_paths(path).filter_map(|entry| entry.canonicalize().ok());
        entries.filter(|entry| !hidden.contains(entry)).any(|entry| entry.join(name).is_file())
    };
    let is_hidden = |name: &str| hidden.iter().any(|entry| entry.join(name).is_file());
    let words: Vec<String> = argv.iter().flat_map(|argument| words(&argument.to_string_lossy())).take(MAX_WORDS).collect();
    words.into_iter().find(|name| is_hidden(name) && !is_shown(name))
}

/// Splits shell text at all characters that are unusual in names of programs.
fn words(text: &str) -> Vec<String> {
    let is_usual = |c: char| c.is_alphanumeric() || "._+-".contains(c);
    let named = |word: &&str| !word.is_empty() && !word.starts_with(['.', '-']);
    text.split(|c| !is_usual(c)).filter(named).map(str::to_owned).collect()
}

/// Returns the existing directories of a search path that are hidden in a sandbox with these grants.
fn hidden(path: &OsString, granted: &[Grant]) -> Vec<PathBuf> {
    let is_shown = |entry: &Path| {
        SYSTEM_DIRECTORIES.iter().any(|system| entry.starts_with(system))
            || granted.iter().any(|grant| entry.starts_with(&grant.path))
    };
    let mut hidden: Vec<PathBuf> = Vec::new();
    for entry in std::env::split_paths(path).filter_map(|entry| entry.canonicalize().ok()) {
        if entry.is_dir() && !is_shown(&entry) && !hidden.contains(&entry) {
            hidden.push(entry);
        }
    }
    hidden
}

/// Returns the directory to grant for a program in `entry`. If the program is a link, this is the directory that contains link
/// and target, unless the guard rejects it; then it is `entry`.
fn directory_to_grant(entry: &Path, program: &Path, guard: &Guard) -> PathBuf {
    let real = program.canonicalize().unwrap_or_else(|_| program.to_path_buf());
    let both = entry.ancestors().find(|above| real.starts_with(above)).unwrap_or(entry);
    if guard.refusal(both).is_none() { both.to_path_buf() } else { entry.to_path_buf() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Access;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn directory_to_grant_contains_link_and_its_target() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::for_home(Some(home.as_os_str()));
        for directory in ["tool/bin", "tool/lib", "bin", "other"] {
            fs::create_dir_all(home.join(directory)).unwrap();
        }
        fs::write(home.join("tool/lib/x"), "").unwrap();
        fs::write(home.join("other/x"), "").unwrap();
        symlink("../lib/x", home.join("tool/bin/x")).unwrap();
        symlink("../other/x", home.join("bin/x")).unwrap();
        assert_eq!(directory_to_grant(&home.join("tool/bin"), &home.join("tool/bin/x"), &guard), home.join("tool"));
        // The only common ancestor is the home directory, which is never granted.
        assert_eq!(directory_to_grant(&home.join("bin"), &home.join("bin/x"), &guard), home.join("bin"));
    }

    #[test]
    fn hidden_program_is_found_by_name_in_the_text_of_a_shell() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        for directory in ["shown", "hidden"] {
            fs::create_dir(home.join(directory)).unwrap();
        }
        for program in ["shown/both", "hidden/both", "hidden/uv"] {
            fs::write(home.join(program), "").unwrap();
        }
        let path = std::env::join_paths(["shown", "hidden"].map(|entry| home.join(entry))).unwrap();
        let found = |text: &str| hidden_program(&["sh", "-c", text].map(OsString::from), &path, &[home.join("hidden")]);
        for text in ["uv --version", "both;uv", "x=$(uv)", "if uv; then both; fi", "/opt/uv"] {
            assert_eq!(found(text).as_deref(), Some("uv"), "{text}");
        }
        for text in ["both", "uvx", "-uv", "../hidden", ""] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn search_path_entries_without_grant_are_hidden() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        for directory in ["shown/bin", "hidden/bin"] {
            fs::create_dir_all(home.join(directory)).unwrap();
        }
        let entries = ["shown/bin", "hidden/bin", "missing", "hidden/bin"].map(|entry| home.join(entry));
        let path = std::env::join_paths(entries.iter().map(PathBuf::as_path).chain([Path::new("/usr/bin")])).unwrap();
        assert_eq!(hidden(&path, &[Grant::new(home.join("shown"), Access::ReadOnly)]), [home.join("hidden/bin")]);
    }
}
