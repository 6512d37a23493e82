//! Reports of changed protected paths.

use super::gaps::Gaps;
use agentd_core::escape;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// The maximum number of changes that a report names.
pub(super) const MOST_REPORTED: usize = 256;

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
        let room = MOST_REPORTED.saturating_sub(self.changes.len());
        self.omitted += other.omitted + other.changes.len().saturating_sub(room) as u64;
        self.changes.extend(other.changes.into_iter().take(room));
        self.gaps.merge(other.gaps);
        self.restarted |= other.restarted;
    }

    /// Returns the warnings for the user, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        if self.omitted > 0 {
            warnings.push(format!("{} more protected paths changed — review the whole workspace", self.omitted));
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
