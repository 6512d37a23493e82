//! Records the parts that a comparison of protected paths left out.

use agentd_core::escape;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The limit or the obstacle that stopped a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The tree has more directories than are searched.
    TooManyDirectories,
    /// The directories of the tree have more names than are read.
    TooManyNames,
    /// The subdirectories of the tree have more listed names than are compared.
    TooManyListed,
    /// The directory cannot be listed.
    Unreadable,
    /// Git's settings are too large, or name too many files.
    TooManySettings,
    /// Protected directories have more entries than are compared.
    TooManyEntries,
    /// More bytes of protected files were changed shortly before the comparison than are read.
    TooManyBytes,
    /// The file cannot be read.
    UnreadableFile,
    /// More links, or longer paths in links, than are followed.
    TooManyLinks,
    /// The tree has more git directories than are compared.
    TooManyRepositories,
    /// Processes of the sandbox may have changed files after the comparison.
    StillRunning,
    /// A signal or a time limit ended the comparison.
    Interrupted,
    /// The file `commondir` of a git directory, or a file `.git`, cannot be read, or names no directory.
    UnreadableCommonDir,
    /// The daemon was killed before it had compared the paths of a sandbox whose processes may have run.
    DaemonKilled,
    /// Git's index cannot be read, is too large or is damaged.
    UnreadableIndex,
    /// The file with changes that no client has received cannot be read or is damaged.
    UnreadableReport,
}

/// One path at which a comparison stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first path that was not compared.
    #[serde(with = "agentd_kernel::path_bytes::one")]
    pub path: PathBuf,
    /// The reason.
    pub cause: Cause,
}

/// The parts that a comparison left out: the first path for each cause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    pub(super) fn add(&mut self, path: &Path, cause: Cause) {
        if !self.0.iter().any(|gap| gap.cause == cause) {
            self.0.push(Gap { path: path.to_path_buf(), cause });
        }
    }

    /// Adds the gaps of another comparison, except those with a cause that this comparison already has.
    pub fn merge(&mut self, other: Self) {
        for gap in other.0 {
            self.add(&gap.path, gap.cause);
        }
    }

    /// Creates gaps with one path and cause.
    pub fn of(path: &Path, cause: Cause) -> Self {
        let mut gaps = Self::default();
        gaps.add(path, cause);
        gaps
    }

    /// Returns whether a signal or a time limit ended the comparison.
    pub fn is_interrupted(&self) -> bool {
        self.0.iter().any(|gap| gap.cause == Cause::Interrupted)
    }

    /// Returns whether everything was compared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first path for each cause.
    pub fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.0.iter()
    }
}

impl fmt::Display for Gap {
    /// Writes one line. The path was chosen by a payload, so its control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escape::name(&self.path);
        write!(f, "comparison of protected paths incomplete: {path}")?;
        match self.cause {
            Cause::TooManyDirectories | Cause::TooManyNames => write!(
                f,
                ": the search for git directories and listed names stopped here, because the tree is too large — grant a \
                 smaller directory, make large directories read-only (--ro), or review the tree before host tools use it"
            ),
            Cause::TooManyListed => write!(
                f,
                ": subdirectories have more listed names than are compared — review the tree before host tools use it, grant a \
                 smaller directory, or make large directories read-only (--ro)"
            ),
            Cause::Unreadable => write!(
                f,
                ": the directory cannot be listed — remove it, make it readable (chmod u+rx), or grant it read-only (--ro)"
            ),
            Cause::UnreadableFile => {
                write!(f, ": the file cannot be read — remove it, make it readable (chmod u+r), or grant it read-only (--ro)")
            }
            Cause::TooManyLinks => {
                write!(f, ": protected paths lead through too many links — remove the links, or review their targets")
            }
            Cause::TooManyRepositories => write!(
                f,
                ": the tree has more git directories than are compared — review the git directories there before you run git, \
                 grant a smaller directory, or make large directories read-only (--ro)"
            ),
            Cause::TooManySettings => {
                write!(
                    f,
                    ": git's settings are too large or name too many files — review git's settings before you run git there"
                )
            }
            Cause::TooManyEntries => {
                write!(f, ": protected directories have too many entries — review the directory, or make it read-only (--ro)")
            }
            Cause::StillRunning => {
                write!(
                    f,
                    ": processes of the sandbox may still run, and change files here — review the directory when they have ended"
                )
            }
            Cause::Interrupted => {
                write!(f, ": a signal or the time limit (--timeout) ended the comparison here — review the directory before use")
            }
            Cause::DaemonKilled => write!(
                f,
                ": the daemon was killed before it had compared the paths, so paths that were removed or moved since are not \
                 reported — review the directory before host tools use it"
            ),
            Cause::UnreadableCommonDir => write!(
                f,
                ": this file, by which git finds its settings, cannot be read or names no directory — remove the file, or \
                 correct it with `git worktree repair`"
            ),
            Cause::UnreadableIndex => write!(
                f,
                ": git's index cannot be read, is too large or is damaged, so files that git could not check out are not reported \
                 — run `git status` on the host before the next commit"
            ),
            Cause::UnreadableReport => write!(
                f,
                ": the file with earlier changes cannot be read or is damaged, so these changes are lost — review the writable \
                 grants of the sandbox before host tools use them"
            ),
            Cause::TooManyBytes => {
                write!(
                    f,
                    ": too many bytes of protected files were written shortly before the comparison — review the file before host \
                     tools use it"
                )
            }
        }
    }
}
