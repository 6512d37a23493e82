//! Lists one directory for the search, and determines later whether its entries are unchanged.

use super::{
    case, git,
    interrupt::Interrupt,
    read,
    subdirectory::{self, Match},
};
use rustix::{
    fs::{AtFlags, FileType, OFlags, RawDir, Stat, fstat, statat},
    io::Errno,
};
use std::{
    ffi::{CStr, OsStr},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Seconds within which two changes of a directory may have the same time stamp. The coarsest supported clocks are those of ext4
/// with small inodes (1 s).
const COARSEST_CLOCK: i64 = 2;

/// File systems that set the ctime of a directory at each change of its entries, and let no user set the ctime (`statfs(2)`).
const WITH_CTIME: [u32; 8] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
];

/// The identity of a directory and the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// The conditions under which a [`Stamp`] proves that the entries of a directory are unchanged.
pub(super) struct Stamps {
    /// The device whose file system has a ctime that proves this; `None` if there is no such device.
    device: Option<u64>,
    /// The time, in seconds, before the first directory is listed.
    now: i64,
}

impl Stamps {
    /// Examines the file system of an opened directory. `now` is the time in seconds.
    pub(super) fn of(root: impl AsFd, now: i64) -> Self {
        let kind = rustix::fs::fstatfs(&root).ok().and_then(|stat| u32::try_from(stat.f_type & 0xffff_ffff).ok());
        let device = kind.filter(|kind| WITH_CTIME.contains(kind)).and_then(|_| fstat(&root).ok()).map(|stat| stat.st_dev);
        Self { device, now }
    }

    /// Returns the stamp of a directory that is listed after `stat`; `None` if a later change could leave the stamp as it is.
    fn stamp(&self, stat: &Stat) -> Option<Stamp> {
        let is_old = self.now.saturating_sub(stat.st_ctime) > COARSEST_CLOCK;
        (is_old && self.device == Some(stat.st_dev)).then(|| stamp(stat))
    }
}

fn stamp(stat: &Stat) -> Stamp {
    let nanoseconds = i64::try_from(stat.st_ctime_nsec).unwrap_or(0);
    Stamp { device: stat.st_dev, inode: stat.st_ino, changed: (stat.st_ctime, nanoseconds) }
}

/// Returns whether the directory `path` below `root` still has this stamp.
pub(super) fn is_unchanged(root: impl AsFd, path: &Path, then: Stamp) -> bool {
    let stat = if path.as_os_str().is_empty() { fstat(root) } else { statat(root, path, AtFlags::SYMLINK_NOFOLLOW) };
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir() && stamp(&stat) == then)
}

/// The relevant entries of a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Whether git accepts the directory as a git directory.
    pub is_git: bool,
    /// Whether the directory has an entry `.git` that is not a directory.
    pub has_git_file: bool,
    /// The names of the subdirectories, each followed by a zero byte.
    pub directories: Vec<u8>,
    /// The names that are protected paths of the list, each followed by a zero byte.
    pub listed: Vec<u8>,
    /// Whether the directory has more names than were read.
    pub is_cut: bool,
    /// Whether the directory has more listed names than were recorded.
    pub is_listed_cut: bool,
    pub stamp: Option<Stamp>,
}

/// The numbers of names that a search may still read and record, shared by its threads.
pub(super) struct Budget<'a> {
    pub names: AtomicUsize,
    /// Listed names. `None` if the search finds only git directories.
    pub listed: Option<AtomicUsize>,
    pub interrupt: &'a Interrupt,
}

/// Lists the directory `path` below `root`.
///
/// # Errors
/// The error of opening or reading the directory; `EINTR` after an interrupt.
pub(super) fn list(
    root: impl AsFd,
    path: &Path,
    stamps: &Stamps,
    budget: &Budget<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> rustix::io::Result<Listing> {
    let place = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let opened = read::open(root, place, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut listing = Listing { stamp: stamps.stamp(&fstat(&opened)?), ..Listing::default() };
    let listed = budget.listed.as_ref().filter(|_| subdirectory::counts(path));
    let (mut seen, mut count) = (Seen { listed: listed.map(|left| (path, left)), ..Seen::default() }, 0);
    let mut entries = RawDir::new(&opened, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        count += 1;
        if budget.interrupt.is_due() {
            return Err(Errno::INTR);
        }
        seen.add(&opened, entry.file_name(), entry.file_type(), &mut listing);
        if count > budget.names.load(Ordering::Relaxed) {
            listing.is_cut = true;
            break;
        }
    }
    let spend = |left: usize| Some(left.saturating_sub(count));
    // `spend` always returns a value, so the update cannot fail.
    budget.names.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).ok();
    listing.is_git = seen.head && ((seen.objects && seen.refs) || seen.common);
    // The name `.git` may be among those that were not read.
    if seen.git || listing.is_cut {
        listing.listed.append(&mut seen.in_repository);
    } else if let Some(left) = listed {
        left.fetch_add(names(&seen.in_repository).count(), Ordering::Relaxed);
    }
    if listing.is_cut {
        // The names that were not read may be the relevant ones, so they are looked up.
        listing.stamp = None;
        listing.is_git |= git::is_git_directory_at(&opened);
        listing.has_git_file |=
            statat(&opened, ".git", AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_dir());
    }
    if listing.is_listed_cut {
        listing.stamp = None;
    }
    Ok(listing)
}

/// The names that show whether a directory is, or contains, a git directory.
const GIT_NAMES: [&str; 5] = ["HEAD", "objects", "refs", "commondir", ".git"];

/// The facts about a directory that follow from the entries read so far.
#[derive(Default)]
struct Seen<'a> {
    head: bool,
    objects: bool,
    refs: bool,
    common: bool,
    git: bool,
    /// If listed names count in this directory: its path below the root, and the number of listed names that may still be
    /// recorded. Otherwise `None`.
    listed: Option<(&'a Path, &'a AtomicUsize)>,
    /// Names that are listed if the directory is the root of a repository, each followed by a zero byte.
    in_repository: Vec<u8>,
}

impl Seen<'_> {
    fn add(&mut self, opened: impl AsFd, name: &CStr, kind: FileType, listing: &mut Listing) {
        let own = Path::new(OsStr::from_bytes(name.to_bytes()));
        if matches!(name.to_bytes(), b"." | b"..") {
            return;
        }
        let leads_there = |path: &Path| case::is_same(&opened, own, path);
        let key = case::key(name.to_bytes());
        if let Some(known) = GIT_NAMES.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(&key))
            && (own == Path::new(known) || leads_there(Path::new(known)))
        {
            match *known {
                "HEAD" => self.head = true,
                "objects" => self.objects = true,
                "refs" => self.refs = true,
                "commondir" => self.common = true,
                _ => {
                    self.git = true;
                    listing.has_git_file |= !kind.is_dir();
                }
            }
        }
        // Some file systems do not report the type here; opening the entry as a directory shows the type.
        if kind.is_dir() || kind == FileType::Unknown {
            listing.directories.extend_from_slice(name.to_bytes_with_nul());
        }
        if let Some((directory, left)) = self.listed
            && let Some(matched) = subdirectory::find(directory, name.to_bytes(), leads_there)
            && (matched != Match::IfLink || is_link(&opened, name, kind))
        {
            let spend = |left: usize| left.checked_sub(1);
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err() {
                listing.is_listed_cut = true;
                return;
            }
            let names = if matched == Match::IfRepository { &mut self.in_repository } else { &mut listing.listed };
            names.extend_from_slice(name.to_bytes_with_nul());
        }
    }
}

fn is_link(opened: impl AsFd, name: &CStr, kind: FileType) -> bool {
    match kind {
        FileType::Unknown => {
            statat(opened, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink())
        }
        kind => kind.is_symlink(),
    }
}

/// Returns names that are each followed by a zero byte.
pub(super) fn names(names: &[u8]) -> impl Iterator<Item = &OsStr> {
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(OsStr::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_of_a_directory_that_changed_recently_or_lies_elsewhere_is_none() {
        let root = tempfile::tempdir().unwrap();
        let stat = rustix::fs::stat(root.path()).unwrap();
        let stamp = |device, age| Stamps { device, now: stat.st_ctime + age }.stamp(&stat);
        let own = Some(stat.st_dev);
        assert!(stamp(own, COARSEST_CLOCK + 1).is_some());
        // A time stamp in the future could stay the same until the clock has reached it.
        for (device, age) in [(own, COARSEST_CLOCK), (own, 0), (own, -100), (None, 100), (Some(stat.st_dev + 1), 100)] {
            assert_eq!(stamp(device, age), None, "{device:?} {age}");
        }
    }

    #[test]
    fn stamps_of_a_file_system_without_reliable_ctime_are_none() {
        // `/proc` sets no ctime when a process begins or ends.
        let opened = read::open(rustix::fs::CWD, Path::new("/proc"), OFlags::PATH).unwrap();
        assert_eq!(Stamps::of(&opened, 0).device, None);
    }
}
