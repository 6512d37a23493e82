//! Compares the protected paths before and after commands ran, and reports every difference, whatever its cause.

use super::{
    gaps::{Cause, Gaps},
    git,
    interrupt::Interrupt,
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
    time::SystemTime,
};

/// The protected paths of some grants, and their state at the last observation.
#[derive(Debug)]
pub struct Watch {
    places: Vec<GrantedTree>,
    last: Observation,
    indexes: Vec<Index>,
    limits: Limits,
    processes_may_remain: bool,
    /// The gaps of the first observation, which are reported once.
    first_gaps: Gaps,
    /// The gaps of the plan of read-only paths.
    plan_gaps: Gaps,
}

impl Watch {
    /// Records the current state of the protected paths of `grants`. Of a grant without protected paths, only read-only grants
    /// inside it are recorded.
    pub fn begin(grants: &[Grant], interrupt: &Interrupt) -> Self {
        Self::begin_within(grants, Limits::TREE, interrupt)
    }

    /// Records the state like [`Watch::begin`], after a time in which nothing compared the paths. Also returns a report of the
    /// paths whose time stamps show that they may have changed since then.
    pub fn begin_after(grants: &[Grant], since: SystemTime, interrupt: &Interrupt) -> (Self, Report) {
        let watch = Self::begin(grants, interrupt);
        let mut report = Report::default();
        if let Some(place) = watch.places.iter().find(|place| place.protects()) {
            report.gaps.add(&place.path, Cause::DaemonKilled);
        }
        let seen = watch.last.states.seen.keys().take_while(|_| !interrupt.is_due());
        let changed = seen.filter(|path| state::changed_since(path, since));
        // The paths are sorted.
        report.changes = topmost(changed.map(|path| change(path, How::NotCompared, &watch.places)).collect());
        (watch, report)
    }

    fn begin_within(grants: &[Grant], limits: Limits, interrupt: &Interrupt) -> Self {
        let places: Vec<GrantedTree> = grants.iter().map(GrantedTree::from_grant).collect();
        let last = Observation::capture(&places, &Observation::default(), limits, interrupt);
        let protected = places.iter().filter(|place| place.protects());
        let indexes = protected.filter_map(|place| Index::build(&place.path, interrupt)).collect();
        let first_gaps = last.gaps.clone();
        let plan_gaps = Some(plan::read_only(&places, interrupt).gaps).filter(|gaps| !gaps.is_interrupted()).unwrap_or_default();
        Self { places, last, indexes, limits, processes_may_remain: false, first_gaps, plan_gaps }
    }

    /// Returns the differences since the last observation, and the gaps. The differences are sorted by path, or have the most
    /// important ones first if there are more than a report names. Each difference is returned once. An interrupted comparison
    /// returns the differences that it has found; the next one returns the others.
    fn compare(&mut self, interrupt: &Interrupt) -> (Vec<Change>, Gaps) {
        let mut now = Observation::capture(&self.places, &self.last, self.limits, interrupt);
        let mut changes = self.last.compare(&mut now, &self.places, interrupt);
        let mut gaps = now.gaps.clone();
        if gaps.is_interrupted() {
            self.last.absorb(now);
        } else {
            // Listed names in subdirectories are writable, so that git in the sandbox can update them.
            let read_only = now.states.seen.iter().filter(|(_, seen)| !seen.origin.in_subdirectory);
            let files: Vec<PathBuf> = read_only.map(|(path, _)| path.clone()).collect();
            let stale = self.indexes.iter_mut().flat_map(|index| index.stale(&files, &mut gaps));
            changes.extend(stale.map(|path| change(&path, How::NotUpdated, &self.places)));
            self.last = now;
        }
        prioritize(&mut changes);
        let has_content =
            |change: &&mut Change| !change.is_git_directory && !matches!(change.how, How::Removed | How::NotUpdated);
        for change in changes.iter_mut().take(MAX_REPORTED).filter(has_content).take_while(|_| !interrupt.is_due()) {
            change.digest = state::digest(&change.path);
        }
        (changes, gaps)
    }

    /// Returns a report of all differences since the last observation.
    pub fn full_report(&mut self, interrupt: &Interrupt) -> Report {
        let (changes, mut gaps) = self.compare(interrupt);
        gaps.merge(std::mem::take(&mut self.first_gaps));
        gaps.merge(self.plan_gaps.clone());
        if let (true, Some(place)) = (self.processes_may_remain, self.places.first()) {
            gaps.add(&place.path, Cause::StillRunning);
        }
        Report { changes, gaps, ..Report::default() }
    }

    /// Records that the sandbox was not destroyed. Later reports state that its processes may change files after the comparison.
    pub fn processes_may_remain(&mut self) {
        self.processes_may_remain = true;
    }

    /// Returns whether, because of `changes`, a restarted sandbox would protect a path that the running sandbox does not. Returns
    /// true if an interrupt prevents the answer.
    pub fn needs_restart(&mut self, changes: &[Change], interrupt: &Interrupt) -> bool {
        let is_new = |change: &&Change| matches!(change.how, How::Created | How::Replaced | How::NotCompared);
        let mut new = changes.iter().filter(is_new).peekable();
        if new.peek().is_none() {
            return false;
        }
        let plan = plan::read_only(&self.places, interrupt);
        let is_interrupted = plan.gaps.is_interrupted();
        let inside = plan::read_only_inside(&self.places);
        let protected: HashSet<&Path> = plan.paths.iter().chain(&inside).map(PathBuf::as_path).collect();
        // A link leads to another path once one of its parents is another directory.
        let leading = protected.iter().copied().chain(plan.links.iter().map(PathBuf::as_path));
        let above: HashSet<&Path> = leading.flat_map(Path::ancestors).collect();
        if !is_interrupted {
            self.plan_gaps = plan.gaps;
        }
        let counts = |path: &Path| above.contains(path) || path.ancestors().any(|path| protected.contains(path));
        is_interrupted || new.any(|change| counts(&change.path))
    }
}

impl Observation {
    /// Returns the kind of change of a path that the next observation has and this one lacks. If this observation is incomplete,
    /// or only a link or a setting leads to the path, the ctime shows whether the path is new. An old path may have been moved
    /// here, or changed while it was not compared, so its earlier state is unknown.
    fn appeared(&self, path: &Path, led_to: bool) -> Option<How> {
        let is_complete = self.gaps.is_empty();
        if (is_complete && !led_to) || self.began.is_none_or(|began| state::changed_since(path, began)) {
            return Some(How::Created);
        }
        (!is_complete).then_some(How::NotCompared)
    }

    /// Returns the differences, and adds to `now` the paths that could not be compared.
    fn compare(&self, now: &mut Self, places: &[GrantedTree], interrupt: &Interrupt) -> Vec<Change> {
        let mut changes = Vec::new();
        let of = |path: &Path, how| change(path, how, places);
        for path in now.repositories.difference(&self.repositories) {
            let how = self.appeared(path, false);
            changes.extend(how.map(|how| Change { is_git_directory: true, ..of(path, how) }));
        }
        let is_interrupted = now.gaps.is_interrupted();
        for path in self.repositories.difference(&now.repositories).filter(|_| !is_interrupted) {
            // Git does not use a git directory that was removed as a whole. If only its HEAD is missing, git searches for another
            // one.
            if path.symlink_metadata().is_ok() && !git::is_git_directory(path) {
                changes.push(Change { is_git_directory: true, ..of(path, How::Removed) });
            }
        }
        let (before, after) = (&self.states.seen, &now.states.seen);
        let (mut unknown, mut uncompared) = (Gaps::default(), Vec::new());
        for (path, seen) in after {
            let how = match before.get(path).map(|old| (old, seen.compare(old, path, interrupt))) {
                None => match self.appeared(path, seen.origin.led_to) {
                    Some(how) => how,
                    None => continue,
                },
                Some((_, Comparison::Same)) => continue,
                Some((_, Comparison::Unknown(cause))) => {
                    unknown.add(path, cause);
                    uncompared.extend((cause == Cause::Interrupted).then(|| path.clone()));
                    continue;
                }
                Some((old, _)) if seen.identity != old.identity || seen.kind != old.kind => How::Replaced,
                Some(_) => How::Changed,
            };
            changes.push(of(path, how));
        }
        // A path may be missing in an incomplete observation although it exists.
        let is_absent = |path: &Path| now.gaps.is_empty() || (!is_interrupted && path.symlink_metadata().is_err());
        let is_removed = |path: &Path| !after.contains_key(path) && is_absent(path);
        let removed = before.iter().filter(|(path, _)| is_removed(path));
        changes.extend(removed.map(|(path, _)| of(path, How::Removed)));
        now.gaps.merge(unknown);
        // The earlier state of these paths is kept for the next comparison.
        for path in uncompared {
            now.states.seen.remove(&path);
        }
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
            // A change of an existing path below a path that was not compared has a separate line.
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
