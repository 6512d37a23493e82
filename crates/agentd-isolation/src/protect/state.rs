//! The state of a path: the identity of its object, and the time of its last change.

use super::{
    gaps::{Cause, Gaps},
    read,
};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, OFlags, StatxFlags, StatxTimestamp, statx},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The maximum total length of all compared paths, in bytes. Further entries are not compared.
const MAX_PATH_BYTES: usize = 32 << 20;

/// The maximum number of bytes of recently changed files that one observation reads for digests. If a file exceeds it, the
/// observation is incomplete.
const MAX_DIGESTED: u64 = 8 << 20;

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
    /// The SHA-256 digest of the content, computed if the time stamp alone could not reveal a later change.
    digest: Option<[u8; 32]>,
    /// Why the path is compared.
    pub origin: EntryOrigin,
}

/// The reason why a path is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EntryOrigin {
    /// Only a link or a setting leads to the path.
    pub led_to: bool,
    /// The path is a listed name in a subdirectory of a grant, or lies in one.
    pub in_subdirectory: bool,
}

/// The states of paths, and of the entries of directories among them.
#[derive(Debug, Default)]
pub(super) struct States {
    pub seen: BTreeMap<PathBuf, Seen>,
    /// The first path that was not compared because of a limit.
    pub gaps: Gaps,
    /// The origin of the paths that are added next.
    pub origin: EntryOrigin,
    /// The number of states from which on no more entries of protected directories are added.
    most: usize,
    /// The length of all paths, in bytes.
    path_bytes: usize,
    /// The number of bytes read for digests so far.
    digested: u64,
}

impl States {
    pub(super) fn with_limit(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Adds a path, and everything below it if `deep` is set.
    pub(super) fn add(&mut self, path: &Path, deep: bool, now: SystemTime) {
        // A path that was added before is complete: paths without their entries are added last.
        if self.seen.contains_key(path) {
            return;
        }
        let (mut seen, is_recent) = match observed(path, now) {
            Ok(observed) => observed,
            Err(Errno::NAMETOOLONG) => return self.gaps.add(path, Cause::Unreadable),
            Err(_) => return,
        };
        if is_recent && seen.kind == Kind::File && seen.size <= read::MOST {
            self.digested = self.digested.saturating_add(seen.size);
            if self.digested > MAX_DIGESTED {
                self.gaps.add(path, Cause::TooManyBytes);
            } else {
                seen.digest = digest(path);
            }
        }
        seen.origin = self.origin;
        self.path_bytes = self.path_bytes.saturating_add(path.as_os_str().len());
        let is_directory = seen.kind == Kind::Directory;
        self.seen.insert(path.to_path_buf(), seen);
        if is_directory && deep {
            self.add_entries(path, now);
        }
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
        self.seen.len() >= self.most || self.path_bytes >= MAX_PATH_BYTES
    }

    fn add_entries(&mut self, directory: &Path, now: SystemTime) {
        let Ok(opened) = read::open(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY) else { return };
        let Ok(entries) = Dir::new(opened) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if self.is_full() {
                self.gaps.add(directory, Cause::TooManyEntries);
                return;
            }
            self.add(&directory.join(OsStr::from_bytes(name)), true, now);
        }
    }
}

/// Returns the state of the object at `path`, without a digest, and whether it changed so recently that a later change could have
/// the same time stamp. A symbolic link is not followed.
fn observed(path: &Path, now: SystemTime) -> rustix::io::Result<(Seen, bool)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, path, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    let is_directory = kind == Kind::Directory;
    let recent = |time: &StatxTimestamp| {
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
        let changed = UNIX_EPOCH + seconds + Duration::from_nanos(time.tv_nsec.into());
        // A time stamp in the future counts as recent: it could stay the same until the clock has reached it.
        now.duration_since(changed).map_or(true, |age| age < TICK)
    };
    let seen = Seen {
        kind,
        identity: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        mode: stat.stx_mode,
        size: if is_directory { 0 } else { stat.stx_size },
        times: (!is_directory).then(|| [&stat.stx_mtime, &stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec))),
        digest: None,
        origin: EntryOrigin::default(),
    };
    Ok((seen, recent(&stat.stx_ctime)))
}

/// Returns whether the object at `path` was changed after `then`, or so shortly before that its time stamp cannot tell.
pub(super) fn changed_since(path: &Path, then: SystemTime) -> bool {
    let changed = path.symlink_metadata().ok().and_then(|meta| {
        let seconds = u64::try_from(meta.ctime()).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(meta.ctime_nsec().unsigned_abs()))
    });
    changed.is_some_and(|changed| changed + TICK >= then)
}

/// Returns the SHA-256 digest of a regular file that is at most [`read::MOST`] bytes long.
pub(super) fn digest(path: &Path) -> Option<[u8; 32]> {
    Some(Sha256::digest(read::absolute(path)?).into())
}

impl Seen {
    /// Returns whether the object equals `before` and is unchanged. Without a digest in `before`, the attributes alone decide.
    pub(super) fn is_same(&self, before: &Self, path: &Path) -> bool {
        let stat = |seen: &Self| (seen.kind, seen.identity, seen.mode, seen.size, seen.times);
        if stat(self) != stat(before) {
            return false;
        }
        match before.digest {
            Some(digest) => self.digest.or_else(|| self::digest(path)) == Some(digest),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_recently_changed_files_have_a_bound_in_total() {
        let root = tempfile::tempdir().unwrap();
        let files = MAX_DIGESTED / read::MOST;
        for (number, complete) in [(files, true), (files + 1, false)] {
            for name in 0..number {
                std::fs::File::create(root.path().join(name.to_string())).unwrap().set_len(read::MOST).unwrap();
            }
            let mut states = States::with_limit(1 << 16);
            // For a clock that is behind, every file was changed recently.
            states.add(root.path(), true, UNIX_EPOCH);
            assert_eq!(states.gaps.is_empty(), complete, "{number} files");
        }
    }
}
