//! Records the states of all protected paths at one time.

use super::{
    case,
    gaps::{Cause, Gaps},
    git,
    interrupt::Interrupt,
    links::{Links, Resolved},
    plan::{self, GrantedTree},
    search::{Found, Limits, search},
    state::{EntryOrigin, Kind, States},
    tree::SearchedTree,
};
use std::{
    collections::BTreeSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The maximum number of links that are followed.
const MAX_LINKS: usize = 1 << 12;

/// The states of the protected paths of some grants.
#[derive(Debug, Default)]
pub(super) struct Observation {
    pub states: States,
    pub repositories: BTreeSet<PathBuf>,
    /// The directories of each place, for the next search.
    trees: Vec<SearchedTree>,
    pub gaps: Gaps,
    pub began: Option<SystemTime>,
}

/// An observation that is being made.
struct Observer<'a> {
    places: &'a [GrantedTree],
    interrupt: &'a Interrupt,
    last: &'a Observation,
    time: SystemTime,
    /// The maximum number of git directories.
    repositories: usize,
    observed: Observation,
    links: Links,
    /// The number of links that were followed.
    followed: usize,
    /// Listed names in subdirectories.
    listed: Vec<PathBuf>,
    /// Git directories that `last` lacks.
    new_directories: Vec<PathBuf>,
    /// Other entries named `.git` that `last` lacks.
    new_files: Vec<PathBuf>,
}

impl Observation {
    /// Records the protected paths that are found now, and those of `last`, which the search may no longer find.
    pub(super) fn capture(places: &[GrantedTree], last: &Self, limits: Limits, interrupt: &Interrupt) -> Self {
        let time = SystemTime::now();
        let states = States::with_limit(limits.entries, interrupt);
        let observed = Self { states, began: Some(time), ..Self::default() };
        let mut observer = Observer {
            places,
            interrupt,
            last,
            time,
            repositories: limits.repositories,
            observed,
            links: Links::new(interrupt),
            followed: 0,
            listed: Vec::new(),
            new_directories: Vec::new(),
            new_files: Vec::new(),
        };
        let read_only = plan::read_only_inside(places);
        for (number, place) in places.iter().filter(|place| place.protects()).enumerate() {
            observer.add_place(place, number, limits, &read_only);
        }
        observer.add_named_by_settings();
        for path in &read_only {
            observer.observed.states.add(path, false, time);
        }
        observer.add_known_and_new();
        observer.follow_links();
        let mut observed = observer.observed;
        observed.gaps.merge(std::mem::take(&mut observed.states.gaps));
        observed.gaps.merge(observer.links.gaps);
        observed
    }

    /// Takes over the states that an interrupted observation has recorded. All other paths keep their last recorded state, so
    /// that the next comparison finds their differences.
    pub(super) fn absorb(&mut self, interrupted: Self) {
        self.states.seen.extend(interrupted.states.seen);
        self.repositories.extend(interrupted.repositories);
    }
}

impl Observer<'_> {
    /// Adds the protected paths of one grant, and the paths that a search of the grant finds.
    fn add_place(&mut self, place: &GrantedTree, number: usize, limits: Limits, read_only: &[PathBuf]) {
        let own = place.paths(self.interrupt);
        self.observed.gaps.merge(own.gaps);
        for path in &own.paths {
            self.observed.states.add(path, true, self.time);
        }
        for path in &own.paths {
            // A directory above the path may be a link. Links themselves are followed below.
            if self.observed.states.seen.get(path).is_some_and(|seen| seen.kind != Kind::Link) {
                let resolved = self.links.resolve(path);
                self.add_resolved(resolved, EntryOrigin::default());
            }
        }
        self.follow_links();
        let none = SearchedTree::default();
        let last = self.last.trees.get(number).unwrap_or(&none);
        let Found { directories, files, listed, gaps, tree } = search(&place.path, limits, read_only, last, self.interrupt);
        self.observed.gaps.merge(gaps);
        self.observed.trees.push(tree);
        self.listed.extend(listed);
        let (known, new): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| self.last.states.seen.contains_key(path));
        for file in known {
            self.observed.states.add_within_limit(&file, false, self.time);
        }
        self.new_files.extend(new);
        let (known, new): (Vec<_>, Vec<_>) = directories.into_iter().partition(|path| self.last.repositories.contains(path));
        for directory in known {
            self.add_repository(directory);
        }
        self.new_directories.extend(new);
    }

    /// Adds a git directory, with its hooks and settings.
    fn add_repository(&mut self, directory: PathBuf) {
        if self.observed.repositories.contains(&directory) {
            return;
        }
        if self.observed.repositories.len() >= self.repositories {
            return self.observed.gaps.add(&directory, Cause::TooManyRepositories);
        }
        self.add_settings_of(&directory);
        self.observed.repositories.insert(directory);
    }

    /// Adds the hooks and settings of a git directory, and those of the directory that its file `commondir` names.
    fn add_settings_of(&mut self, directory: &Path) {
        let common = git::common_directory(directory, &mut self.links);
        if common != directory && plan::may_be_written(self.places, &common) {
            self.add_names_of(&common);
        }
        self.add_names_of(directory);
    }

    fn add_names_of(&mut self, directory: &Path) {
        for name in git::names(directory).filter(|name| !git::is_git_parent(name)).chain(git::reported_names(directory)) {
            self.observed.states.add_within_limit(&name, true, self.time);
        }
    }

    /// Adds the paths that the settings of the git directories name. A payload can create a nested repository that names any
    /// directory of a grant, so this comes after the protected paths of the grants.
    fn add_named_by_settings(&mut self) {
        let all: BTreeSet<PathBuf> = self.observed.repositories.iter().chain(&self.new_directories).cloned().collect();
        let nested = plan::named_by_nested(self.places, &all, self.interrupt, &mut self.links);
        self.observed.gaps.merge(nested.gaps);
        self.observed.states.origin = EntryOrigin { led_to: true, ..EntryOrigin::default() };
        for path in &nested.paths {
            self.observed.states.add_within_limit(path, true, self.time);
        }
        self.observed.states.origin = EntryOrigin::default();
    }

    /// Adds listed names in subdirectories, git directories, and the paths of the last observation. New names are added after
    /// known ones: if a payload creates more names than are compared, the known ones stay compared.
    fn add_known_and_new(&mut self) {
        let (listed, last, time) = (std::mem::take(&mut self.listed), self.last, self.time);
        let (known, new): (Vec<&PathBuf>, Vec<&PathBuf>) = listed.iter().partition(|path| last.states.seen.contains_key(*path));
        let in_subdirectory = EntryOrigin { in_subdirectory: true, ..EntryOrigin::default() };
        let states = &mut self.observed.states;
        states.origin = in_subdirectory;
        for path in known {
            states.add_within_limit(path, true, time);
        }
        for (path, seen) in &last.states.seen {
            states.origin = seen.origin;
            states.add_within_limit(path, false, time);
        }
        states.origin = in_subdirectory;
        for path in new {
            states.add_within_limit(path, true, time);
        }
        states.origin = EntryOrigin::default();
        for file in std::mem::take(&mut self.new_files) {
            states.add_within_limit(&file, false, time);
        }
        // The search may have stopped before it found a known git directory again.
        for directory in last.repositories.iter().filter(|path| git::is_git_directory(path)) {
            self.add_repository(directory.clone());
        }
        for directory in std::mem::take(&mut self.new_directories) {
            self.add_repository(directory);
        }
    }

    /// Follows the links among the compared paths, wherever these links are: each link of a chain can be replaced, and a tool
    /// loads the object at the end.
    fn follow_links(&mut self) {
        while let Some(link) = self.observed.states.links.get(self.followed).cloned() {
            if self.followed == MAX_LINKS {
                self.observed.gaps.add(&link, Cause::TooManyLinks);
                return;
            }
            self.followed += 1;
            let mut origin = self.observed.states.seen.get(&link).map(|seen| seen.origin).unwrap_or_default();
            origin.by_dot_git |= link.file_name().is_some_and(|name| *case::key(name.as_bytes()) == *b".git");
            let resolved = self.links.resolve(&link);
            self.add_resolved(resolved, origin);
        }
    }

    /// Adds the links and the object to which a path with this origin leads, where a sandbox can write them.
    fn add_resolved(&mut self, resolved: Resolved, origin: EntryOrigin) {
        self.observed.states.origin = EntryOrigin { led_to: true, ..origin };
        let can_be_written = |path: &PathBuf| plan::may_be_written(self.places, path);
        for link in resolved.links.iter().filter(|path| can_be_written(path)) {
            self.observed.states.add_within_limit(link, false, self.time);
        }
        if let Some(target) = resolved.target.filter(can_be_written) {
            let is_git = origin.by_dot_git && git::is_git_directory(&target);
            self.observed.states.add_within_limit(&target, !is_git, self.time);
            if is_git {
                self.add_settings_of(&target);
            }
        }
        self.observed.states.origin = EntryOrigin::default();
        if let Some(failed) = resolved.failed.filter(can_be_written) {
            self.observed.gaps.add(failed.parent().unwrap_or(&failed), Cause::Unreadable);
        }
    }
}
