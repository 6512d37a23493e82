//! Finds git directories, and listed names, in the subdirectories of a tree. A payload can create them anywhere. A git command,
//! or a shell prompt, that runs below a git directory applies its configuration.
//!
//! The search lists every directory, level by level, with several threads in large trees. A later search of the same tree lists
//! only the directories whose ctime has changed (`docs/decisions/0067`).

use super::{
    gaps::{Cause, Gaps},
    git,
    interrupt::Interrupt,
    listing::{self, Budget, Listing, Stamp, Stamps},
    read,
    tree::{SearchedTree, index},
};
use rustix::{
    fs::{CWD, OFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::AtomicUsize,
};

/// The limits of one search and comparison. A payload can create directories to slow down later runs; the limits bound that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The maximum number of directories that are searched, those nearest to the root first.
    pub directories: usize,
    /// The maximum number of names that are read in all directories together.
    pub names: usize,
    /// The maximum number of git directories, and files in their place, that are found.
    pub repositories: usize,
    /// The maximum number of listed names that are found; `None` to find git directories only.
    pub listed: Option<usize>,
    /// The maximum length of the paths of all searched directories together, in bytes. It bounds memory, and the time for
    /// look-ups in deep trees.
    pub path_bytes: usize,
    /// The number of compared paths at which the comparison of listed names and of entries of protected directories stops.
    pub entries: usize,
}

impl Limits {
    /// The limits for a granted tree.
    pub(super) const TREE: Self = Self {
        directories: 1 << 18,
        names: 1 << 22,
        repositories: 1 << 14,
        listed: Some(1 << 15),
        path_bytes: 64 << 20,
        entries: 1 << 16,
    };

    /// The limits for a parent of git directories. A parent that exceeds them is protected as a whole.
    pub(super) const GIT_PARENT: Self =
        Self { directories: 1024, names: 1 << 18, repositories: 1024, listed: None, path_bytes: 64 << 20, entries: 0 };
}

/// The minimum number of directories of one level that several threads search.
const PARALLEL: usize = 256;

/// The maximum number of threads of one search.
const MAX_THREADS: usize = 4;

/// The maximum length of the paths of all listed names together, in bytes.
const MAX_LISTED_BYTES: usize = 16 << 20;

/// The maximum length of the paths of all git directories together, in bytes. Each takes about a dozen look-ups.
const MAX_REPOSITORY_BYTES: usize = 4 << 20;

/// The size of a buffer for names, in bytes.
const BUFFER: usize = 32 << 10;

/// The result of a search.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Git directories.
    pub directories: Vec<PathBuf>,
    /// Entries named `.git` that are not directories: such a file names the git directory of its worktree.
    pub files: Vec<PathBuf>,
    /// Listed names in subdirectories, those nearest to the root first.
    pub listed: Vec<PathBuf>,
    /// Where the search stopped.
    pub gaps: Gaps,
    /// The directories, for a later search.
    pub tree: SearchedTree,
}

/// A directory that is searched next.
struct DirectoryToSearch {
    /// The path below the root; empty for the root.
    path: PathBuf,
    /// The position of this directory in the last search.
    last: Option<usize>,
}

/// The known state of a directory that waits to be searched.
enum DirectoryFindings {
    /// The directory is unchanged since the last search, in which it has this position.
    Unchanged(usize),
    Listed(Listing),
    /// The directory no longer exists.
    Gone,
    /// The directory may contain directories that were not searched, for this reason.
    Hidden(Cause),
}

struct Search<'a> {
    root: &'a Path,
    opened: OwnedFd,
    stamps: Stamps,
    budget: Budget<'a>,
    last: &'a SearchedTree,
    /// Absolute paths that are not searched.
    except: &'a [PathBuf],
    limits: Limits,
    /// The length of the paths in `found.listed`, in bytes.
    listed_bytes: usize,
    /// The length of the paths of the git directories that were found, in bytes.
    repository_bytes: usize,
    /// The length of the paths of all searched directories, in bytes.
    path_bytes: usize,
    found: Found,
}

/// The facts that a search records about a directory.
struct Facts<'a> {
    is_git: bool,
    has_git_file: bool,
    stamp: Option<Stamp>,
    /// The listed names, each followed by a zero byte.
    listed: &'a [u8],
}

/// Searches the tree below `root`, except the trees at the absolute paths in `except`. Symbolic links are not followed. `last` is
/// the tree that an earlier search of the same root found, or an empty one.
pub(super) fn search(root: &Path, limits: Limits, except: &[PathBuf], last: &SearchedTree, interrupt: &Interrupt) -> Found {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    search_at(root, limits, except, last, now, interrupt)
}

/// Searches at the time `now`, in seconds.
fn search_at(root: &Path, limits: Limits, except: &[PathBuf], last: &SearchedTree, now: i64, interrupt: &Interrupt) -> Found {
    let opened = match read::open(CWD, root, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(opened) => opened,
        Err(errno) => {
            let mut found = Found::default();
            if !read::is_absent(errno) {
                found.gaps.add(root, Cause::Unreadable);
            }
            return found;
        }
    };
    let stamps = Stamps::of(&opened, now);
    let budget = Budget { names: AtomicUsize::new(limits.names), listed: limits.listed.map(AtomicUsize::new), interrupt };
    let (listed_bytes, repository_bytes, path_bytes) = (0, 0, 0);
    let found = Found::default();
    Search { root, opened, stamps, budget, last, except, limits, listed_bytes, repository_bytes, path_bytes, found }.run()
}

impl Search<'_> {
    fn run(mut self) -> Found {
        self.found.tree.push(OsStr::new(""));
        let mut level = vec![DirectoryToSearch { path: PathBuf::new(), last: (!self.last.is_empty()).then_some(0) }];
        while !level.is_empty() {
            let findings = self.list_all(&level);
            let mut next = Vec::new();
            let first = self.found.tree.directories.len() - level.len();
            for (offset, (waiting, findings)) in level.into_iter().zip(findings).enumerate() {
                if self.budget.interrupt.is_due() {
                    self.found.gaps.add(&self.root.join(&waiting.path), Cause::Interrupted);
                    return self.found;
                }
                self.add(first + offset, &waiting, findings, &mut next);
            }
            level = next;
        }
        self.found
    }

    /// Looks at each directory of a level; in large levels, several threads do this.
    fn list_all(&self, level: &[DirectoryToSearch]) -> Vec<DirectoryFindings> {
        let threads = if level.len() < PARALLEL { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
        let share = level.len().div_ceil(threads.min(MAX_THREADS));
        let (own, others) = level.split_at(share.min(level.len()));
        std::thread::scope(|scope| {
            let start = |part| {
                let thread = std::thread::Builder::new().name("protect".to_owned());
                (part, thread.spawn_scoped(scope, move || self.list_each(part)))
            };
            let started: Vec<_> = others.chunks(share).map(start).collect();
            let mut findings = self.list_each(own);
            for (part, thread) in started {
                // Without another thread, this one does the work.
                let of_thread = thread.ok().and_then(|thread| thread.join().ok());
                findings.extend(of_thread.unwrap_or_else(|| self.list_each(part)));
            }
            findings
        })
    }

    fn list_each(&self, part: &[DirectoryToSearch]) -> Vec<DirectoryFindings> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        part.iter().map(|waiting| self.list(waiting, &mut buffer)).collect()
    }

    fn list(&self, waiting: &DirectoryToSearch, buffer: &mut [MaybeUninit<u8>]) -> DirectoryFindings {
        if self.budget.interrupt.is_due() {
            return DirectoryFindings::Hidden(Cause::Interrupted);
        }
        if let Some(last) = waiting.last
            && let Some(stamp) = self.last.directories[last].stamp
            && listing::is_unchanged(&self.opened, &waiting.path, stamp)
        {
            return DirectoryFindings::Unchanged(last);
        }
        match listing::list(&self.opened, &waiting.path, &self.stamps, &self.budget, buffer) {
            Ok(listing) => DirectoryFindings::Listed(listing),
            Err(errno) if read::is_absent(errno) => DirectoryFindings::Gone,
            Err(Errno::INTR) => DirectoryFindings::Hidden(Cause::Interrupted),
            Err(_) => DirectoryFindings::Hidden(Cause::Unreadable),
        }
    }

    fn add(
        &mut self,
        position: usize,
        waiting: &DirectoryToSearch,
        findings: DirectoryFindings,
        next: &mut Vec<DirectoryToSearch>,
    ) {
        let last = self.last;
        match findings {
            DirectoryFindings::Gone => {}
            DirectoryFindings::Hidden(cause) => self.found.gaps.add(&self.root.join(&waiting.path), cause),
            DirectoryFindings::Unchanged(old) => {
                let directory = &last.directories[old];
                let (is_git, has_git_file, stamp) = (directory.is_git, directory.has_git_file, directory.stamp);
                let children = last.children(old).map(|child| (last.name(child), Some(child)));
                self.record(position, waiting, &Facts { is_git, has_git_file, stamp, listed: last.listed(old) });
                self.enqueue(position, waiting, children, next);
            }
            DirectoryFindings::Listed(listing) => {
                if listing.is_cut {
                    self.found.gaps.add(&self.root.join(&waiting.path), Cause::TooManyNames);
                }
                if listing.is_listed_cut {
                    self.found.gaps.add(&self.root.join(&waiting.path), Cause::TooManyListed);
                }
                let old = waiting.last.map_or(0..0, |old| last.children(old));
                let known: HashMap<&OsStr, usize> = old.map(|child| (last.name(child), child)).collect();
                let Listing { is_git, has_git_file, stamp, listed, directories, .. } = listing;
                self.record(position, waiting, &Facts { is_git, has_git_file, stamp, listed: &listed });
                // A link from anywhere in the tree may lead into a git directory, so all of it is searched.
                let only_git_parents = is_git && self.limits.listed.is_none();
                let names = listing::names(&directories).filter(|name| !only_git_parents || git::is_git_parent(Path::new(name)));
                let children = names.map(|name| (name, known.get(name).copied()));
                self.enqueue(position, waiting, children, next);
            }
        }
    }

    fn record(&mut self, position: usize, waiting: &DirectoryToSearch, facts: &Facts<'_>) {
        // The root is joined only with a name: `join("")` would append a separator.
        let root = self.root;
        let path = || if waiting.path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(&waiting.path) };
        let all_listed = facts.listed.is_empty() || self.add_listed(&path(), facts.listed);
        self.found.tree.set_listed(position, facts.listed);
        let directory = &mut self.found.tree.directories[position];
        (directory.is_git, directory.has_git_file) = (facts.is_git, facts.has_git_file);
        directory.stamp = facts.stamp.filter(|_| all_listed);
        if facts.has_git_file {
            let file = path().join(".git");
            if self.has_room_for(&file) {
                self.found.files.push(file);
            }
        }
        if facts.is_git {
            let directory = path();
            if self.has_room_for(&directory) {
                self.found.directories.push(directory);
            }
        }
    }

    /// Returns whether one more git directory, or file in its place, is found.
    fn has_room_for(&mut self, path: &Path) -> bool {
        self.repository_bytes = self.repository_bytes.saturating_add(path.as_os_str().len());
        let count = self.found.directories.len() + self.found.files.len();
        let has_room = count < self.limits.repositories && self.repository_bytes <= MAX_REPOSITORY_BYTES;
        if !has_room {
            self.found.gaps.add(path, Cause::TooManyRepositories);
        }
        has_room
    }

    /// Adds the listed names in a directory. Returns false if there are more than the limits allow.
    fn add_listed(&mut self, directory: &Path, names: &[u8]) -> bool {
        for name in listing::names(names) {
            let path = directory.join(name);
            self.listed_bytes = self.listed_bytes.saturating_add(path.as_os_str().len());
            let has_room = self.limits.listed.is_some_and(|max| self.found.listed.len() < max);
            if !has_room || self.listed_bytes > MAX_LISTED_BYTES {
                self.found.gaps.add(&path, Cause::TooManyListed);
                return false;
            }
            self.found.listed.push(path);
        }
        true
    }

    /// Adds subdirectories of a directory, with their positions in the last search.
    fn enqueue<'b>(
        &mut self,
        position: usize,
        waiting: &DirectoryToSearch,
        children: impl Iterator<Item = (&'b OsStr, Option<usize>)>,
        next: &mut Vec<DirectoryToSearch>,
    ) {
        let first = self.found.tree.directories.len();
        for (name, last) in children {
            let path = waiting.path.join(name);
            if !self.except.is_empty() && self.except.contains(&self.root.join(&path)) {
                continue;
            }
            self.path_bytes = self.path_bytes.saturating_add(path.as_os_str().len());
            if self.found.tree.directories.len() >= self.limits.directories || self.path_bytes > self.limits.path_bytes {
                self.found.gaps.add(&self.root.join(&path), Cause::TooManyDirectories);
                self.found.tree.directories[position].stamp = None;
                break;
            }
            self.found.tree.push(name);
            next.push(DirectoryToSearch { path, last });
        }
        self.found.tree.directories[position].children = index(first)..index(self.found.tree.directories.len());
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
