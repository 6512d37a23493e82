//! Groups changes by grant, place, listed name and kind of change. A report counts by group the changes that it does not name.

use super::{
    list::{self, LIST},
    report::{Change, How},
};
use agentd_core::escape;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The maximum number of groups that are counted for each grant. Further groups are counted for all grants together. A grant has
/// at most about 4,000 groups.
const MAX_GROUPS: usize = 1 << 13;

/// The name of the group of nested git directories.
const GIT_DIRECTORY: &str = "git directory";

/// The name of the group of paths that only a link or a setting leads to.
const OTHER: &str = "other path";

/// The directories in a git directory that contain further git directories.
const NESTS: [&str; 2] = ["modules", "worktrees"];

/// Changes of one kind, of the same listed name, in the same place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Group {
    /// The grant that contains the paths; `None` if no grant with protected paths contains them, or for groups above the limit.
    #[serde(with = "agentd_kernel::path_bytes::maybe")]
    pub grant: Option<PathBuf>,
    /// Whether the paths lie in subdirectories. Otherwise, they are names at the root of the grant or in its own git directory.
    pub in_subdirectory: bool,
    /// The kind of change.
    pub how: How,
    /// The listed path below the directory, `*` and a listed suffix, or the kind of object. One of a fixed set of names, however
    /// a payload names its files.
    pub name: String,
}

impl Group {
    /// Returns the group of a change.
    pub(super) fn of(change: &Change) -> Self {
        let below = change.grant.as_ref().and_then(|grant| change.path.strip_prefix(grant).ok());
        let (in_subdirectory, name) =
            below.map_or((true, OTHER.to_owned()), |below| depth_and_name(below, change.is_git_directory));
        Self { grant: change.grant.clone(), in_subdirectory, how: change.how, name }
    }
}

/// Returns whether a path below the root of a grant lies in a subdirectory, and the `name` of its [`Group`].
fn depth_and_name(below: &Path, is_git_directory: bool) -> (bool, String) {
    if is_git_directory {
        return match below.to_str() {
            // The root of the grant is a bare repository.
            Some("") => (false, ".".to_owned()),
            Some(".git") => (false, ".git".to_owned()),
            _ => (true, GIT_DIRECTORY.to_owned()),
        };
    }
    if let Some(depth) = below.iter().position(|part| part == ".git") {
        return in_git(depth, &below.iter().skip(depth + 1).collect::<PathBuf>());
    }
    if let Some((in_subdirectory, name)) = listed(below) {
        return (in_subdirectory, name);
    }
    // A bare repository, or the grant is itself a git directory.
    let own = LIST.git.iter().chain(&LIST.git_reported).any(|name| below.starts_with(name));
    git_name(below).map_or((true, OTHER.to_owned()), |name| (!own, name.to_owned()))
}

/// Returns the place of a path in a directory `.git`, which has `depth` directories above it in the grant.
fn in_git(depth: usize, below: &Path) -> (bool, String) {
    let mut parts = below.iter();
    let is_nested = parts.next().is_some_and(|first| NESTS.iter().any(|nest| first == *nest)) && parts.next().is_some();
    let name = match git_name(below) {
        Some(name) => format!(".git/{name}"),
        None if below.as_os_str().is_empty() => ".git".to_owned(),
        None => OTHER.to_owned(),
    };
    (depth > 0 || is_nested, name)
}

/// Returns the listed name in a path below a git directory, which may contain further git directories.
fn git_name(below: &Path) -> Option<&'static str> {
    let prefixes: Vec<&Path> = below.ancestors().filter(|prefix| !prefix.as_os_str().is_empty()).collect();
    let names = || LIST.git.iter().chain(&LIST.git_reported).copied();
    let in_prefix = |prefix: &&Path| names().filter(|name| !NESTS.contains(name)).find(|name| prefix.ends_with(name));
    prefixes.iter().rev().find_map(in_prefix).or_else(|| names().find(|name| below == Path::new(name)))
}

/// The listed paths of a workspace, and the directories that they lead through, by their last component. Such a directory is
/// listed only if it is a link.
static LISTED: LazyLock<HashMap<&'static OsStr, Vec<(&'static Path, bool)>>> = LazyLock::new(|| {
    let mut listed: HashMap<_, Vec<_>> = HashMap::new();
    for path in LIST.workspace.iter().copied() {
        for (depth, place) in Path::new(path).ancestors().enumerate() {
            if let Some(name) = place.file_name() {
                listed.entry(name).or_default().push((place, depth == 0));
            }
        }
    }
    listed
});

/// Returns whether a listed path of a workspace lies in a subdirectory, and its name; `None` if no part of the path is listed.
fn listed(below: &Path) -> Option<(bool, String)> {
    let mut prefix = PathBuf::new();
    let mut link = None;
    for part in below {
        prefix.push(part);
        if let Some(end) = list::suffix(part.as_bytes()) {
            return Some((prefix.as_os_str() != part, format!("*{}", String::from_utf8_lossy(end))));
        }
        let candidates = LISTED.get(part).into_iter().flatten().filter(|(place, _)| prefix.ends_with(place));
        link = None;
        for (place, is_whole) in candidates {
            let found = (prefix != *place, place.to_string_lossy().into_owned());
            if *is_whole {
                return Some(found);
            }
            link = Some(found);
        }
    }
    link
}

/// The numbers of changes that a report does not name, by group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(Group, u64)>", into = "Vec<(Group, u64)>")]
pub struct Omitted(BTreeMap<Group, u64>);

impl From<Vec<(Group, u64)>> for Omitted {
    fn from(counts: Vec<(Group, u64)>) -> Self {
        let mut omitted = Self::default();
        counts.into_iter().for_each(|(group, count)| omitted.add(group, count));
        omitted
    }
}

impl From<Omitted> for Vec<(Group, u64)> {
    fn from(omitted: Omitted) -> Self {
        omitted.0.into_iter().collect()
    }
}

impl Omitted {
    pub(super) fn add(&mut self, mut group: Group, count: u64) {
        if self.0.len() >= MAX_GROUPS && !self.0.contains_key(&group) {
            group.grant = None;
        }
        let total = self.0.entry(group).or_default();
        *total = total.saturating_add(count);
    }

    pub(super) fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(group, count)| self.add(group, count));
    }

    /// Returns whether every change is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of all these changes.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |total, count| total.saturating_add(*count))
    }

    /// Returns the groups with their numbers of changes.
    pub fn iter(&self) -> impl Iterator<Item = (&Group, u64)> {
        self.0.iter().map(|(group, count)| (group, *count))
    }

    /// Returns a line for each grant and place. A line names every group.
    pub(super) fn lines(&self) -> Vec<String> {
        let places: BTreeSet<_> = self.0.keys().map(|group| (group.grant.as_deref(), group.in_subdirectory)).collect();
        places.into_iter().map(|(grant, in_subdirectory)| self.line(grant, in_subdirectory)).collect()
    }

    fn line(&self, grant: Option<&Path>, in_subdirectory: bool) -> String {
        let (mut total, mut sections) = (0_u64, BTreeMap::<How, Vec<String>>::new());
        let is_here = |group: &Group| group.grant.as_deref() == grant && group.in_subdirectory == in_subdirectory;
        for (group, count) in self.iter().filter(|(group, _)| is_here(group)) {
            total = total.saturating_add(count);
            sections.entry(group.how).or_default().push(format!("{count} {}", group.name));
        }
        let place = if in_subdirectory { "in subdirectories of" } else { "in" };
        let grant = grant.map_or_else(|| "other grants".to_owned(), |grant| escape::name(grant).to_string());
        let sections: Vec<String> = sections.into_iter().map(|(how, names)| format!("{how}: {}", names.join(", "))).collect();
        format!(
            "{total} more protected paths changed {place} {grant}: {}: host tools may execute or load these paths — review them \
             before use",
            sections.join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_of_a_path_is_its_listed_path_and_its_depth() {
        let places = [
            (".envrc", false, ".envrc"),
            ("a/.envrc", true, ".envrc"),
            (".cargo/config.toml", false, ".cargo/config.toml"),
            ("a/.cargo/config.toml", true, ".cargo/config.toml"),
            (".cargo", false, ".cargo"),
            ("a/.vscode/deep/x", true, ".vscode"),
            (".vscode/deep/x", false, ".vscode"),
            ("x.code-workspace", false, "*.code-workspace"),
            ("a/x.code-workspace", true, "*.code-workspace"),
            (".git", false, ".git"),
            (".git/config", false, ".git/config"),
            (".git/hooks/x", false, ".git/hooks"),
            (".git/modules", false, ".git/modules"),
            (".git/modules/a/hooks/x", true, ".git/hooks"),
            ("sub/.git", true, ".git"),
            ("sub/.git/modules/a/config", true, ".git/config"),
            ("sub/.git/rebase-merge/git-rebase-todo", true, ".git/rebase-merge/git-rebase-todo"),
            ("config", false, "config"),
            ("sub/bare/hooks/x", true, "hooks"),
            ("scripts/x", true, OTHER),
            (".git/x", false, OTHER),
        ];
        for (path, in_subdirectory, name) in places {
            assert_eq!(depth_and_name(Path::new(path), false), (in_subdirectory, name.to_owned()), "{path}");
        }
        for (path, in_subdirectory, name) in [("", false, "."), (".git", false, ".git"), ("sub", true, GIT_DIRECTORY)] {
            assert_eq!(depth_and_name(Path::new(path), true), (in_subdirectory, name.to_owned()), "{path}");
        }
    }

    #[test]
    fn groups_above_the_limit_are_counted_for_all_grants_together() {
        let group = |number: usize| Group {
            grant: Some(format!("/{number}").into()),
            in_subdirectory: false,
            how: How::Created,
            name: ".envrc".to_owned(),
        };
        let mut omitted = Omitted::default();
        for number in 0..MAX_GROUPS + 10 {
            omitted.add(group(number), 1);
        }
        assert_eq!((omitted.0.len(), omitted.total()), (MAX_GROUPS + 1, (MAX_GROUPS + 10) as u64));
        assert!(omitted.lines().iter().any(|line| line.contains("10 more protected paths changed in other grants")));
    }
}
