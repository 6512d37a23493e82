//! Finds git directories in a tree. A payload can create a git directory anywhere. A git command, or a shell prompt, that runs
//! below it obeys its configuration.
//!
//! The search lists every directory, level by level, with several threads in large trees. A later search of the same tree lists
//! only the directories whose ctime has changed (`docs/decisions/0067`).

use super::{
    gaps::{Cause, Gaps},
    git,
    listing::{self, Listing, Stamp, Stamps},
    read,
    tree::{Tree, index},
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

/// The limits of one search. A payload can create directories to slow down later runs; the limits bound that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The maximum number of directories that are searched, those nearest to the root first.
    pub directories: usize,
    /// The maximum number of names that are read in all directories together.
    pub names: usize,
}

impl Limits {
    /// The limits for a granted tree.
    pub(super) const TREE: Self = Self { directories: 1 << 18, names: 1 << 22 };

    /// The limits for a parent of git directories, which is protected as a whole if it has more.
    pub(super) const NEST: Self = Self { directories: 1024, names: 1 << 18 };
}

/// The number of directories of one level from which on several threads search them.
const PARALLEL: usize = 256;

/// The maximum number of threads of one search.
const MOST_THREADS: usize = 4;

/// The size of a buffer for names, in bytes.
const BUFFER: usize = 32 << 10;

/// The result of a search.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Git directories.
    pub directories: Vec<PathBuf>,
    /// Entries named `.git` that are not directories: such a file names the git directory of its worktree.
    pub files: Vec<PathBuf>,
    /// Where the search stopped.
    pub gaps: Gaps,
    /// The directories, for a later search.
    pub tree: Tree,
}

/// A directory that is searched next.
struct Waiting {
    /// The path below the root; empty for the root.
    path: PathBuf,
    /// The same directory in the last search.
    last: Option<usize>,
}

/// The known state of a waiting directory.
enum Looked {
    /// It is unchanged since the last search, where it has this position.
    Unchanged(usize),
    Listed(Listing),
    /// No directory is there any more, or another user's directory, which a payload cannot have hidden.
    Gone,
    /// It may contain directories that were not searched.
    Hidden,
}

struct Search<'a> {
    root: &'a Path,
    opened: OwnedFd,
    stamps: Stamps,
    /// The number of names that may still be read.
    names: AtomicUsize,
    last: &'a Tree,
    /// Absolute paths that are not searched.
    except: &'a [PathBuf],
    most: usize,
    found: Found,
}

/// Searches the tree below `root`, except the trees at the absolute paths in `except`. Symbolic links are not followed. `last` is
/// the tree that an earlier search of the same root found, or an empty one.
pub(super) fn search(root: &Path, limits: Limits, except: &[PathBuf], last: &Tree) -> Found {
    search_at(root, limits, except, last, rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec)
}

/// Searches at the time `now`, in seconds.
fn search_at(root: &Path, limits: Limits, except: &[PathBuf], last: &Tree, now: i64) -> Found {
    let opened = match read::open(CWD, root, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(opened) => opened,
        Err(errno) => {
            let mut found = Found::default();
            if is_hidden(root, errno) {
                found.gaps.add(root, Cause::Unreadable);
            }
            return found;
        }
    };
    let stamps = Stamps::of(&opened, now);
    let (names, most, found) = (AtomicUsize::new(limits.names), limits.directories, Found::default());
    Search { root, opened, stamps, names, last, except, most, found }.run()
}

impl Search<'_> {
    fn run(mut self) -> Found {
        self.found.tree.push(OsStr::new(""));
        let mut level = vec![Waiting { path: PathBuf::new(), last: (!self.last.is_empty()).then_some(0) }];
        while !level.is_empty() {
            let looked = self.look_at(&level);
            let mut next = Vec::new();
            let first = self.found.tree.directories.len() - level.len();
            for (offset, (waiting, looked)) in level.into_iter().zip(looked).enumerate() {
                self.add(first + offset, &waiting, looked, &mut next);
            }
            level = next;
        }
        self.found
    }

    /// Looks at each directory of a level; in large levels, several threads do this.
    fn look_at(&self, level: &[Waiting]) -> Vec<Looked> {
        let threads = if level.len() < PARALLEL { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
        let share = level.len().div_ceil(threads.min(MOST_THREADS));
        let (own, others) = level.split_at(share.min(level.len()));
        std::thread::scope(|scope| {
            let start = |part| {
                let thread = std::thread::Builder::new().name("protect".to_owned());
                (part, thread.spawn_scoped(scope, move || self.look_at_each(part)))
            };
            let started: Vec<_> = others.chunks(share).map(start).collect();
            let mut looked = self.look_at_each(own);
            for (part, thread) in started {
                // Without another thread, this one does the work.
                let of_thread = thread.ok().and_then(|thread| thread.join().ok());
                looked.extend(of_thread.unwrap_or_else(|| self.look_at_each(part)));
            }
            looked
        })
    }

    fn look_at_each(&self, part: &[Waiting]) -> Vec<Looked> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        part.iter().map(|waiting| self.look(waiting, &mut buffer)).collect()
    }

    fn look(&self, waiting: &Waiting, buffer: &mut [MaybeUninit<u8>]) -> Looked {
        if let Some(last) = waiting.last
            && let Some(stamp) = self.last.directories[last].stamp
            && listing::is_unchanged(&self.opened, &waiting.path, stamp)
        {
            return Looked::Unchanged(last);
        }
        match listing::list(&self.opened, &waiting.path, &self.stamps, &self.names, buffer) {
            Ok(listing) => Looked::Listed(listing),
            Err(errno) if is_hidden(&self.root.join(&waiting.path), errno) => Looked::Hidden,
            Err(_) => Looked::Gone,
        }
    }

    fn add(&mut self, position: usize, waiting: &Waiting, looked: Looked, next: &mut Vec<Waiting>) {
        let last = self.last;
        match looked {
            Looked::Gone => {}
            Looked::Hidden => self.found.gaps.add(&self.root.join(&waiting.path), Cause::Unreadable),
            Looked::Unchanged(old) => {
                let directory = &last.directories[old];
                let (is_git, has_git_file, stamp) = (directory.is_git, directory.has_git_file, directory.stamp);
                let children = last.children(old).map(|child| (last.name(child), Some(child)));
                self.record(position, waiting, (is_git, has_git_file, stamp));
                self.enqueue(position, waiting, children, next);
            }
            Looked::Listed(listing) => {
                if listing.is_cut {
                    self.found.gaps.add(&self.root.join(&waiting.path), Cause::TooManyNames);
                }
                let old = waiting.last.map_or(0..0, |old| last.children(old));
                let known: HashMap<&OsStr, usize> = old.map(|child| (last.name(child), child)).collect();
                let is_searched = |name: &&OsStr| is_searched(name, listing.is_git, waiting.path.as_os_str().is_empty());
                let names = listing::names(&listing.directories).filter(is_searched);
                let children = names.map(|name| (name, known.get(name).copied()));
                self.record(position, waiting, (listing.is_git, listing.has_git_file, listing.stamp));
                self.enqueue(position, waiting, children, next);
            }
        }
    }

    fn record(&mut self, position: usize, waiting: &Waiting, (is_git, has_git_file, stamp): (bool, bool, Option<Stamp>)) {
        let directory = &mut self.found.tree.directories[position];
        (directory.is_git, directory.has_git_file, directory.stamp) = (is_git, has_git_file, stamp);
        // The root is joined only with a name: `join("")` would append a separator.
        let path = || if waiting.path.as_os_str().is_empty() { self.root.to_path_buf() } else { self.root.join(&waiting.path) };
        if has_git_file {
            self.found.files.push(path().join(".git"));
        }
        if is_git {
            self.found.directories.push(path());
        }
    }

    /// Adds subdirectories of a directory, with their positions in the last search.
    fn enqueue<'b>(
        &mut self,
        position: usize,
        waiting: &Waiting,
        children: impl Iterator<Item = (&'b OsStr, Option<usize>)>,
        next: &mut Vec<Waiting>,
    ) {
        let first = self.found.tree.directories.len();
        for (name, last) in children {
            let path = waiting.path.join(name);
            if !self.except.is_empty() && self.except.contains(&self.root.join(&path)) {
                continue;
            }
            if self.found.tree.directories.len() >= self.most {
                self.found.gaps.add(&self.root.join(&path), Cause::TooManyDirectories);
                self.found.tree.directories[position].stamp = None;
                break;
            }
            self.found.tree.push(name);
            next.push(Waiting { path, last });
        }
        self.found.tree.directories[position].children = index(first)..index(self.found.tree.directories.len());
    }
}

/// Returns whether the search continues in the subdirectory `name`. Objects and references of a git directory contain no git
/// directories that a command would find. A repository at the root may be bare and have the project as its worktree, so its other
/// directories are searched too.
fn is_searched(name: &OsStr, in_git: bool, in_root: bool) -> bool {
    let own = ["objects", "refs", "logs"].iter().any(|own| name == *own);
    !in_git || git::is_nest(Path::new(name)) || (in_root && !own)
}

/// Returns whether a directory that could not be opened may hide a repository. A payload can remove the permission to list its
/// own directory, and git still finds a repository in it by name. A removed directory hides nothing, and a payload cannot change
/// the mode of another user's directory.
fn is_hidden(directory: &Path, errno: Errno) -> bool {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => false,
        Errno::ACCESS => rustix::fs::lstat(directory).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw()),
        _ => true,
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
