//! The directories that a watch observes (`man 7 inotify`).
//!
//! Every directory is opened from the watched one, component by component, without following a link. The kernel therefore
//! observes no directory outside of the tree, however other processes exchange directories and links meanwhile.

use crate::{
    deadline::Deadline,
    limits::MAX_PATH,
    resolve::{self, kind},
    response::NodeKind,
};
use rustix::{
    fs::{
        AtFlags, Dir,
        inotify::{self, WatchFlags},
        statat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// The maximum number of directories. The kernel needs about 1 KiB for each.
pub(super) const MAX_DIRECTORIES: usize = 8192;

/// The changes that the kernel reports.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);

/// The watched directories.
pub(super) struct WatchedTree<'i> {
    inotify: BorrowedFd<'i>,
    root: OwnedFd,
    recursive: bool,
    deadline: Deadline,
    /// The path of each watch, relative to the root, which is empty.
    paths: HashMap<i32, Vec<u8>>,
    unwatched: u64,
}

/// Receives the path of each file in a directory, and whether it is a directory.
type FoundFile<'f> = dyn FnMut(&[u8], bool) + 'f;

impl<'i> WatchedTree<'i> {
    /// Watches `root`, and what is below if `recursive` is true. Also returns the watch of the root.
    ///
    /// # Errors
    /// The root cannot be watched.
    pub(super) fn new(inotify: BorrowedFd<'i>, root: OwnedFd, recursive: bool, deadline: Deadline) -> Result<(Self, i32), Errno> {
        let mut tree = Self { inotify, root, recursive, deadline, paths: HashMap::new(), unwatched: 0 };
        let directory = tree.open(b"")?;
        let watch = tree.watch(&directory, b"")?;
        if recursive {
            tree.below(directory, b"", &mut |_, _| {});
        }
        Ok((tree, watch))
    }

    /// Returns the number of directories that are watched, and of those that could not be.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.paths.len() as u64, self.unwatched)
    }

    /// Returns the path of a watch.
    pub(super) fn path(&self, watch: i32) -> Option<&[u8]> {
        self.paths.get(&watch).map(Vec::as_slice)
    }

    /// Forgets a watch that the kernel has removed.
    pub(super) fn forget(&mut self, watch: i32) {
        self.paths.remove(&watch);
    }

    /// Watches a directory that appeared, and what is below. `found` gets the files that it already contains: the kernel reports
    /// only those that are created after the watch.
    pub(super) fn appeared(&mut self, path: &[u8], found: &mut FoundFile<'_>) {
        if !self.recursive {
            return;
        }
        let Ok(directory) = self.open(path) else {
            self.unwatched += 1;
            return;
        };
        if self.watch(&directory, path).is_err() {
            self.unwatched += 1;
            return;
        }
        self.below(directory, path, found);
    }

    /// Removes the watches of a directory that is no longer in the tree, and of those below.
    pub(super) fn disappeared(&mut self, path: &[u8]) {
        let gone: Vec<i32> = self.paths.iter().filter(|(_, of)| is_within(of, path)).map(|(watch, _)| *watch).collect();
        for watch in gone {
            self.paths.remove(&watch);
            // The directory may be removed already, and its watch with it.
            let _ = inotify::remove_watch(self.inotify, watch);
        }
    }

    /// Changes the paths of a directory that was renamed, and of those below.
    pub(super) fn renamed(&mut self, from: &[u8], to: &[u8]) {
        for path in self.paths.values_mut().filter(|path| is_within(path, from)) {
            *path = [to, &path[from.len()..]].concat();
        }
    }

    fn below(&mut self, directory: OwnedFd, path: &[u8], found: &mut FoundFile<'_>) {
        // A directory is opened when its turn comes, so that their number does not need as many descriptors.
        let mut pending = self.children(&directory, path, found);
        drop(directory);
        while let Some(path) = pending.pop() {
            if self.deadline.is_over() || self.paths.len() >= MAX_DIRECTORIES || path.len() > MAX_PATH {
                self.unwatched += 1;
                continue;
            }
            match self.open(&path).and_then(|directory| self.watch(&directory, &path).map(|_| directory)) {
                Ok(directory) => pending.extend(self.children(&directory, &path, found)),
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(_) => self.unwatched += 1,
            }
        }
    }

    /// Returns the directories in a directory.
    fn children(&mut self, directory: &OwnedFd, path: &[u8], found: &mut FoundFile<'_>) -> Vec<Vec<u8>> {
        let mut children = Vec::new();
        let Ok(entries) = Dir::read_from(directory) else { return children };
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || self.deadline.is_over() {
                continue;
            }
            let stat = statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW);
            let is_directory = stat.is_ok_and(|stat| kind(&stat) == NodeKind::Directory);
            let child = join(path, name);
            found(&child, is_directory);
            if is_directory && children.len() < MAX_DIRECTORIES {
                children.push(child);
            } else if is_directory {
                self.unwatched += 1;
            }
        }
        children
    }

    fn watch(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<i32, Errno> {
        if self.paths.len() >= MAX_DIRECTORIES {
            return Err(Errno::NOSPC);
        }
        // The path names the open directory, whatever has its name by now. A process can always use this file of its own.
        let opened = format!("/proc/self/fd/{}/.", directory.as_raw_fd());
        let watch = inotify::add_watch(self.inotify, opened, CHANGES)?;
        self.paths.insert(watch, path.to_vec());
        Ok(watch)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut directory = resolve::open_directory(&self.root, OsStr::new("."))?;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            directory = resolve::open_directory(&directory, OsStr::from_bytes(part))?;
        }
        Ok(directory)
    }
}

/// Returns the path of a name in a directory.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn is_within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
