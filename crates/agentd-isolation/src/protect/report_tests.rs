//! Property tests of reports: whatever changes a payload adds, no change is hidden.

use super::{
    super::{list::LIST, summary},
    *,
};
use proptest::{prelude::*, sample::Index};
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

const GRANTS: [&str; 2] = ["/w", "/other"];
const KINDS: [How; 6] = [How::Removed, How::Replaced, How::Changed, How::NotUpdated, How::NotCompared, How::Created];

/// Returns a change at one of several kinds of places. Different numbers result in different paths, except at the root.
fn change(grant: &str, place: usize, name: &str, number: usize, how: How) -> Change {
    let below = match place {
        0 => name.to_owned(),
        1 => format!("{number}.code-workspace"),
        2 => format!("d{}/{number}/{name}", number % 40),
        3 => format!("d/r{number}"),
        4 => format!(".git/modules/{number}/hooks/x"),
        5 => format!("d{number}/.git/config"),
        _ => format!("scripts/s{number}"),
    };
    let path = Path::new(grant).join(below);
    Change { path, how, is_git_directory: place == 3, digest: None, grant: Some(grant.into()) }
}

/// Many changes that differ only in the number, as a payload makes them in a loop.
fn noise() -> impl Strategy<Value = Vec<Change>> {
    let loops = (0..GRANTS.len(), 0..7usize, any::<Index>(), 0..KINDS.len(), 1..700usize);
    loops.prop_map(|(grant, place, name, how, count)| {
        let name = name.get::<&str>(&LIST.workspace);
        (0..count).map(|number| change(GRANTS[grant], place, name, number, KINDS[how])).collect()
    })
}

/// One change of each of many listed names in one place: rare kinds, among which a payload would hide a rare one.
fn rare() -> impl Strategy<Value = Vec<Change>> {
    let names = (0..GRANTS.len(), any::<bool>(), any::<Index>(), 0..KINDS.len(), 1..80usize);
    names.prop_map(|(grant, at_root, first, how, count)| {
        let name = |number: usize| LIST.workspace[(first.index(LIST.workspace.len()) + number) % LIST.workspace.len()];
        let place = if at_root { 0 } else { 2 };
        (0..count).map(|number| change(GRANTS[grant], place, name(number), 0, KINDS[how])).collect()
    })
}

/// Every listed name, changed in every way.
fn everything() -> Vec<Change> {
    let names = LIST.workspace.iter().flat_map(|name| KINDS.map(|how| (name, how)));
    let of_grant =
        |(name, how): (&&str, How)| GRANTS.map(|grant| [change(grant, 0, name, 0, how), change(grant, 2, name, 0, how)]);
    names.flat_map(of_grant).flatten().collect()
}

/// The content of warnings: lines of single changes, and groups that are counted by name or shown by the path of one change.
struct Told {
    lines: HashSet<String>,
    names: HashSet<(Option<PathBuf>, bool, String, String)>,
    paths: HashSet<(PathBuf, String)>,
}

impl Told {
    fn by(report: &Report) -> Self {
        let lines = report.warnings();
        let mut told = Self { lines: lines.iter().cloned().collect(), names: HashSet::new(), paths: HashSet::new() };
        for line in &lines {
            if let Some((_, rest)) = line.split_once(" more protected paths changed in ") {
                let (in_subdirectory, rest) = rest.strip_prefix("subdirectories of ").map_or((false, rest), |rest| (true, rest));
                told.read(rest, in_subdirectory);
            } else if let Some(rest) = line.strip_prefix("protected paths in subdirectories: ") {
                told.read(rest, true);
            } else if let Some(rest) = line.strip_prefix("protected paths: ") {
                told.read(rest, false);
            }
        }
        told
    }

    /// Reads `DIRECTORY: COUNT HOW: ITEM, ITEM; COUNT HOW: ITEM: host …`, or the same without the counts before the kinds of
    /// change.
    fn read(&mut self, text: &str, in_subdirectory: bool) {
        let text = &text[..text.find(": host ").unwrap()];
        let (directory, sections) = text.split_once(": ").unwrap();
        let grant = GRANTS.into_iter().find(|grant| Path::new(directory).starts_with(grant)).map(PathBuf::from);
        for section in sections.split("; ") {
            let (how, items) = section.split_once(": ").unwrap();
            let how = how.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ' ').to_owned();
            for item in items.split(", ") {
                match item.split_once(' ').filter(|(count, _)| count.parse::<u64>().is_ok()) {
                    Some((_, name)) => self.names.insert((grant.clone(), in_subdirectory, how.clone(), name.to_owned())),
                    None => {
                        let path = item.split(" and ").next().unwrap();
                        self.paths.insert((Path::new(directory).join(path), how.clone()))
                    }
                };
            }
        }
    }

    fn has(&self, group: &Group, changes: &[&Change]) -> bool {
        let name = (group.grant.clone(), group.in_subdirectory, group.how.to_string(), group.name.clone());
        self.names.contains(&name)
            || changes.iter().any(|change| {
                self.paths.contains(&(change.path.clone(), change.how.to_string())) || self.lines.contains(&change.to_string())
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_noise_hides_a_listed_name_or_a_kind_of_change(
        loops in prop::collection::vec(prop_oneof![noise(), rare()], 0..8),
        important in prop::collection::vec(
            (0..GRANTS.len(), 0..7usize, any::<Index>(), 0..KINDS.len(), 100_000..100_010usize), 1..6),
        with_everything in prop::bool::weighted(0.2),
        by_path in any::<bool>(),
        batches in 1..4usize,
    ) {
        let mut all: Vec<Change> = loops.into_iter().flatten().collect();
        all.extend(important.into_iter().map(|(grant, place, name, how, number)| {
            change(GRANTS[grant], place, name.get::<&str>(&LIST.workspace), number, KINDS[how])
        }));
        if with_everything {
            all.extend(everything());
        }
        if by_path {
            all.sort_by(|one, other| one.path.cmp(&other.path));
        }
        let mut report = Report::default();
        for batch in all.chunks(all.len().div_ceil(batches)) {
            report.add(Report { changes: batch.to_vec(), ..Report::default() });
        }
        prop_assert!(report.changes.len() <= MAX_REPORTED);
        let mut groups: BTreeMap<Group, Vec<&Change>> = BTreeMap::new();
        for change in &all {
            groups.entry(Group::of(change)).or_default().push(change);
        }
        let mut counted: BTreeMap<Group, u64> = report.omitted.iter().map(|(group, count)| (group.clone(), count)).collect();
        for change in &report.changes {
            *counted.entry(Group::of(change)).or_default() += 1;
        }
        let counts = groups.iter().map(|(group, changes)| (group.clone(), changes.len() as u64)).collect();
        prop_assert_eq!(&counted, &counts);
        let told = Told::by(&report);
        for (group, changes) in &groups {
            prop_assert!(told.has(group, changes), "{group:?} is hidden: {:#?}", told.lines);
        }
        // If they fit, all groups at the roots are named by a path, whatever lies in subdirectories.
        let at_root = |group: &&Group| !group.in_subdirectory;
        if groups.keys().filter(at_root).count() <= MAX_REPORTED {
            for group in groups.keys().filter(at_root) {
                prop_assert!(report.changes.iter().any(|change| Group::of(change) == *group), "{group:?}");
            }
        }
    }
}

#[test]
fn warnings_of_a_hundred_thousand_changes_are_few_lines_and_name_the_one_removed_file() {
    let noise = (0..100_000).map(|number| change("/w", 1, "", number, How::Created));
    let mut report = Report::default();
    report.add(Report { changes: noise.chain([change("/w", 0, ".npmrc", 0, How::Removed)]).collect(), ..Report::default() });
    report.add(Report { changes: vec![change("/w", 2, ".envrc", 1, How::Changed)], ..Report::default() });
    let lines = report.warnings();
    assert!(lines.len() <= 4 && lines.iter().map(String::len).sum::<usize>() < 2000, "{lines:#?}");
    for hidden in [change("/w", 0, ".npmrc", 0, How::Removed), change("/w", 2, ".envrc", 1, How::Changed)] {
        assert!(lines.contains(&hidden.to_string()), "{lines:#?}");
    }
}

#[test]
fn lines_for_no_changes_are_none() {
    assert!(Report::default().warnings().is_empty() && Report::default().is_empty());
    assert!(summary::lines_at_root(&[]).is_empty() && summary::lines_below(&[]).is_empty());
}
