//! Merges several layers into one. Above any other layers, overlayfs shows the same tree with the merged layer as with the
//! original ones. Files are linked, not copied.
//!
//! A whiteout is kept only where it may hide something below: in a directory that exists in one layer only, overlayfs would list
//! the whiteout as a file. A directory that hides its contents in the layers below becomes opaque.

use super::{
    attributes::{self, Metadata, read_metadata},
    copy::{apply_directory_metadata, copy_file},
    open::Tree,
    stack::StackedDirectory,
};
use crate::error::StoreError;
use agentd_disk::FileContext as _;
use rustix::{
    fs::{AtFlags, Mode, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

/// Merges `layers`, lowest first, into `to`, an empty tree.
pub(crate) fn merge(layers: &[Tree], to: &Tree) -> Result<(), StoreError> {
    let mut merge = Merge { layers, to, copied: HashMap::new(), waiting: Vec::new(), directories: Vec::new() };
    let Some(upper) = layers.last() else { return Ok(()) };
    let stat = rustix::fs::fstat(&upper.root).during("stat", &upper.path)?;
    // All layers contribute to the root: overlayfs ignores an opaque mark on a root.
    let root =
        DirectoryToMerge { at: PathBuf::new(), layers: (0..layers.len()).rev().collect(), stat, alone: false, opaque: false };
    merge.waiting.push(root);
    while let Some(waiting) = merge.waiting.pop() {
        merge.directory(&waiting).during("merge", to.path.join(&waiting.at))?;
    }
    for (at, metadata) in merge.directories.iter().rev() {
        apply_directory_metadata(to, at, metadata).during("set the metadata of", to.path.join(at))?;
    }
    Ok(())
}

/// A directory that was created and is not yet filled.
struct DirectoryToMerge {
    at: PathBuf,
    layers: Vec<usize>,
    /// The metadata of the directory in the highest of these layers.
    stat: Stat,
    /// True if nothing from below the merged layers is visible in the directory.
    alone: bool,
    /// True if the directory itself hides the layers below, rather than one of its ancestors.
    opaque: bool,
}

struct Merge<'a> {
    layers: &'a [Tree],
    to: &'a Tree,
    /// The paths of copies of files that could not be linked, by device and inode number of the source.
    copied: HashMap<(u64, u64), PathBuf>,
    waiting: Vec<DirectoryToMerge>,
    directories: Vec<(PathBuf, Metadata)>,
}

impl Merge<'_> {
    fn directory(&mut self, directory: &DirectoryToMerge) -> Result<(), Errno> {
        let DirectoryToMerge { at, layers, stat, alone, opaque } = directory;
        let parts = StackedDirectory::enter(self.layers, at, layers)?;
        let target = self.to.enter(at)?;
        if let Some(upper) = layers.first().and_then(|layer| parts.directory_of(*layer)) {
            self.directories.push((at.clone(), read_metadata(upper, OsStr::new("."), stat)?));
        }
        if *opaque {
            attributes::make_opaque(target.as_fd(), OsStr::new("."))?;
        }
        for name in parts.names(|_| true)? {
            let Some(entry) = parts.lstat(&name)? else { continue };
            let path = at.join(&name);
            if entry.is_directory() {
                rustix::fs::mkdirat(&target, &name, Mode::RWXU)?;
                let (hidden, opaque) = (*alone || entry.hides, entry.hides && !alone);
                self.waiting.push(DirectoryToMerge { at: path, layers: entry.layers, stat: entry.stat, alone: hidden, opaque });
            } else if !(entry.is_whiteout() && *alone)
                && let Some(source) = parts.directory_of(entry.layer)
            {
                self.link(source, target.as_fd(), &name, &path, &entry.stat)?;
            }
        }
        Ok(())
    }

    fn link(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let file = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.copied.get(&file)
            && let (Some(parent), Some(first)) = (first.parent(), first.file_name())
        {
            return rustix::fs::linkat(self.to.enter(parent)?, first, target, name, AtFlags::empty());
        }
        match rustix::fs::linkat(source, name, target, name, AtFlags::empty()) {
            // The file has the maximum number of links, which a payload can cause, or the layers are on different file systems.
            Err(Errno::MLINK | Errno::XDEV) => {
                copy_file(source, name, stat, target)?;
                self.copied.insert(file, path.to_owned());
                Ok(())
            }
            other => other,
        }
    }
}
