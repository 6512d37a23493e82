//! The state of a path: the identity of its object, and the time of its last change.

use super::{
    gaps::{Cause, Gaps},
    interrupt::Interrupt,
    read,
};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, OFlags, Statx, StatxFlags, StatxTimestamp, fstat, fstatfs, major, minor, statx},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The maximum total length of all compared paths, in bytes. Further entries are not compared.
const MAX_PATH_BYTES: usize = 32 << 20;

/// The maximum number of bytes that one observation reads for digests. If a file exceeds it, the observation is incomplete.
const MAX_DIGESTED: u64 = 64 << 20;

/// The time for which the kernel may leave a page dirty: 30 s of `dirty_expire_centisecs`, 5 s of `dirty_writeback_centisecs`,
/// and time for a slow disk. Until a dirty page is written back, a write to it through a shared mapping changes no time stamp.
const WRITE_BACK_TIME: Duration = Duration::from_secs(120);

/// File systems that set the ctime at the first write to a clean page of a shared mapping, and let no user set the ctime
/// (`statfs(2)`). On all others, the content of a file may change without a new time stamp: tmpfs sets none, and a server of NFS,
/// 9p or FUSE may report any.
const WITH_CTIME_OF_MAPPINGS: [u32; 3] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
];

/// Two changes within this time may have the same time stamp: the kernel's file clock ticks every 1 to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// The type of the object at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// The object at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub kind: Kind,
    /// Device, inode and creation time. The creation time is needed because inode numbers are reused immediately; it is 0 if the
    /// file system does not record it.
    pub identity: (u32, u32, u64, (i64, u32)),
    mode: u16,
    size: u64,
    /// The times of the last change of content and of the inode. `None` for a directory, whose entries are compared one by one.
    times: Option<[(i64, u32); 2]>,
    content: Content,
    /// True if the entries of the directory were also added.
    is_complete: bool,
    /// Why the path is compared.
    pub origin: EntryOrigin,
}

/// The property by which a change of a file's content is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The time stamp: each change sets a new one, or the object has no content.
    TimeStamp,
    /// The SHA-256 digest: the time stamp alone could not reveal a later change.
    Digest([u8; 32]),
    /// Nothing: the digest is needed and missing, for this reason.
    Unknown(Cause),
}

/// The result of a comparison of two states of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Same,
    Different,
    /// The attributes are equal, and the content was not compared.
    Unknown(Cause),
}

/// The reason why a path is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EntryOrigin {
    /// Only a link or a setting leads to the path.
    pub led_to: bool,
    /// The path is a listed name in a subdirectory of a grant, or lies in one.
    pub in_subdirectory: bool,
    /// A link named `.git` leads to the path: of a git directory, only hooks and settings are compared.
    pub by_dot_git: bool,
}

/// The states of paths, and of the entries of directories among them.
#[derive(Debug, Default)]
pub(super) struct States {
    pub seen: BTreeMap<PathBuf, Seen>,
    /// The links among the paths, in the order in which they were added.
    pub links: Vec<PathBuf>,
    /// The first path that was not compared because of a limit.
    pub gaps: Gaps,
    /// The origin of the paths that are added next.
    pub origin: EntryOrigin,
    /// The number of states at which no more entries of protected directories are added.
    max: usize,
    /// The length of all paths, in bytes.
    path_bytes: usize,
    /// The number of bytes read for digests so far.
    digested: u64,
    interrupt: Interrupt,
    /// For each device, whether its file system is one of [`WITH_CTIME_OF_MAPPINGS`].
    devices: HashMap<(u32, u32), bool>,
}

impl States {
    pub(super) fn with_limit(max: usize, interrupt: &Interrupt) -> Self {
        Self { max, interrupt: interrupt.clone(), ..Self::default() }
    }

    /// Adds a path, and everything below it if `deep` is set.
    pub(super) fn add(&mut self, path: &Path, deep: bool, now: SystemTime) {
        // The depth is the payload's choice, so the directories wait here and not in a recursion. One is open at a time.
        let mut waiting: Vec<PathBuf> = self.add_one(path, deep, now).then(|| path.to_path_buf()).into_iter().collect();
        while let Some(directory) = waiting.pop() {
            if let Err(errno) = self.add_entries(&directory, now, &mut waiting)
                && !read::is_absent(errno)
            {
                self.gaps.add(&directory, Cause::Unreadable);
            }
        }
    }

    /// Adds a path without the paths below it. Returns whether the path is a directory whose entries must still be added.
    fn add_one(&mut self, path: &Path, deep: bool, now: SystemTime) -> bool {
        if let Some(seen) = self.seen.get_mut(path) {
            return deep && seen.kind == Kind::Directory && !std::mem::replace(&mut seen.is_complete, true);
        }
        if self.interrupt.is_due() {
            self.gaps.add(path, Cause::Interrupted);
            return false;
        }
        let stat = match observed(path) {
            Ok(stat) => stat,
            Err(errno) if read::is_absent(errno) => return false,
            Err(errno) => {
                // The kernel refuses a look-up in the directory above.
                let place = path.parent().filter(|_| errno == Errno::ACCESS).unwrap_or(path);
                self.gaps.add(place, Cause::Unreadable);
                return false;
            }
        };
        let content = self.content(path, &stat, now);
        if let Content::Unknown(cause) = content {
            self.gaps.add(path, cause);
            if cause == Cause::Interrupted {
                return false;
            }
        }
        let seen = Seen { content, is_complete: deep, origin: self.origin, ..Seen::of(&stat) };
        self.path_bytes = self.path_bytes.saturating_add(path.as_os_str().len());
        if seen.kind == Kind::Link {
            self.links.push(path.to_path_buf());
        }
        let is_directory = seen.kind == Kind::Directory;
        self.seen.insert(path.to_path_buf(), seen);
        is_directory && deep
    }

    /// Determines how a later change of the content is recognised, and computes a digest if necessary.
    fn content(&mut self, path: &Path, stat: &Statx, now: SystemTime) -> Content {
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()).is_file();
        if !is_file || (!is_recent(&stat.stx_ctime, now) && self.has_ctime_of_mappings(path, stat)) {
            return Content::TimeStamp;
        }
        self.digested = self.digested.saturating_add(stat.stx_size);
        if self.digested > MAX_DIGESTED {
            return Content::Unknown(Cause::TooManyBytes);
        }
        match read::digest(path, stat.stx_size, &self.interrupt) {
            Ok(digest) => Content::Digest(digest),
            Err(Errno::INTR) => Content::Unknown(Cause::Interrupted),
            // The path leads through a link, and is compared where the link leads to.
            Err(errno) if read::is_absent(errno) => Content::TimeStamp,
            Err(_) => Content::Unknown(Cause::UnreadableFile),
        }
    }

    fn has_ctime_of_mappings(&mut self, path: &Path, stat: &Statx) -> bool {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        if let Some(known) = self.devices.get(&device) {
            return *known;
        }
        let Ok(opened) = read::open(CWD, path, OFlags::PATH) else { return false };
        let (Ok(meta), Ok(system)) = (fstat(&opened), fstatfs(&opened)) else { return false };
        let is_known = u32::try_from(system.f_type & 0xffff_ffff).is_ok_and(|kind| WITH_CTIME_OF_MAPPINGS.contains(&kind));
        if (major(meta.st_dev), minor(meta.st_dev)) == device {
            self.devices.insert(device, is_known);
        }
        is_known
    }

    /// Adds a path like [`States::add`], but not beyond the limit of entries.
    pub(super) fn add_within_limit(&mut self, path: &Path, deep: bool, now: SystemTime) {
        if self.is_full() && !self.seen.contains_key(path) {
            self.gaps.add(path, Cause::TooManyEntries);
        } else {
            self.add(path, deep, now);
        }
    }

    fn is_full(&self) -> bool {
        self.seen.len() >= self.max || self.path_bytes >= MAX_PATH_BYTES
    }

    /// Adds the entries of a directory; those that are directories themselves are appended to `waiting`.
    fn add_entries(&mut self, directory: &Path, now: SystemTime, waiting: &mut Vec<PathBuf>) -> rustix::io::Result<()> {
        let opened = read::open(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::new(opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if self.interrupt.is_due() {
                self.gaps.add(directory, Cause::Interrupted);
                waiting.clear();
                break;
            }
            if self.is_full() {
                self.gaps.add(directory, Cause::TooManyEntries);
                waiting.clear();
                break;
            }
            let path = directory.join(OsStr::from_bytes(name));
            if self.add_one(&path, true, now) {
                waiting.push(path);
            }
        }
        Ok(())
    }
}

/// Returns the attributes of the object at `path`. A symbolic link is not followed.
fn observed(path: &Path) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(CWD, path, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Returns whether a later change could leave this time stamp of the last change as it is.
fn is_recent(changed: &StatxTimestamp, now: SystemTime) -> bool {
    let seconds = Duration::from_secs(u64::try_from(changed.tv_sec).unwrap_or(0));
    let changed = UNIX_EPOCH + seconds + Duration::from_nanos(changed.tv_nsec.into());
    // A time stamp in the future counts as recent: it could stay the same until the clock has reached it.
    now.duration_since(changed).map_or(true, |age| age < WRITE_BACK_TIME)
}

/// Returns whether the object at `path` was changed after `then`, or so shortly before that its time stamp does not show the
/// order.
pub(super) fn changed_since(path: &Path, then: SystemTime) -> bool {
    let changed = path.symlink_metadata().ok().and_then(|meta| {
        let seconds = u64::try_from(meta.ctime()).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(meta.ctime_nsec().unsigned_abs()))
    });
    changed.is_some_and(|changed| changed + TICK >= then)
}

/// Returns the SHA-256 digest of a regular file that is at most [`read::MAX_FILE_BYTES`] bytes long.
pub(super) fn digest(path: &Path) -> Option<[u8; 32]> {
    Some(Sha256::digest(read::absolute(path)?).into())
}

impl Seen {
    fn of(stat: &Statx) -> Self {
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        let is_directory = kind == Kind::Directory;
        Self {
            kind,
            identity: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            mode: stat.stx_mode,
            size: if is_directory { 0 } else { stat.stx_size },
            times: (!is_directory).then(|| [&stat.stx_mtime, &stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec))),
            content: Content::TimeStamp,
            is_complete: false,
            origin: EntryOrigin::default(),
        }
    }

    /// Compares the object with its state `before`.
    pub(super) fn compare(&self, before: &Self, path: &Path, interrupt: &Interrupt) -> Comparison {
        let stat = |seen: &Self| (seen.kind, seen.identity, seen.mode, seen.size, seen.times);
        if stat(self) != stat(before) {
            return Comparison::Different;
        }
        let now = match (before.content, self.content) {
            (Content::TimeStamp, _) => return Comparison::Same,
            (Content::Unknown(cause), _) | (Content::Digest(_), Content::Unknown(cause)) => return Comparison::Unknown(cause),
            (Content::Digest(_), Content::Digest(now)) => Some(now),
            (Content::Digest(_), Content::TimeStamp) => match read::digest(path, self.size, interrupt) {
                Err(Errno::INTR) => return Comparison::Unknown(Cause::Interrupted),
                digest => digest.ok(),
            },
        };
        if now.map(Content::Digest) == Some(before.content) { Comparison::Same } else { Comparison::Different }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
