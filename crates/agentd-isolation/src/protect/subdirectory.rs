//! Matches the entries of a directory below the root of a grant with the list.

use super::{
    case,
    list::{self, LIST},
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The result of matching one name. The greatest of several results counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    /// A directory that listed paths lead through. Such a name is listed if it is a symbolic link: a tool follows the link.
    IfLink,
    /// The name is listed if the directory is the root of a repository.
    IfRepository,
    Listed,
}

/// The last component of a listed path, or of a directory that a listed path leads through.
struct ListedName {
    path: &'static Path,
    matched: Match,
}

static NAMES: LazyLock<Names> = LazyLock::new(Names::of_list);

struct Names {
    /// By the key of the last component.
    by_key: HashMap<Vec<u8>, Vec<ListedName>>,
    /// For each first byte, the lengths of the keys as bits. Most names of a directory are excluded by this without a hash.
    lengths: [u64; 256],
}

impl Names {
    fn of_list() -> Self {
        let mut names = Self { by_key: HashMap::new(), lengths: [0; 256] };
        for path in LIST.workspace.iter().copied() {
            let matched = if LIST.of_repository.contains(&path) { Match::IfRepository } else { Match::Listed };
            for (depth, place) in Path::new(path).ancestors().enumerate() {
                names.add(place, if depth == 0 { matched } else { Match::IfLink });
            }
        }
        names
    }

    fn add(&mut self, path: &'static Path, matched: Match) {
        let Some(key) = path.file_name().map(|name| case::key(name.as_bytes())) else { return };
        if let Some(first) = key.first() {
            self.lengths[usize::from(*first)] |= length_bit(&key);
        }
        self.by_key.entry(key.into_owned()).or_default().push(ListedName { path, matched });
    }
}

/// Returns the bit of a name's length; longer names share the last one.
fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

/// Returns whether listed names count in a directory, given by its path below the root of a grant. The root's own names are
/// looked up directly.
pub(super) fn counts(directory: &Path) -> bool {
    !directory.as_os_str().is_empty()
}

/// Returns whether the entry `name` of a directory, given by its path below the root of a grant, is listed. A name that differs
/// from the list only in a way that some file systems ignore is also listed if `leads_there` returns true. `leads_there` returns
/// whether the kernel finds the entry at the given path below the directory, which is spelled as in the list.
pub(super) fn find(directory: &Path, name: &[u8], leads_there: impl Fn(&Path) -> bool) -> Option<Match> {
    if list::suffix(name).is_some() {
        return Some(Match::Listed);
    }
    let key = case::key(name);
    let may_match = NAMES.lengths[usize::from(*key.first()?)] & length_bit(&key) != 0;
    let names = NAMES.by_key.get(&*key).filter(|_| may_match)?;
    let counts = |listed: &&ListedName| {
        let parent = listed.path.parent().unwrap_or(Path::new(""));
        if listed.path.ends_with(OsStr::from_bytes(name)) && directory.ends_with(parent) {
            return true;
        }
        match depth_below(directory, parent) {
            Some(depth) => leads_there(&(0..depth).map(|_| "..").collect::<PathBuf>().join(listed.path)),
            None => false,
        }
    };
    names.iter().filter(counts).map(|listed| listed.matched).max()
}

/// Returns the number of components of `parent`, if a file system that ignores case may take the end of `directory` for `parent`.
fn depth_below(directory: &Path, parent: &Path) -> Option<usize> {
    let mut names = directory.iter().rev();
    let may_equal = |own: &OsStr| names.next().is_some_and(|name| case::key(name.as_bytes()) == case::key(own.as_bytes()));
    parent.iter().rev().all(may_equal).then(|| parent.iter().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_needs_the_whole_listed_path_and_prefers_the_widest_match() {
        let found = |directory: &str, name: &str| find(Path::new(directory), name.as_bytes(), |_| false);
        assert_eq!(found("a/b", ".envrc"), Some(Match::Listed));
        assert_eq!(found("a/b", "x.code-workspace"), Some(Match::Listed));
        assert_eq!(found("a/.cargo", "config.toml"), Some(Match::Listed));
        assert_eq!(found("a/b", ".cargo"), Some(Match::IfLink));
        assert_eq!(found("a/.jj", "repo"), Some(Match::IfLink));
        assert_eq!(found("a/b", "lefthook.yml"), Some(Match::IfRepository));
        for (directory, name) in
            [("a/b", "config.toml"), ("a/x.cargo", "config.toml"), ("a/b", "repo"), ("a", ".envrc2"), ("a", "")]
        {
            assert_eq!(found(directory, name), None, "{directory} {name}");
        }
    }

    #[test]
    fn name_in_another_case_is_listed_if_the_kernel_finds_it_by_the_name_of_the_list() {
        let cases = [
            ("a", ".ENVRC", ".envrc", Match::Listed),
            ("a/.CARGO", "config.toml", "../.cargo/config.toml", Match::Listed),
            ("a/.jj/REPO", "Config.toml", "../../.jj/repo/config.toml", Match::Listed),
            ("a", ".Cargo", ".cargo", Match::IfLink),
            ("a", ".v\u{17f}code", ".vscode", Match::Listed),
            ("a", "agents.MD", "AGENTS.md", Match::Listed),
        ];
        for (directory, name, path, expected) in cases {
            let found = |there: &str| find(Path::new(directory), name.as_bytes(), |path| path == Path::new(there));
            assert_eq!((found(path), found("other")), (Some(expected), None), "{directory}/{name}");
        }
        let none = find(Path::new("a/x.cargo"), b"CONFIG.TOML", |_| true);
        assert_eq!((none, find(Path::new("a"), b"", |_| true)), (None, None));
    }
}
