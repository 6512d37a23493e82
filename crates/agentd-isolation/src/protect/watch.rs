//! Compares the protected paths before and after commands ran, and reports every difference, whatever its cause.

use super::{
    gaps::{Cause, Gaps},
    git,
    observation::Observation,
    plan::{self, GrantedTree},
    report::{Change, How, MAX_REPORTED, Report, prioritize},
    search::Limits,
    state::{self, Comparison},
    tracked::Index,
};
use agentd_core::Grant;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// The protected paths of some grants, and their state at the last observation.
#[derive(Debug)]
pub struct Watch {
    places: Vec<GrantedTree>,
    last: Observation,
    indexes: Vec<Index>,
    limits: Limits,
    processes_may_remain: bool,
}

impl Watch {
    /// Records the present state of the protected paths of `grants`. Of a grant without protected paths, only read-only grants
    /// inside it are recorded.
    pub fn begin(grants: &[Grant]) -> Self {
        Self::begin_within(grants, Limits::TREE)
    }

    fn begin_within(grants: &[Grant], limits: Limits) -> Self {
        let places: Vec<GrantedTree> = grants.iter().map(GrantedTree::from_grant).collect();
        let last = Observation::capture(&places, &Observation::default(), limits);
        let indexes = places.iter().filter(|place| place.protects()).filter_map(|place| Index::build(&place.path)).collect();
        Self { places, last, indexes, limits, processes_may_remain: false }
    }

    /// Returns the differences since the last observation: sorted by path, or the most important ones first if there are more
    /// than a report names. Each difference is returned once.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut now = Observation::capture(&self.places, &self.last, self.limits);
        let mut changes = self.last.compare(&mut now, &self.places);
        // Listed names in subdirectories are writable, so that git in the sandbox can update them.
        let read_only = now.states.seen.iter().filter(|(_, seen)| !seen.origin.in_subdirectory);
        let files: Vec<PathBuf> = read_only.map(|(path, _)| path.clone()).collect();
        let stale = self.indexes.iter_mut().flat_map(|index| index.stale(&files));
        changes.extend(stale.map(|path| change(&path, How::NotUpdated, &self.places)));
        self.last = now;
        prioritize(&mut changes);
        let has_content =
            |change: &&mut Change| !change.is_git_directory && !matches!(change.how, How::Removed | How::NotUpdated);
        for change in changes.iter_mut().take(MAX_REPORTED).filter(has_content) {
            change.digest = state::digest(&change.path);
        }
        changes
    }

    /// Returns a report of the differences since the last observation, limited to the size of a message.
    pub fn report(&mut self) -> Report {
        let mut report = Report::default();
        report.add(self.full_report());
        report
    }

    /// Returns a report of all differences since the last observation.
    pub fn full_report(&mut self) -> Report {
        let changes = self.changes();
        let mut gaps = self.last.gaps.clone();
        if let (true, Some(place)) = (self.processes_may_remain, self.places.first()) {
            gaps.add(&place.path, Cause::StillRunning);
        }
        Report { changes, gaps, ..Report::default() }
    }

    /// Records that the sandbox was not destroyed. Later reports say that its processes may change files after the comparison.
    pub fn processes_may_remain(&mut self) {
        self.processes_may_remain = true;
    }

    /// Returns whether, because of `changes`, a restarted sandbox would protect a path that the running sandbox does not.
    pub fn needs_restart(&self, changes: &[Change]) -> bool {
        let is_new = |change: &&Change| matches!(change.how, How::Created | How::Replaced | How::NotCompared);
        let mut new = changes.iter().filter(is_new).peekable();
        if new.peek().is_none() {
            return false;
        }
        let mut protected = plan::read_only(&self.places);
        protected.extend(plan::read_only_inside(&self.places));
        let protected: HashSet<&Path> = protected.iter().map(PathBuf::as_path).collect();
        let above: HashSet<&Path> = protected.iter().flat_map(|path| path.ancestors()).collect();
        new.any(|change| above.contains(change.path.as_path()) || change.path.ancestors().any(|path| protected.contains(path)))
    }
}

impl Observation {
    /// Returns the change that a path is which this observation lacks and the next one has. If this observation is incomplete, or
    /// only a link or a setting leads to the path, the ctime of the path shows whether the path is new. An old path may have been
    /// moved here, or changed while it was not compared, so that only its state before is unknown.
    fn appeared(&self, path: &Path, led_to: bool) -> Option<How> {
        let is_complete = self.gaps.is_empty();
        if (is_complete && !led_to) || self.began.is_none_or(|began| state::changed_since(path, began)) {
            return Some(How::Created);
        }
        (!is_complete).then_some(How::NotCompared)
    }

    /// Returns the differences, and adds to `now` what could not be compared.
    fn compare(&self, now: &mut Self, places: &[GrantedTree]) -> Vec<Change> {
        let mut changes = Vec::new();
        let of = |path: &Path, how| change(path, how, places);
        for path in now.repositories.difference(&self.repositories) {
            let how = self.appeared(path, false);
            changes.extend(how.map(|how| Change { is_git_directory: true, ..of(path, how) }));
        }
        for path in self.repositories.difference(&now.repositories) {
            // Git does not use a git directory that was removed as a whole. If only its HEAD is missing, git searches for another
            // one.
            if path.symlink_metadata().is_ok() && !git::is_git_directory(path) {
                changes.push(Change { is_git_directory: true, ..of(path, How::Removed) });
            }
        }
        let (before, after) = (&self.states.seen, &now.states.seen);
        let mut unknown = Gaps::default();
        for (path, seen) in after {
            let how = match before.get(path).map(|old| (old, seen.compare(old, path))) {
                None => match self.appeared(path, seen.origin.led_to) {
                    Some(how) => how,
                    None => continue,
                },
                Some((_, Comparison::Same)) => continue,
                Some((_, Comparison::Unknown(cause))) => {
                    unknown.add(path, cause);
                    continue;
                }
                Some((old, _)) if seen.identity != old.identity || seen.kind != old.kind => How::Replaced,
                Some(_) => How::Changed,
            };
            changes.push(of(path, how));
        }
        // A path may be missing in an incomplete observation although it exists.
        let is_removed = |path: &Path| !after.contains_key(path) && (now.gaps.is_empty() || path.symlink_metadata().is_err());
        let removed = before.iter().filter(|(path, _)| is_removed(path));
        changes.extend(removed.map(|(path, _)| of(path, How::Removed)));
        now.gaps.merge(unknown);
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        topmost(changes)
    }
}

/// Returns the innermost grant with protected paths that contains a path.
fn grant_above<'a>(places: &'a [GrantedTree], path: &Path) -> Option<&'a Path> {
    let above = places.iter().filter(|place| place.protects() && path.starts_with(&place.path));
    above.map(|place| place.path.as_path()).max_by_key(|grant| grant.as_os_str().len())
}

fn change(path: &Path, how: How, places: &[GrantedTree]) -> Change {
    let grant = grant_above(places, path).map(Path::to_path_buf);
    Change { path: path.to_path_buf(), how, is_git_directory: false, digest: None, grant }
}

/// Drops changes below a path that was itself created, removed or replaced. `changes` must be sorted by path.
fn topmost(changes: Vec<Change>) -> Vec<Change> {
    let mut kept: Vec<Change> = Vec::new();
    // The indexes in `kept` of the paths that contain the last one, outermost first.
    let mut above: Vec<usize> = Vec::new();
    for change in changes {
        let covered = |above: &Change| match change.path.strip_prefix(&above.path) {
            // A change of what existed below a path that was not compared has a line of its own.
            Ok(_) if above.how == How::NotCompared && !matches!(change.how, How::NotCompared | How::Created) => false,
            Ok(below) if above.is_git_directory => above.how != How::Removed && git::is_name(below),
            Ok(below) => above.how != How::Changed && !below.as_os_str().is_empty(),
            Err(_) => false,
        };
        while above.last().is_some_and(|last| !change.path.starts_with(&kept[*last].path)) {
            above.pop();
        }
        let same = |other: &Change| other.path == change.path;
        if !above.iter().any(|place| covered(&kept[*place])) && !kept.last().is_some_and(same) {
            above.push(kept.len());
            kept.push(change);
        }
    }
    kept
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
