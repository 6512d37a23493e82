//! Reports of changed protected paths.

use super::{
    gaps::Gaps,
    group::{Group, Omitted},
    summary,
};
use agentd_core::escape;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, path::PathBuf};

/// The maximum number of changes that a report names.
pub(super) const MAX_REPORTED: usize = 256;

/// The kind of a change. Changes of existing paths come before creations, because host tools already load an existing path, and a
/// payload can create any number of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The path no longer exists.
    Removed,
    /// Another file or directory is at the path. A running sandbox does not protect the new object.
    Replaced,
    /// The content, mode or times changed.
    Changed,
    /// Git in the sandbox checked out another version but could not write the file: the index has changed, the file has not.
    NotUpdated,
    /// The path exists, but an earlier comparison was incomplete and did not see it. The path may have been created or changed
    /// since.
    NotCompared,
    /// The path did not exist before.
    Created,
}

/// A difference of one path between two observations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The path on the host.
    #[serde(with = "agentd_kernel::path_bytes::one")]
    pub path: PathBuf,
    /// The kind of change.
    pub how: How,
    /// Whether the path is, or was, a whole git directory.
    pub is_git_directory: bool,
    /// The SHA-256 digest of the current content, for a regular file of at most 1 MiB among the first changes of a report.
    pub digest: Option<[u8; 32]>,
    /// The innermost grant with protected paths that contains the path.
    #[serde(with = "agentd_kernel::path_bytes::maybe")]
    pub grant: Option<PathBuf>,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Changed => "changed",
            Self::NotUpdated => "not updated",
            Self::NotCompared => "not compared before",
        })
    }
}

impl fmt::Display for Change {
    /// Writes one line. The path was chosen by a payload, so its control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_git_directory { "git directory" } else { "protected path" };
        let path = escape::name(&self.path);
        if self.how == How::NotUpdated {
            return write!(
                f,
                "{what} not updated: {path}: git in the sandbox checked out another version but could not write this file — \
                 on the host, run `git diff {path}`, then `git restore {path}`; otherwise the next `git commit -a` reverts the \
                 change"
            );
        }
        if self.how == How::NotCompared {
            return write!(
                f,
                "{what} not compared before: {path}: an earlier comparison was incomplete, so this path may have been created or \
                 changed since — review it before use"
            );
        }
        write!(f, "{what} {}: {path}: host tools may execute or load this path — review it before use", self.how)
    }
}

/// The changes of protected paths, limited to the size of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The most important changes.
    pub changes: Vec<Change>,
    /// The numbers of further changes.
    pub omitted: Omitted,
    /// The parts that were not compared, so that changes may be missing.
    pub gaps: Gaps,
    /// Whether the sandbox was restarted because it did not protect the objects now at protected paths.
    pub restarted: bool,
}

impl Report {
    /// Adds the content of another report, up to the limit of changes. Every change beyond the limit is counted.
    pub fn add(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.omitted.merge(other.omitted);
        prioritize(&mut self.changes);
        for change in self.changes.drain(self.changes.len().min(MAX_REPORTED)..) {
            self.omitted.add(Group::of(&change), 1);
        }
        self.gaps.merge(other.gaps);
        self.restarted |= other.restarted;
    }

    /// Returns whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.omitted.is_empty() && self.gaps.is_empty() && !self.restarted
    }

    /// Returns the warnings for the user, one line each. Every change is shown, or counted by kind of change and listed name.
    pub fn warnings(&self) -> Vec<String> {
        let mut limited = Self::default();
        limited.add(self.clone());
        let is_below = |change: &&Change| Group::of(change).in_subdirectory;
        let (below, at_root): (Vec<&Change>, Vec<&Change>) = limited.changes.iter().partition(is_below);
        let mut warnings = summary::lines_at_root(&at_root);
        warnings.extend(summary::lines_below(&below));
        warnings.extend(limited.omitted.lines());
        warnings.extend(limited.gaps.iter().map(ToString::to_string));
        if limited.restarted {
            warnings.push(
                "sandbox restarted, which emptied its /tmp: protected paths had been created or replaced, and were writable in the \
                 sandbox — keep files that later commands need outside of /tmp"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// Puts the most important changes first if there are more than a report names. The first change of each group comes first, so
/// that a payload cannot hide a change behind many others. Among these, changes at the roots of grants precede those in
/// subdirectories, and changes of existing paths precede creations. The other changes follow, creations last.
pub(super) fn prioritize(changes: &mut [Change]) {
    if changes.len() <= MAX_REPORTED {
        return;
    }
    let mut counts: HashMap<Group, usize> = HashMap::new();
    changes.sort_by_cached_key(|change| {
        let group = Group::of(change);
        let (in_subdirectory, how) = (group.in_subdirectory, group.how);
        let count = counts.entry(group).or_default();
        *count += 1;
        let is_further = *count > 1;
        (is_further, is_further && how == How::Created, *count, in_subdirectory, how)
    });
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
