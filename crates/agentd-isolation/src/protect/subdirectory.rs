//! Matches the entries of a directory below the root of a grant with the list.

use super::list::{self, LIST};
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path},
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
    /// The components before the last one.
    parent: &'static Path,
    matched: Match,
}

static NAMES: LazyLock<Names> = LazyLock::new(Names::of_list);

struct Names {
    by_name: HashMap<&'static [u8], Vec<ListedName>>,
    /// For each first byte, the lengths of the names as bits. Most names of a directory are excluded by this without a hash.
    lengths: [u64; 256],
}

impl Names {
    fn of_list() -> Self {
        let mut names = Self { by_name: HashMap::new(), lengths: [0; 256] };
        for path in LIST.workspace.iter().copied() {
            let matched = if LIST.of_repository.contains(&path) { Match::IfRepository } else { Match::Listed };
            for (depth, place) in Path::new(path).ancestors().enumerate() {
                names.add(place, if depth == 0 { matched } else { Match::IfLink });
            }
        }
        names
    }

    fn add(&mut self, path: &'static Path, matched: Match) {
        let Some(name) = path.file_name().map(OsStr::as_bytes) else { return };
        if let Some(first) = name.first() {
            self.lengths[usize::from(*first)] |= length_bit(name);
        }
        self.by_name.entry(name).or_default().push(ListedName { parent: path.parent().unwrap_or(Path::new("")), matched });
    }
}

/// Returns the bit of a name's length; longer names share the last one.
fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

/// Returns whether listed names count in a directory, given by its path below the root of a grant. The root's own names are looked up
/// directly, and no tool enters a `.git` directory.
pub(super) fn counts(directory: &Path) -> bool {
    !directory.as_os_str().is_empty() && !is_in_git(directory)
}

/// Returns whether a path has a component `.git`.
pub(super) fn is_in_git(path: &Path) -> bool {
    path.components().any(|part| matches!(part, Component::Normal(name) if name == ".git"))
}

/// Returns whether the entry `name` of a directory, given by its path below the root of a grant, is listed.
pub(super) fn find(directory: &Path, name: &[u8]) -> Option<Match> {
    if list::suffix(name).is_some() {
        return Some(Match::Listed);
    }
    let may_match = NAMES.lengths[usize::from(*name.first()?)] & length_bit(name) != 0;
    let names = NAMES.by_name.get(name).filter(|_| may_match)?;
    names.iter().filter(|name| directory.ends_with(name.parent)).map(|name| name.matched).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_needs_the_whole_listed_path_and_prefers_the_widest_match() {
        let found = |directory: &str, name: &str| find(Path::new(directory), name.as_bytes());
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
}
