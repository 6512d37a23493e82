//! What layers change of those below them.

use super::{
    Tree,
    attributes::dress_of,
    kind, read,
    stack::{Entry, Parts},
};
use crate::error::{Doing as _, StateError};
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It was not there.
    Added,
    /// It was there and is another: of another type, content, owner, mode, time (a directory's does not count) or extended attribute.
    Changed,
    /// It is no longer there, with all that was below it.
    Removed,
}

/// One path that layers changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// Where, relative to the root; any bytes but 0, as a payload made them.
    pub path: PathBuf,
    /// What became of it.
    pub kind: Kind,
}

/// Two stacks of trees, each the lowest first, that have their lowest trees in common.
pub(crate) struct Stacks {
    /// What both have.
    pub(crate) common: Vec<Tree>,
    /// What is over it in the old stack.
    pub(crate) old: Vec<Tree>,
    /// What is over it in the new stack.
    pub(crate) new: Vec<Tree>,
}

/// What the new stack shows that the old one does not show so; sorted by path.
pub(crate) fn compare(stacks: Stacks) -> Result<Vec<Change>, StateError> {
    let Stacks { common, old, new } = stacks;
    let (common_end, old_end, end) = (common.len(), common.len() + old.len(), common.len() + old.len() + new.len());
    let trees: Vec<_> = common.into_iter().chain(old).chain(new).collect();
    let mut compare = Compare { trees: &trees, common: common_end, waiting: Vec::new(), changes: Vec::new() };
    let old = (0..old_end).rev().collect();
    let new = (0..common_end).chain(old_end..end).rev().collect();
    compare.waiting.push(Waiting { at: PathBuf::new(), old, new, whole: false });
    while let Some(waiting) = compare.waiting.pop() {
        let compared = compare.directory(&waiting);
        compared.doing("compare", &waiting.at)?;
    }
    compare.changes.sort();
    Ok(compare.changes)
}

/// A directory of the new stack, and the trees that have a part in it in each.
struct Waiting {
    at: PathBuf,
    old: Vec<usize>,
    new: Vec<usize>,
    /// Whether what both have in common may be seen in one of them only, so that all of it is looked at.
    whole: bool,
}

struct Compare<'a> {
    trees: &'a [Tree],
    /// How many of these both stacks have.
    common: usize,
    waiting: Vec<Waiting>,
    changes: Vec<Change>,
}

impl Compare<'_> {
    fn directory(&mut self, directory: &Waiting) -> Result<(), Errno> {
        let Waiting { at, whole, .. } = directory;
        let (old_parts, new_parts) =
            (Parts::enter(self.trees, at, &directory.old)?, Parts::enter(self.trees, at, &directory.new)?);
        let differing = |layer: usize| *whole || layer >= self.common;
        let mut names = old_parts.names(differing)?;
        names.extend(new_parts.names(differing)?);
        for name in names {
            let path = at.join(&name);
            let old = old_parts.look(&name)?.filter(|entry| !entry.is_whiteout());
            let new = new_parts.look(&name)?.filter(|entry| !entry.is_whiteout());
            let kind = match (&old, &new) {
                (None, None) => None,
                (Some(_), None) => Some(Kind::Removed),
                (None, Some(_)) => Some(Kind::Added),
                (Some(old), Some(new)) if old.layer == new.layer => None,
                (Some(old), Some(new)) => differs((&old_parts, old), (&new_parts, new), &name)?.then_some(Kind::Changed),
            };
            self.changes.extend(kind.map(|kind| Change { path: path.clone(), kind }));
            if let Some(new) = new.filter(Entry::is_directory) {
                let whole = *whole || new.hides || old.as_ref().is_none_or(|old| old.hides || !old.is_directory());
                let old = old.map_or_else(Vec::new, |old| old.layers);
                if whole || old.iter().chain(&new.layers).any(|layer| *layer >= self.common) {
                    self.waiting.push(Waiting { at: path, old, new: new.layers, whole });
                }
            }
        }
        Ok(())
    }
}

/// Whether two entries are not the same. Overlayfs copies a file up also when it is only opened to be written, so what both say of
/// themselves is not enough to differ; nor is it enough to be the same, since a payload can set back times.
fn differs(old: (&Parts, &Entry), new: (&Parts, &Entry), name: &OsStr) -> Result<bool, Errno> {
    let (Some(old_part), Some(new_part)) = (old.0.of(old.1.layer), new.0.of(new.1.layer)) else { return Ok(true) };
    let (old, new) = (&old.1.stat, &new.1.stat);
    let owner_and_mode = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    if owner_and_mode(old) != owner_and_mode(new) || extended(old_part, name, old)? != extended(new_part, name, new)? {
        return Ok(true);
    }
    let size_and_time = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_rdev);
    match kind(old) {
        // The directory of a changed file is not itself changed.
        FileType::Directory => Ok(false),
        _ if size_and_time(old) != size_and_time(new) => Ok(true),
        FileType::RegularFile => match (read(old_part, name)?, read(new_part, name)?) {
            (Some(old), Some(new)) => Ok(!same_data(&old.fd, &new.fd)?),
            _ => Ok(true),
        },
        FileType::Symlink => {
            let target = |part| rustix::fs::readlinkat(part, name, Vec::new());
            Ok(target(old_part)? != target(new_part)?)
        }
        _ => Ok(false),
    }
}

/// The extended attributes of a file but for those that overlayfs keeps for itself.
fn extended(part: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let unlocked = match kind(stat) {
        FileType::Directory => super::unlock_directory(part, name)?,
        FileType::RegularFile => super::unlock_file(part, name)?,
        _ => None,
    };
    let mut dress = dress_of(part, name, stat)?;
    drop(unlocked);
    dress.keep_own();
    Ok(dress.extended)
}

fn same_data(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    loop {
        let (read, also) = (fill(one, &mut left, at)?, fill(other, &mut right, at)?);
        if left[..read] != right[..also] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
        at += read as u64;
    }
}

/// Reads as much as fits, or as there is.
fn fill(file: &OwnedFd, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}
