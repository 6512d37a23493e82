//! Compares two stacks of layers and lists the paths that differ.

use super::{
    attributes::read_metadata,
    open::{Tree, kind, read, unlock_directory, unlock_file},
    stack::{StackEntry, StackedDirectory},
};
use crate::error::StoreError;
use agentd_disk::FileContext as _;
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// The kind of change of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// The path was created.
    Added,
    /// The path existed and differs in type, content, owner, mode, time (not for a directory) or extended attributes.
    Changed,
    /// The path was removed, with everything below it.
    Removed,
}

/// A path that layers changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// The path, relative to the root. It may contain any bytes but 0, because a payload chose it.
    pub path: PathBuf,
    /// The kind of change.
    pub kind: ChangeKind,
}

/// Two stacks of trees, each lowest first, that share their lowest trees.
pub(crate) struct Stacks {
    /// The trees that both stacks share.
    pub(crate) common: Vec<Tree>,
    /// The trees above them in the old stack.
    pub(crate) old: Vec<Tree>,
    /// The trees above them in the new stack.
    pub(crate) new: Vec<Tree>,
}

/// Returns the changes from the old stack to the new one, sorted by path.
pub(crate) fn compare(stacks: Stacks) -> Result<Vec<Change>, StoreError> {
    let Stacks { common, old, new } = stacks;
    let (common_end, old_end, end) = (common.len(), common.len() + old.len(), common.len() + old.len() + new.len());
    let trees: Vec<_> = common.into_iter().chain(old).chain(new).collect();
    let mut compare = Compare { trees: &trees, common: common_end, waiting: Vec::new(), changes: Vec::new() };
    let old = (0..old_end).rev().collect();
    let new = (0..common_end).chain(old_end..end).rev().collect();
    compare.waiting.push(DirectoryToCompare { at: PathBuf::new(), old, new, whole: false });
    while let Some(waiting) = compare.waiting.pop() {
        let compared = compare.directory(&waiting);
        compared.during("compare", &waiting.at)?;
    }
    compare.changes.sort();
    Ok(compare.changes)
}

/// A directory of the new stack that is still to be compared, and the indexes of the trees that contribute to it in each stack.
struct DirectoryToCompare {
    at: PathBuf,
    old: Vec<usize>,
    new: Vec<usize>,
    /// True if the shared trees may be visible in only one of the stacks, so that their entries must also be compared.
    whole: bool,
}

struct Compare<'a> {
    trees: &'a [Tree],
    /// Number of trees that both stacks share.
    common: usize,
    waiting: Vec<DirectoryToCompare>,
    changes: Vec<Change>,
}

impl Compare<'_> {
    fn directory(&mut self, directory: &DirectoryToCompare) -> Result<(), Errno> {
        let DirectoryToCompare { at, whole, .. } = directory;
        let (old_parts, new_parts) =
            (StackedDirectory::enter(self.trees, at, &directory.old)?, StackedDirectory::enter(self.trees, at, &directory.new)?);
        let differing = |layer: usize| *whole || layer >= self.common;
        let mut names = old_parts.names(differing)?;
        names.extend(new_parts.names(differing)?);
        for name in names {
            let path = at.join(&name);
            let old = old_parts.lstat(&name)?.filter(|entry| !entry.is_whiteout());
            let new = new_parts.lstat(&name)?.filter(|entry| !entry.is_whiteout());
            let kind = match (&old, &new) {
                (None, None) => None,
                (Some(_), None) => Some(ChangeKind::Removed),
                (None, Some(_)) => Some(ChangeKind::Added),
                (Some(old), Some(new)) if old.layer == new.layer => None,
                (Some(old), Some(new)) => differs((&old_parts, old), (&new_parts, new), &name)?.then_some(ChangeKind::Changed),
            };
            self.changes.extend(kind.map(|kind| Change { path: path.clone(), kind }));
            if let Some(new) = new.filter(StackEntry::is_directory) {
                let whole = *whole || new.hides || old.as_ref().is_none_or(|old| old.hides || !old.is_directory());
                let old = old.map_or_else(Vec::new, |old| old.layers);
                if whole || old.iter().chain(&new.layers).any(|layer| *layer >= self.common) {
                    self.waiting.push(DirectoryToCompare { at: path, old, new: new.layers, whole });
                }
            }
        }
        Ok(())
    }
}

/// Returns true if two entries differ. Overlayfs also copies a file up that is only opened for writing, so a copy in another
/// layer does not prove a difference. Equal metadata does not prove equality either, because a payload can reset times.
fn differs(old: (&StackedDirectory, &StackEntry), new: (&StackedDirectory, &StackEntry), name: &OsStr) -> Result<bool, Errno> {
    let (Some(old_part), Some(new_part)) = (old.0.directory_of(old.1.layer), new.0.directory_of(new.1.layer)) else {
        return Ok(true);
    };
    let (old, new) = (&old.1.stat, &new.1.stat);
    let owner_and_mode = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    if owner_and_mode(old) != owner_and_mode(new) || extended(old_part, name, old)? != extended(new_part, name, new)? {
        return Ok(true);
    }
    let size_and_time = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_rdev);
    match kind(old) {
        // A directory is not reported as changed because its entries changed.
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

/// Reads the extended attributes of a file, without overlayfs's own.
fn extended(part: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let unlocked = match kind(stat) {
        FileType::Directory => unlock_directory(part, name)?,
        FileType::RegularFile => unlock_file(part, name)?,
        _ => None,
    };
    let mut metadata = read_metadata(part, name, stat)?;
    drop(unlocked);
    metadata.keep_own();
    Ok(metadata.extended)
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

/// Reads until the buffer is full or the file ends.
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
