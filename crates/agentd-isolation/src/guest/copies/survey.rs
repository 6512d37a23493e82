//! What is in a copied directory, and what of it is not as it was.

use super::{
    error::{At, CopyError},
    tree::{self, Name},
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Stat},
    io::Errno,
    time::ClockId,
};
use std::{collections::BTreeMap, os::fd::OwnedFd, path::Path};

/// The most files, links and directories of one copy: each takes some hundred bytes of the guest's memory.
pub(super) const MOST_ENTRIES: u64 = 300_000;

/// By how much a file may have changed later than its time says: the kernel's clock for files goes in steps, and what is written twice within
/// one has the same time (`CONFIG_HZ`, 100 at least). Nanoseconds.
pub(super) const STEP: u64 = 10_000_000;

/// What is copied: a directory, or one file in it.
#[derive(Debug)]
pub(super) struct Root {
    pub directory: OwnedFd,
    pub only: Option<Name>,
}

/// What a copy can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
}

impl Kind {
    /// None of sockets, pipes and devices, which are not copied.
    pub fn of(stat: &Stat) -> Option<Self> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Some(Self::Directory),
            FileType::RegularFile => Some(Self::File),
            FileType::Symlink => Some(Self::Link),
            _ => None,
        }
    }
}

/// By which a thing is known again as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub kind: Kind,
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    inode: u64,
    /// When it was changed last, seconds and nanoseconds, where that is long enough ago to be told from another change.
    changed: Option<(i64, u64)>,
}

/// Everything in a copy, what is in a directory after that.
pub(super) type Survey = BTreeMap<Name, Stamp>;

/// Looks at everything. What its user may not list is as if it were empty.
pub(super) fn survey(root: &Root) -> Result<Survey, CopyError> {
    let settled = before_now();
    let mut found = Survey::new();
    let mut next: Vec<Option<Name>> = vec![None];
    if let Some(only) = &root.only {
        next.clear();
        let parent = tree::parent(&root.directory, only).at("open the directory of", only.path())?;
        if let Some(stamp) = tree::look(&parent, only)?.and_then(|stat| stamp(&stat, settled)) {
            found.insert(only.clone(), stamp);
        }
    }
    while let Some(at) = next.pop() {
        let path = at.as_ref().map_or(Path::new("."), Name::path);
        let directory = match tree::directory(&root.directory, path) {
            Ok(directory) => directory,
            // It is gone by now, or is not for this user.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) if at.is_some() => continue,
            Err(errno) => return Err(errno).at("open", path),
        };
        for entry in Dir::read_from(&directory).at("list", path)? {
            let entry = entry.at("list", path)?;
            let last = entry.file_name().to_bytes();
            if last == b"." || last == b".." {
                continue;
            }
            let name = Name::within(at.as_ref(), last)?;
            let stat = match rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::ACCESS) => continue,
                Err(errno) => return Err(errno).at("stat", name.path()),
            };
            let Some(stamp) = stamp(&stat, settled) else { continue };
            if found.len() as u64 >= MOST_ENTRIES {
                return Err(CopyError::TooMuch { what: "files", most: MOST_ENTRIES });
            }
            if stamp.kind == Kind::Directory {
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
    let kind = Kind::of(stat)?;
    let mode = stat.st_mode & 0o7777;
    if kind == Kind::Directory {
        // What else changes about it is what is in it.
        return Some(Stamp { kind, mode, size: 0, inode: 0, changed: Some((0, 0)) });
    }
    let changed = (stat.st_ctime, stat.st_ctime_nsec);
    let changed = Some(changed).filter(|changed| *changed < settled);
    Some(Stamp { kind, mode, size: u64::try_from(stat.st_size).unwrap_or(0), inode: stat.st_ino, changed })
}

/// Something to be told to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It is not there any more, or is something else now that cannot just replace it.
    Gone(Name),
    /// It is there.
    There(Name, Kind),
}

/// All that leads from `before` to `now`: first what is gone, the innermost first; then what is there, the outermost first.
pub(super) fn steps(before: &Survey, now: &Survey) -> Vec<Step> {
    let gone = |(name, was): &(&Name, &Stamp)| match now.get(*name) {
        None => true,
        Some(is) => (is.kind == Kind::Directory) != (was.kind == Kind::Directory),
    };
    let gone = before.iter().rev().filter(gone).map(|(name, _)| Step::Gone(name.clone()));
    let changed = |(name, is): &(&Name, &Stamp)| before.get(*name).is_none_or(|was| was.changed.is_none() || was != *is);
    let there = now.iter().filter(changed).map(|(name, is)| Step::There(name.clone(), is.kind));
    gone.chain(there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::{fs, os::unix::fs::symlink};

    fn root(path: &Path, only: Option<&str>) -> Root {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        Root { directory, only: only.map(|name| Name::parse(name.as_bytes()).unwrap()) }
    }

    fn texts(steps: &[Step]) -> Vec<String> {
        let text = |step: &Step| match step {
            Step::Gone(name) => format!("-{}", name.path().display()),
            Step::There(name, _) => format!("+{}", name.path().display()),
        };
        steps.iter().map(text).collect()
    }

    #[test]
    fn what_is_not_as_it_was_is_seen_and_nothing_else() {
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
        let before = survey(&root).unwrap();
        assert_eq!(steps(&before, &survey(&root).unwrap()), []);
        assert!(!before.contains_key(&Name::parse(b"pipe").unwrap()));
        // Of the same size, within the same step of the clock.
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
        let now = survey(&root).unwrap();
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
    fn what_was_written_a_moment_ago_may_have_been_written_again_since() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let name = Name::parse(b"file").unwrap();
        let now = |seconds| Survey::from([(name.clone(), stamp(&stat, (stat.st_ctime + seconds, 0)).unwrap())]);
        assert_eq!(texts(&steps(&now(0), &now(0))), ["+file"]);
        assert_eq!(texts(&steps(&now(1), &now(1))), [""; 0]);
    }

    #[test]
    fn of_one_file_nothing_else_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let found = survey(&root(dir.path(), Some("file"))).unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [Name::parse(b"file").unwrap()]);
    }
}
