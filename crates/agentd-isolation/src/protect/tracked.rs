//! Detects stale protected files that git tracks. Git in a sandbox cannot write such a file: after `git switch`, the index has
//! the new version and the worktree the old one. The next `git commit -a` would silently revert the change.

use super::{
    gaps::{Cause, Gaps},
    git::{self, Repository},
    interrupt::Interrupt,
    links::Links,
    read,
};
use rustix::{
    fs::{CWD, FileType, OFlags, fstat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// The maximum size of an index that is read, in bytes: enough for some hundred thousand files.
const MAX_INDEX: u64 = 32 << 20;

/// The index of a worktree, kept open. Git replaces the index with a new file, so the open file keeps the old content.
#[derive(Debug)]
pub(super) struct Index {
    repository: Repository,
    /// `None` if there was no index.
    file: rustix::io::Result<Option<File>>,
}

impl Index {
    /// Opens the index of the worktree at `root`, if a repository is there.
    pub(super) fn build(root: &Path, interrupt: &Interrupt) -> Option<Self> {
        let repository = Repository::open(root, &mut Links::new(interrupt))?;
        let file = open(&repository);
        Some(Self { repository, file })
    }

    /// Returns the files among `paths` of which git has checked out another version since the last call, but could not write. The
    /// next call compares with the current index. An index that cannot be read is added to `gaps`.
    pub(super) fn stale(&mut self, paths: &[PathBuf], gaps: &mut Gaps) -> Vec<PathBuf> {
        let mut now = open(&self.repository);
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        let (stale, is_complete) = match (&mut self.file, &mut now) {
            (Ok(Some(before)), Ok(Some(now))) if identity(before) == identity(now) => return Vec::new(),
            (Ok(Some(before)), Ok(Some(now))) => compare(before, now, &self.repository, paths),
            (before, now) => (Vec::new(), before.is_ok() && now.is_ok()),
        };
        // If there is no index now, the next one is compared with the last one.
        if !matches!((&self.file, &now), (Ok(Some(_)), Ok(None) | Err(_))) {
            self.file = now;
        }
        if !is_complete {
            gaps.add(&path(&self.repository), Cause::UnreadableIndex);
        }
        stale
    }
}

fn path(repository: &Repository) -> PathBuf {
    repository.own.join("index")
}

/// Opens the index, if there is one.
fn open(repository: &Repository) -> rustix::io::Result<Option<File>> {
    match read::open(CWD, &path(repository), OFlags::RDONLY) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => {
            let file = opened?;
            // Git would follow a link, or wait for a FIFO.
            if FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() { Ok(Some(file.into())) } else { Err(Errno::LOOP) }
        }
    }
}

/// Returns the stale files, and whether both indexes could be read in full.
fn compare(before: &mut File, now: &mut File, repository: &Repository, paths: &[PathBuf]) -> (Vec<PathBuf>, bool) {
    let (Some(before), Some(now)) = (content(before), content(now)) else { return (Vec::new(), false) };
    let root = &repository.worktree;
    let below = Prefixes::build(paths.iter().filter_map(|path| path.strip_prefix(root).ok()));
    let wanted = |name: &[u8]| below.cover(name);
    let bytes = repository.object_bytes();
    let (before, now) = (git::index_entries(&before, bytes, wanted), git::index_entries(&now, bytes, wanted));
    let mut stale = Vec::new();
    for (name, entry) in &now.by_name {
        let path = root.join(OsStr::from_bytes(name));
        let (Some(old), Ok(meta)) = (before.by_name.get(name), path.symlink_metadata()) else { continue };
        // The index stores the low 32 bits of time and size.
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        if entry.is_stale(old, low(meta.mtime().cast_unsigned()), low(meta.size())) {
            stale.push(path);
        }
    }
    (stale, before.is_complete && now.is_complete)
}

/// A set of relative paths that answers whether a name equals one of them or lies in one. An index has up to 500,000 names and
/// the set up to 8,192 paths. Each query is a binary search: hashing all ancestors of a name would take longer for deep names.
struct Prefixes(Vec<Vec<u8>>);

impl Prefixes {
    fn build<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let mut all: Vec<Vec<u8>> = paths.map(|path| key(path.as_os_str().as_bytes())).collect();
        all.sort();
        // No path in the set lies in another. So only the last path that is not greater than a name can cover that name.
        all.dedup_by(|next, kept| covers(kept, next));
        Self(all)
    }

    fn cover(&self, name: &[u8]) -> bool {
        let name = key(name);
        let greater = self.0.partition_point(|path| *path <= name);
        greater.checked_sub(1).is_some_and(|last| covers(&self.0[last], &name))
    }
}

/// Replaces each separator in `name` with a byte that occurs in no component and sorts before all other bytes.
fn key(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
}

/// Returns whether the path with the key `name` equals the path with the key `path` or lies in it.
fn covers(path: &[u8], name: &[u8]) -> bool {
    path.is_empty() || name.strip_prefix(path).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0))
}

fn content(file: &mut File) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(MAX_INDEX + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= MAX_INDEX).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prefixes_cover_exactly_the_paths_below_one_of_them(
            paths in prop::collection::vec("[a0-]{1,2}(/[a0-]{1,2}){0,2}", 0..6),
            name in "[a0-]{1,2}(/[a0-]{1,2}){0,3}",
            below in prop::bool::ANY,
        ) {
            let name = match paths.first() {
                Some(first) if below => format!("{first}/{name}"),
                _ => name,
            };
            let expected = paths.iter().any(|path| Path::new(&name).starts_with(path));
            prop_assert_eq!(Prefixes::build(paths.iter().map(Path::new)).cover(name.as_bytes()), expected);
        }
    }
}
