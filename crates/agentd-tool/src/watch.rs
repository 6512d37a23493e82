//! Reports the changes below a directory, for a bounded time.
//!
//! [`watched_tree`] holds the watches of the kernel, and [`changes`] the changes that are returned. This module reads what the
//! kernel reports, and connects the two names of a file that was renamed.

mod changes;
pub(crate) mod message;
mod watched_tree;

use crate::{
    deadline::Deadline,
    error::{ErrorCode, ToolError},
    limits,
    resolve::{LastLink, Resolver},
    tree,
};
use changes::SeenChanges;
use message::{ChangeKind, WatchEnd, WatchRequest, WatchResult};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, Reader},
    io::Errno,
};
use std::{collections::HashSet, mem::MaybeUninit, os::fd::AsFd, time::Duration};
use watched_tree::{WatchedTree, join};

/// How long the second name of a renamed file is awaited. The kernel reports both at once, but a read may end between them.
const PAIR: Duration = Duration::from_millis(20);

/// The size of the buffer for events. One event has at most 272 bytes.
const BUFFER: usize = 64 << 10;

/// Watches the directory of a request.
pub(crate) fn watch(resolver: &Resolver, request: &WatchRequest) -> Result<WatchResult, ToolError> {
    let path = request.path.as_bytes();
    let failed = |errno| ToolError::system("watch", path, errno);
    let seen = SeenChanges::new(tree::globs(&request.glob)?, limits::ENTRIES.of(request.max_events).max(1));
    let root = resolver.resolve("watch", path, LastLink::Follow)?.open_directory("watch", path)?;
    let deadline = Deadline::of(request.time_ms);
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|errno| match errno {
        Errno::MFILE => ToolError::at(
            ErrorCode::Limit,
            "watch",
            path,
            "the user of the sandbox has no inotify instance left — end other watches",
        ),
        errno => failed(errno),
    })?;
    let (tree, root) = WatchedTree::new(inotify.as_fd(), root, request.recursive, deadline).map_err(failed)?;
    let mut observer = Observer { tree, root, seen, moved: None, found: HashSet::new(), overflow: false };
    let ended = observer.observe(&inotify, deadline).map_err(failed)?;
    let (directories, unwatched) = observer.tree.counts();
    Ok(WatchResult { events: observer.seen.into_list(), directories, unwatched, overflow: observer.overflow, ended })
}

/// One event of the kernel.
struct KernelEvent {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<Vec<u8>>,
}

/// The number of files in directories that appeared whose creation the kernel may still report.
const MAX_FOUND: usize = 65_536;

/// A file that was moved away, whose new name may follow.
struct MovedFile {
    cookie: u32,
    path: Vec<u8>,
    directory: bool,
}

struct Observer<'i> {
    tree: WatchedTree<'i>,
    /// The watch of the directory of the request.
    root: i32,
    seen: SeenChanges,
    moved: Option<MovedFile>,
    /// Files that were found in a directory that appeared. The kernel may report their creation as well.
    found: HashSet<Vec<u8>>,
    overflow: bool,
}

impl Observer<'_> {
    /// Collects changes until an end.
    fn observe(&mut self, inotify: impl AsFd, deadline: Deadline) -> Result<WatchEnd, Errno> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(inotify.as_fd(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => KernelEvent {
                    watch: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| name.to_bytes().to_vec()),
                },
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    let left = deadline.left();
                    let wait = if self.moved.is_some() { left.min(PAIR) } else { left };
                    let is_quiet = !wait_for(inotify.as_fd(), wait)?;
                    if is_quiet && let Some(end) = self.flush() {
                        return Ok(end);
                    }
                    if is_quiet && deadline.is_over() {
                        return Ok(WatchEnd::Time);
                    }
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            if let Some(end) = self.handle(event) {
                return Ok(end);
            }
            // Events may arrive without a pause.
            if deadline.is_over() {
                return Ok(self.flush().unwrap_or(WatchEnd::Time));
            }
        }
    }

    fn handle(&mut self, event: KernelEvent) -> Option<WatchEnd> {
        let KernelEvent { watch, flags, cookie, name } = event;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflow = true;
            return self.flush();
        }
        if let Some(moved) = self.moved.take_if(|moved| flags.contains(ReadFlags::MOVED_TO) && moved.cookie == cookie)
            && let (Some(directory), Some(name)) = (self.tree.path(watch), &name)
        {
            let path = join(directory, name);
            if moved.directory {
                self.tree.renamed(&moved.path, &path);
            }
            return self.seen.add(ChangeKind::Renamed, &path, Some(&moved.path), moved.directory);
        }
        if let Some(end) = self.flush() {
            return Some(end);
        }
        if flags.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            if watch == self.root {
                return Some(WatchEnd::Removed);
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.tree.forget(watch);
            }
            return None;
        }
        // Without a name, the event is about the directory itself, which its parent reports as well.
        let path = join(self.tree.path(watch)?, &name?);
        let directory = flags.contains(ReadFlags::ISDIR);
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.found.remove(&path);
            if directory {
                self.found.retain(|found| !found.starts_with(&path) || found.get(path.len()) != Some(&b'/'));
            }
            self.moved = Some(MovedFile { cookie, path, directory });
            return None;
        }
        if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            return self.appeared(&path, directory);
        }
        let kind = if flags.contains(ReadFlags::DELETE) {
            self.found.remove(&path);
            ChangeKind::Removed
        } else if flags.contains(ReadFlags::MODIFY) {
            ChangeKind::Modified
        } else {
            ChangeKind::Attributes
        };
        self.seen.add(kind, &path, None, directory)
    }

    fn appeared(&mut self, path: &[u8], directory: bool) -> Option<WatchEnd> {
        if self.found.remove(path) {
            return None;
        }
        let mut end = self.seen.add(ChangeKind::Created, path, None, directory);
        if !directory || end.is_some() {
            return end;
        }
        let (seen, found) = (&mut self.seen, &mut self.found);
        self.tree.appeared(path, &mut |path, directory| {
            if end.is_none() {
                // Beyond the bound, a creation may be reported twice.
                if found.len() < MAX_FOUND {
                    found.insert(path.to_vec());
                }
                end = seen.add(ChangeKind::Created, path, None, directory);
            }
        });
        end
    }

    /// Reports a file that was moved away, and whose new name did not follow.
    fn flush(&mut self) -> Option<WatchEnd> {
        let moved = self.moved.take()?;
        if moved.directory {
            self.tree.disappeared(&moved.path);
        }
        self.seen.add(ChangeKind::Removed, &moved.path, None, moved.directory)
    }
}

/// Waits until events can be read. Returns false if the time is over.
fn wait_for(inotify: impl AsFd, time: Duration) -> Result<bool, Errno> {
    let timeout = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
    match poll(&mut [PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
