//! Summarizes changes. Trees of dependencies contain hundreds of listed names, and a payload can create any number of them. Each
//! kind of change of each listed name is named, however many there are.

use super::{
    group::Group,
    report::{Change, How},
};
use agentd_core::escape;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The maximum number of changes of one group, or in one directory, that have a line each.
const MAX_SINGLE: usize = 4;

/// The maximum number of lines for subdirectories. If there were more, each grant has one line.
const MAX_LINES: usize = 32;

/// The maximum number of groups in one line that are named with a path. The others are named by their listed name.
const MAX_PATHS: usize = 8;

/// Returns the lines for changes at the roots of grants: one for each change. Many changes of one kind to the same listed name
/// share one line for each grant.
pub(super) fn lines_at_root(changes: &[&Change]) -> Vec<String> {
    let mut counts: BTreeMap<Group, usize> = BTreeMap::new();
    for change in changes {
        *counts.entry(Group::of(change)).or_default() += 1;
    }
    let is_one_of_many = |change: &&Change| counts.get(&Group::of(change)).is_some_and(|count| *count > MAX_SINGLE);
    let (many, few): (Vec<&Change>, Vec<&Change>) = changes.iter().copied().partition(is_one_of_many);
    let many = grouped(&many, grant_of);
    few.iter().map(ToString::to_string).chain(many.iter().map(|(grant, group)| line("protected paths", grant, group))).collect()
}

/// Returns the lines for changes in subdirectories of grants.
pub(super) fn lines_below(changes: &[&Change]) -> Vec<String> {
    let groups = grouped(changes, |change| {
        let grant = grant_of(change);
        let first = change.path.strip_prefix(&grant).ok().and_then(|path| path.iter().next());
        first.map_or(grant.clone(), |first| grant.join(first))
    });
    let lines: usize = groups.values().map(|group| if group.len() <= MAX_SINGLE { group.len() } else { 1 }).sum();
    let groups = if lines > MAX_LINES { grouped(changes, grant_of) } else { groups };
    groups.iter().flat_map(|(directory, group)| of_directory(directory, group)).collect()
}

fn grant_of(change: &Change) -> PathBuf {
    change.grant.clone().unwrap_or_default()
}

fn grouped<'a>(changes: &[&'a Change], directory: impl Fn(&Change) -> PathBuf) -> BTreeMap<PathBuf, Vec<&'a Change>> {
    let mut groups: BTreeMap<PathBuf, Vec<&Change>> = BTreeMap::new();
    for change in changes.iter().copied() {
        groups.entry(directory(change)).or_default().push(change);
    }
    groups
}

/// Returns a line for each change in a directory, or one for all.
fn of_directory(directory: &Path, changes: &[&Change]) -> Vec<String> {
    if changes.len() <= MAX_SINGLE {
        return changes.iter().map(ToString::to_string).collect();
    }
    vec![line("protected paths in subdirectories", directory, changes)]
}

/// Changes of one kind that affect the same listed name.
struct Pair<'a> {
    count: usize,
    how: How,
    /// The path of the first of these changes.
    first: &'a Path,
    name: String,
}

/// Returns one line for all changes in a directory. The paths were chosen by a payload, so their control characters are escaped.
fn line(title: &str, directory: &Path, changes: &[&Change]) -> String {
    let mut pairs: BTreeMap<(How, String), (usize, &Path)> = BTreeMap::new();
    for change in changes {
        let Group { how, name, .. } = Group::of(change);
        pairs.entry((how, name)).or_insert((0, &change.path)).0 += 1;
    }
    let mut pairs: Vec<Pair<'_>> =
        pairs.into_iter().map(|((how, name), (count, first))| Pair { count, how, first, name }).collect();
    // Rare pairs come first, because a payload would hide its change among frequent ones.
    pairs.sort_by_key(|pair| (pair.count, pair.how, pair.first));
    let mut sections: BTreeMap<How, (usize, Vec<String>)> = BTreeMap::new();
    for (number, pair) in pairs.iter().enumerate() {
        let (count, shown) = sections.entry(pair.how).or_default();
        *count += pair.count;
        shown.push(if number < MAX_PATHS { with_path(directory, pair) } else { format!("{} {}", pair.count, pair.name) });
    }
    let sections: Vec<String> =
        sections.iter().map(|(how, (count, shown))| format!("{count} {how}: {}", shown.join(", "))).collect();
    format!(
        "{title}: {}: {}: host tools may execute or load these paths — review them before use",
        escape::name(directory),
        sections.join("; ")
    )
}

fn with_path(directory: &Path, pair: &Pair<'_>) -> String {
    let path = pair.first.strip_prefix(directory).unwrap_or(pair.first);
    let others = if pair.count > 1 { format!(" and {} more of this kind", pair.count - 1) } else { String::new() };
    format!("{}{others}", escape::name(path))
}

#[cfg(test)]
mod tests {
    use super::{super::list::LIST, *};

    fn change(how: How, path: &str) -> Change {
        Change { path: Path::new("/w").join(path), how, is_git_directory: false, digest: None, grant: Some("/w".into()) }
    }

    fn created(path: &str) -> Change {
        change(How::Created, path)
    }

    fn lines_of(changes: &[Change]) -> Vec<String> {
        lines_below(&changes.iter().collect::<Vec<_>>())
    }

    #[test]
    fn many_changes_in_one_directory_have_one_line_that_names_rare_kinds_first() {
        let mut changes: Vec<Change> = (0..300).map(|number| created(&format!("node_modules/{number:03}/.npmrc"))).collect();
        changes.push(created("node_modules/7/.envrc"));
        changes.push(created("sub/AGENTS.md"));
        let [many, one] = &lines_of(&changes)[..] else { panic!("{:?}", lines_of(&changes)) };
        let expected = "/w/node_modules: 301 created: 7/.envrc, 000/.npmrc and 299 more of this kind: ";
        assert!(many.contains(expected), "{many}");
        assert_eq!(*one, created("sub/AGENTS.md").to_string());
    }

    #[test]
    fn change_of_an_existing_file_is_named_apart_from_creations_of_the_same_listed_name() {
        let mut changes: Vec<Change> = (0..300).map(|number| created(&format!("a/{number:03}/.envrc"))).collect();
        changes.push(change(How::Removed, "a/z/.envrc"));
        let [line] = &lines_of(&changes)[..] else { panic!("{:?}", lines_of(&changes)) };
        assert!(line.contains("/w/a: 1 removed: z/.envrc; 300 created: 000/.envrc and 299 more of this kind: "), "{line}");
    }

    #[test]
    fn changes_in_many_directories_have_one_line_for_the_grant_that_names_every_kind() {
        let names = &LIST.of_repository[..20];
        let changes: Vec<Change> = (0..10_000).map(|number| created(&format!("{number}/{}", names[number % 20]))).collect();
        let [line] = &lines_of(&changes)[..] else { panic!("{:?}", lines_of(&changes)) };
        assert!(line.contains(" /w: 10000 created: ") && line.len() < 1500, "{line}");
        for name in names {
            assert!(
                line.contains(&format!("/{name} and 499 more of this kind")) || line.contains(&format!(", 500 {name}")),
                "{line}"
            );
        }
    }

    #[test]
    fn many_changes_of_one_listed_suffix_at_the_root_have_one_line() {
        let mut changes: Vec<Change> = (0..100).map(|number| created(&format!("{number:02}.code-workspace"))).collect();
        changes.push(change(How::Changed, ".envrc"));
        let lines = lines_at_root(&changes.iter().collect::<Vec<_>>());
        let [one, many] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(*one, change(How::Changed, ".envrc").to_string());
        assert!(many.starts_with("protected paths: /w: 100 created: 00.code-workspace and 99 more of this kind: "), "{many}");
    }
}
