//! Scans a copied directory, and compares two scans.

use super::{
    error::{CopyError, ErrnoContext},
    tree::{self, RelativeName},
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Stat},
    io::Errno,
    time::ClockId,
};
use std::{collections::BTreeMap, os::fd::OwnedFd, path::Path};

/// The maximum number of files, links and directories in one copy. Each takes a few hundred bytes of the guest's memory.
pub(super) const MAX_ENTRIES: u64 = 300_000;

/// The resolution of file times, in nanoseconds. The kernel's clock for files advances in steps (`CONFIG_HZ`, at least 100), so
/// two writes within one step get the same time.
pub(super) const STEP: u64 = 10_000_000;

/// The object that is copied: a directory, or one file in it.
#[derive(Debug)]
pub(super) struct SyncRoot {
    pub directory: OwnedFd,
    pub only: Option<RelativeName>,
}

/// The kinds of files that a copy can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Directory,
    File,
    Link,
}

impl FileKind {
    /// Returns `None` for sockets, pipes and devices, which are not copied.
    pub fn from_stat(stat: &Stat) -> Option<Self> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Some(Self::Directory),
            FileType::RegularFile => Some(Self::File),
            FileType::Symlink => Some(Self::Link),
            _ => None,
        }
    }
}

/// The properties by which a change of a file is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub kind: FileKind,
    pub mode: u32,
    /// Size of a file in bytes.
    pub size: u64,
    inode: u64,
    /// The time of the last change (ctime), in seconds and nanoseconds. `None` if too recent to be distinguished from a later
    /// change.
    changed: Option<(i64, u64)>,
}

/// Everything in a copy. The order puts a directory before its content.
pub(super) type Scan = BTreeMap<RelativeName, Stamp>;

/// Scans everything. A directory that the user may not list is treated as empty.
pub(super) fn scan(root: &SyncRoot) -> Result<Scan, CopyError> {
    let settled = before_now();
    let mut found = Scan::new();
    let mut next: Vec<Option<RelativeName>> = vec![None];
    if let Some(only) = &root.only {
        next.clear();
        let parent = tree::parent(&root.directory, only).during("open the parent directory of", only.path())?;
        if let Some(stamp) = tree::lstat(&parent, only)?.and_then(|stat| stamp(&stat, settled)) {
            found.insert(only.clone(), stamp);
        }
    }
    while let Some(at) = next.pop() {
        let path = at.as_ref().map_or(Path::new("."), RelativeName::path);
        let directory = match tree::directory(&root.directory, path) {
            Ok(directory) => directory,
            // The directory has been removed, or this user may not access it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) if at.is_some() => continue,
            Err(errno) => return Err(errno).during("open", path),
        };
        for entry in Dir::read_from(&directory).during("list", path)? {
            let entry = entry.during("list", path)?;
            let last = entry.file_name().to_bytes();
            if last == b"." || last == b".." {
                continue;
            }
            let name = RelativeName::within(at.as_ref(), last)?;
            let stat = match rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::ACCESS) => continue,
                Err(errno) => return Err(errno).during("stat", name.path()),
            };
            let Some(stamp) = stamp(&stat, settled) else { continue };
            if found.len() as u64 >= MAX_ENTRIES {
                return Err(CopyError::TooMuch { what: "files", max: MAX_ENTRIES });
            }
            if stamp.kind == FileKind::Directory {
                next.push(Some(name.clone()));
            }
            found.insert(name, stamp);
        }
    }
    Ok(found)
}

fn before_now() -> (i64, u64) {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let (seconds, nanoseconds) = (now.tv_sec, u64::try_from(now.tv_nsec).unwrap_or(0));
    if nanoseconds >= STEP { (seconds, nanoseconds - STEP) } else { (seconds - 1, nanoseconds + 1_000_000_000 - STEP) }
}

fn stamp(stat: &Stat, settled: (i64, u64)) -> Option<Stamp> {
    let kind = FileKind::from_stat(stat)?;
    let mode = stat.st_mode & 0o7777;
    if kind == FileKind::Directory {
        // Other changes of a directory are changes of its entries.
        return Some(Stamp { kind, mode, size: 0, inode: 0, changed: Some((0, 0)) });
    }
    let changed = (stat.st_ctime, stat.st_ctime_nsec);
    let changed = Some(changed).filter(|changed| *changed < settled);
    Some(Stamp { kind, mode, size: u64::try_from(stat.st_size).unwrap_or(0), inode: stat.st_ino, changed })
}

/// A change to send to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SyncStep {
    /// The path no longer exists, or has changed between directory and another kind and must be removed first.
    Gone(RelativeName),
    /// The path exists, and is new or changed.
    There(RelativeName, FileKind),
}

/// Returns the steps from `before` to `now`: first the removed paths, innermost first; then the new and changed ones, outermost
/// first.
pub(super) fn steps(before: &Scan, now: &Scan) -> Vec<SyncStep> {
    let gone = |(name, was): &(&RelativeName, &Stamp)| match now.get(*name) {
        None => true,
        Some(is) => (is.kind == FileKind::Directory) != (was.kind == FileKind::Directory),
    };
    let gone = before.iter().rev().filter(gone).map(|(name, _)| SyncStep::Gone(name.clone()));
    let changed = |(name, is): &(&RelativeName, &Stamp)| before.get(*name).is_none_or(|was| was.changed.is_none() || was != *is);
    let there = now.iter().filter(changed).map(|(name, is)| SyncStep::There(name.clone(), is.kind));
    gone.chain(there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::{fs, os::unix::fs::symlink};

    fn root(path: &Path, only: Option<&str>) -> SyncRoot {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        SyncRoot { directory, only: only.map(|name| RelativeName::parse(name.as_bytes()).unwrap()) }
    }

    fn texts(steps: &[SyncStep]) -> Vec<String> {
        let text = |step: &SyncStep| match step {
            SyncStep::Gone(name) => format!("-{}", name.path().display()),
            SyncStep::There(name, _) => format!("+{}", name.path().display()),
        };
        steps.iter().map(text).collect()
    }

    #[test]
    fn steps_contain_exactly_the_changes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::create_dir_all(at("becomes-file/x")).unwrap();
        for name in ["same", "d/written", "d/e/removed", "becomes-dir", "mode"] {
            fs::write(at(name), "1").unwrap();
        }
        symlink("same", at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let root = root(dir.path(), None);
        std::thread::sleep(std::time::Duration::from_nanos(2 * STEP));
        let before = scan(&root).unwrap();
        assert_eq!(steps(&before, &scan(&root).unwrap()), []);
        assert!(!before.contains_key(&RelativeName::parse(b"pipe").unwrap()));
        // The content changes, but not the size, and within the same step of the clock.
        fs::write(at("d/written"), "2").unwrap();
        fs::remove_dir_all(at("d/e")).unwrap();
        fs::remove_dir_all(at("becomes-file")).unwrap();
        fs::write(at("becomes-file"), "").unwrap();
        fs::remove_file(at("becomes-dir")).unwrap();
        fs::create_dir(at("becomes-dir")).unwrap();
        fs::write(at("becomes-dir/new"), "").unwrap();
        let mut mode = fs::metadata(at("mode")).unwrap().permissions();
        mode.set_readonly(true);
        fs::set_permissions(at("mode"), mode).unwrap();
        let now = scan(&root).unwrap();
        let wanted = [
            "-d/e/removed",
            "-d/e",
            "-becomes-file/x",
            "-becomes-file",
            "-becomes-dir",
            "+becomes-dir",
            "+becomes-dir/new",
            "+becomes-file",
            "+d/written",
            "+mode",
        ];
        assert_eq!(texts(&steps(&before, &now)), wanted);
    }

    #[test]
    fn recently_written_file_counts_as_changed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let name = RelativeName::parse(b"file").unwrap();
        let now = |seconds| Scan::from([(name.clone(), stamp(&stat, (stat.st_ctime + seconds, 0)).unwrap())]);
        assert_eq!(texts(&steps(&now(0), &now(0))), ["+file"]);
        assert_eq!(texts(&steps(&now(1), &now(1))), [""; 0]);
    }

    #[test]
    fn scan_of_single_file_ignores_siblings() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let found = scan(&root(dir.path(), Some("file"))).unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [RelativeName::parse(b"file").unwrap()]);
    }
}
