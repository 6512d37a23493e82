//! Reports of changed protected paths.

use super::{gaps::Gaps, subdirectory, summary};
use agentd_core::escape;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, path::PathBuf};

/// The maximum number of changes that a report names.
pub(super) const MAX_REPORTED: usize = 256;

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The path did not exist before.
    Created,
    /// The path no longer exists.
    Removed,
    /// Another file or directory is at the path. A running sandbox does not protect the new object.
    Replaced,
    /// The content, mode or times changed.
    Changed,
    /// Git in the sandbox checked out another version but could not write the file: the index has changed, the file has not.
    NotUpdated,
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
    /// The SHA-256 digest of the present content, for a regular file of at most 1 MiB among the first changes of a report.
    pub digest: Option<[u8; 32]>,
    /// The grant, if the path is a listed name in one of its subdirectories, or lies in one.
    #[serde(with = "agentd_kernel::path_bytes::maybe")]
    pub below: Option<PathBuf>,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Changed => "changed",
            Self::NotUpdated => "not updated",
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
        write!(f, "{what} {}: {path}: host tools may execute or load this path — review it before use", self.how)
    }
}

/// The changes of protected paths, limited to the size of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The first changes.
    pub changes: Vec<Change>,
    /// The number of further changes.
    pub omitted: u64,
    /// The parts that were not compared, so that changes may be missing.
    pub gaps: Gaps,
    /// Whether the sandbox was restarted because it did not protect the objects now at protected paths.
    pub restarted: bool,
}

impl Report {
    /// Adds the content of another report, up to the limit of changes.
    pub fn add(&mut self, other: Self) {
        self.changes.extend(other.changes);
        prioritize(&mut self.changes);
        self.omitted += other.omitted + self.changes.len().saturating_sub(MAX_REPORTED) as u64;
        self.changes.truncate(MAX_REPORTED);
        self.gaps.merge(other.gaps);
        self.restarted |= other.restarted;
    }

    /// Returns the warnings for the user, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let (below, own): (Vec<&Change>, Vec<&Change>) = self.changes.iter().partition(|change| change.below.is_some());
        let mut warnings: Vec<String> = own.iter().take(MAX_REPORTED).map(ToString::to_string).collect();
        warnings.extend(summary::lines(&below));
        let omitted = self.omitted + own.len().saturating_sub(MAX_REPORTED) as u64;
        if omitted > 0 {
            warnings.push(format!("{omitted} more protected paths changed — review the whole workspace"));
        }
        warnings.extend(self.gaps.iter().map(ToString::to_string));
        if self.restarted {
            warnings.push(
                "sandbox restarted: protected paths had been created or replaced and were writable in it: its background \
                 processes were ended and its /tmp was emptied — start the background processes again"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// Puts the most important changes first if there are more than a report names: those outside of subdirectories, then one of each
/// kind of listed name. So a payload cannot hide a change behind many changes of another kind.
pub(super) fn prioritize(changes: &mut [Change]) {
    if changes.len() <= MAX_REPORTED {
        return;
    }
    let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
    changes.sort_by_cached_key(|change| {
        let path = change.below.as_ref().and_then(|grant| change.path.strip_prefix(grant).ok());
        path.map_or(0, |path| {
            let count = counts.entry(subdirectory::kind(path).to_vec()).or_default();
            *count += 1;
            *count
        })
    });
}
