//! Summarizes changes of listed names in subdirectories. Trees of dependencies contain hundreds of such names.

use super::{
    report::{Change, How},
    subdirectory,
};
use agentd_core::escape;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The maximum number of changes in one directory that have a line each.
const MAX_SINGLE: usize = 4;

/// The maximum number of lines. If there were more, each grant has one line.
const MAX_LINES: usize = 32;

/// The maximum number of kinds of listed names in one line.
const MAX_KINDS: usize = 8;

/// Returns the lines for changes in subdirectories of grants.
pub(super) fn lines(changes: &[&Change]) -> Vec<String> {
    let in_grant = |change: &Change| change.below.clone().unwrap_or_default();
    let groups = grouped(changes, |change| {
        let grant = in_grant(change);
        let first = change.path.strip_prefix(&grant).ok().and_then(|path| path.iter().next());
        first.map_or(grant.clone(), |first| grant.join(first))
    });
    let lines: usize = groups.values().map(|group| if group.len() <= MAX_SINGLE { group.len() } else { 1 }).sum();
    let groups = if lines > MAX_LINES { grouped(changes, in_grant) } else { groups };
    groups.iter().flat_map(|(directory, group)| of_directory(directory, group)).collect()
}

fn grouped<'a>(changes: &[&'a Change], directory: impl Fn(&Change) -> PathBuf) -> BTreeMap<PathBuf, Vec<&'a Change>> {
    let mut groups: BTreeMap<PathBuf, Vec<&Change>> = BTreeMap::new();
    for change in changes.iter().copied() {
        groups.entry(directory(change)).or_default().push(change);
    }
    groups
}

/// Returns a line for each change in a directory, or one for all. The paths were chosen by a payload, so their control characters are
/// escaped.
fn of_directory(directory: &Path, changes: &[&Change]) -> Vec<String> {
    if changes.len() <= MAX_SINGLE {
        return changes.iter().map(ToString::to_string).collect();
    }
    let counts = [How::Created, How::Replaced, How::Changed, How::Removed, How::NotUpdated].into_iter().filter_map(|how| {
        let count = changes.iter().filter(|change| change.how == how).count();
        (count > 0).then(|| format!("{count} {how}"))
    });
    let mut by_kind: BTreeMap<&[u8], (usize, &Path)> = BTreeMap::new();
    for change in changes {
        let below = change.below.as_ref().and_then(|grant| change.path.strip_prefix(grant).ok());
        by_kind.entry(below.map_or(b"", subdirectory::kind)).or_insert((0, &change.path)).0 += 1;
    }
    // Rare kinds come first: frequent ones are the noise among which a payload would hide.
    let mut kinds: Vec<(usize, &Path)> = by_kind.into_values().collect();
    kinds.sort();
    let left_out = kinds.len().saturating_sub(MAX_KINDS);
    let mut shown: Vec<String> = kinds.iter().take(MAX_KINDS).map(|(count, path)| of_kind(directory, path, *count)).collect();
    if left_out > 0 {
        shown.push(format!("{left_out} more kinds"));
    }
    vec![format!(
        "protected paths in subdirectories: {}: {}: {}: host programs may execute or obey these paths — review them before use",
        escape::name(directory),
        counts.collect::<Vec<_>>().join(", "),
        shown.join(", ")
    )]
}

fn of_kind(directory: &Path, first: &Path, count: usize) -> String {
    let path = first.strip_prefix(directory).unwrap_or(first);
    let others = if count > 1 { format!(" and {} more of this kind", count - 1) } else { String::new() };
    format!("{}{others}", escape::name(path))
}

#[cfg(test)]
mod tests {
    use super::{super::list::LIST, *};

    fn created(path: &str) -> Change {
        let path = Path::new("/w").join(path);
        Change { path, how: How::Created, is_git_directory: false, digest: None, below: Some("/w".into()) }
    }

    fn lines_of(changes: &[Change]) -> Vec<String> {
        lines(&changes.iter().collect::<Vec<_>>())
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
    fn changes_in_many_directories_have_one_line_for_the_grant_with_a_limited_number_of_kinds() {
        let changes: Vec<Change> =
            (0..10_000).map(|number| created(&format!("{number}/{}", LIST.of_repository[number % 20]))).collect();
        let [line] = &lines_of(&changes)[..] else { panic!("{:?}", lines_of(&changes)) };
        assert!(line.contains(" /w: 10000 created: ") && line.contains(", 12 more kinds: "), "{line}");
        assert!(line.len() < 1000, "{line}");
    }
}
