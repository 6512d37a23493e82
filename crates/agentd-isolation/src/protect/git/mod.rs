//! Locates the files that a git repository executes or loads (`gitrepository-layout(5)`). This module reads all files itself:
//! running git would execute commands that a payload wrote into the configuration.

mod config;
pub(crate) mod fuzz;
mod index;
mod settings;

pub(super) use index::entries as index_entries;
pub(super) use settings::{Named, named_by_all};

use super::{case, gaps::Cause, interrupt::Interrupt, links::Links, list::LIST, read};
use rustix::fs::{AtFlags, lstat, statat};
use std::{
    ffi::OsStr,
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

/// The directories in a git directory that contain further git directories.
const GIT_PARENTS: [&str; 2] = ["modules", "worktrees"];

/// A repository with a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// The directory that contains `.git`.
    pub worktree: PathBuf,
    /// The worktree's own git directory.
    pub own: PathBuf,
    /// The git directory that all worktrees of the repository share; equal to `own` for the main worktree.
    pub common: PathBuf,
}

impl Repository {
    /// Opens the repository whose worktree is at `root`. `.git` is its git directory, a link to that directory, or a file that
    /// names it. Files that cannot be read are added to the gaps of `links`.
    pub(super) fn open(root: &Path, links: &mut Links) -> Option<Self> {
        let git = root.join(".git");
        let meta = git.symlink_metadata().ok()?;
        let own = if meta.is_dir() {
            git
        } else if meta.is_symlink() {
            links.follow(&git).target.filter(|real| real.is_dir())?
        } else {
            let Some(content) = read::absolute(&git) else {
                links.gaps.add(&git, Cause::UnreadableFile);
                return None;
            };
            links.follow(&root.join(path(content.strip_prefix(b"gitdir: ")?))).target?
        };
        let common = common_directory(&own, links);
        Some(Self { worktree: root.to_path_buf(), own, common })
    }

    /// Returns the length of the repository's object names in bytes: 20 for SHA-1, 32 for SHA-256.
    pub(super) fn object_bytes(&self) -> usize {
        let settings = read::absolute(&self.common.join("config")).unwrap_or_default();
        let mut format = None;
        config::parse(&settings, |variable| {
            if variable.is(b"extensions", b"objectformat") {
                format.clone_from(&variable.value);
            }
        });
        if format.is_some_and(|format| format == b"sha256") { 32 } else { 20 }
    }

    /// Returns the paths that the repository's settings name: the directory of hooks, included files, programs.
    pub(super) fn named(&self, interrupt: &Interrupt) -> Named {
        settings::named(&[self.common.join("config"), self.own.join("config.worktree")], &self.worktree, interrupt)
    }
}

/// Returns the paths that the settings of a git directory without a worktree name.
pub(super) fn named_by_bare(directory: &Path, interrupt: &Interrupt) -> Named {
    settings::named(&[directory.join("config")], directory, interrupt)
}

/// Returns the absolute paths of the protected names in a git directory.
pub(super) fn names(directory: &Path) -> impl Iterator<Item = PathBuf> + use<'_> {
    LIST.git.iter().map(|name| directory.join(name))
}

/// Returns the absolute paths of the names in a git directory that git writes to and whose changes are reported.
pub(super) fn reported_names(directory: &Path) -> impl Iterator<Item = PathBuf> + use<'_> {
    LIST.git_reported.iter().map(|name| directory.join(name))
}

/// Returns whether a path relative to a git directory is a protected or reported name, or lies in one.
pub(super) fn is_name(below: &Path) -> bool {
    LIST.git.iter().chain(&LIST.git_reported).any(|name| below.starts_with(name))
}

/// Returns whether `path` is a parent of git directories. The parent itself is not protected as a whole: only the protected names
/// in its git directories are.
pub(super) fn is_git_parent(path: &Path) -> bool {
    path.file_name().is_some_and(|name| GIT_PARENTS.iter().any(|parent| *case::key(name.as_bytes()) == *parent.as_bytes()))
}

/// Returns whether git accepts a directory as a git directory (`is_git_directory` in its `setup.c`).
pub(super) fn is_git_directory(path: &Path) -> bool {
    let there = |name: &str| path.join(name).symlink_metadata().is_ok();
    there("HEAD") && ((there("objects") && there("refs")) || there("commondir"))
}

/// Does the same as [`is_git_directory`] for an opened directory.
pub(super) fn is_git_directory_at(directory: impl AsFd) -> bool {
    let there = |name: &str| statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    there("HEAD") && ((there("objects") && there("refs")) || there("commondir"))
}

/// Returns the directory with the settings of a git directory: the one that its file `commondir` names, or itself. If the file
/// cannot be read or names no directory, git refuses to work there, and the file is added to the gaps of `links`.
pub(super) fn common_directory(directory: &Path, links: &mut Links) -> PathBuf {
    let file = directory.join("commondir");
    if let Err(errno) = lstat(&file)
        && read::is_absent(errno)
    {
        return directory.to_path_buf();
    }
    // Git follows a link in place of the file.
    let content = links.follow(&file).target.and_then(|file| read::absolute(&file));
    let named = content.as_deref().map(path).filter(|named| !named.as_os_str().is_empty());
    let common = named.and_then(|named| links.follow(&directory.join(named)).target).filter(|common| common.is_dir());
    common.unwrap_or_else(|| {
        if !links.gaps.is_interrupted() {
            links.gaps.add(&file, Cause::UnreadableCommonDir);
        }
        directory.to_path_buf()
    })
}

/// Returns the path in a file of one line. As in git, line ends after the path are removed, and all other bytes belong to the
/// path.
fn path(content: &[u8]) -> &Path {
    let end = content.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    Path::new(OsStr::from_bytes(&content[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn repository_of_a_linked_worktree_has_the_settings_of_the_main_one() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (main, other) = (root.join("main"), root.join("other"));
        fs::create_dir_all(main.join(".git/worktrees/other")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(main.join(".git/worktrees/other/commondir"), "../..\n").unwrap();
        fs::write(other.join(".git"), format!("gitdir: {}\n", main.join(".git/worktrees/other").display())).unwrap();
        let repository = Repository::open(&other, &mut Links::new(&Interrupt::default())).unwrap();
        assert_eq!(repository.common, main.join(".git"));
        assert_eq!(repository.own, main.join(".git/worktrees/other"));
    }
}
