//! Makes one layer of several: what overlayfs shows of the one over any others is what it shows of the many. Files are linked, not
//! copied.
//!
//! A whiteout is kept where something below may be hidden by it, and nowhere else: in a directory that is of one layer only, overlayfs
//! lists a whiteout as a file. A directory below which something of the run was hidden becomes opaque.

use super::{
    Dress, Tree, attributes,
    attributes::dress_of,
    copy::{copy_file, dress_directory},
    stack::Parts,
};
use crate::error::{Doing as _, StateError};
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

/// Merges `layers`, the lowest first, into `to`, an empty tree.
pub(crate) fn merge(layers: &[Tree], to: &Tree) -> Result<(), StateError> {
    let mut merge = Merge { layers, to, copied: HashMap::new(), waiting: Vec::new(), made: Vec::new() };
    let Some(top) = layers.last() else { return Ok(()) };
    let stat = rustix::fs::fstat(&top.root).doing("look at", &top.path)?;
    // All layers have a part in the root: overlayfs does not ask whether one is opaque.
    let root = Waiting { at: PathBuf::new(), layers: (0..layers.len()).rev().collect(), stat, alone: false, opaque: false };
    merge.waiting.push(root);
    while let Some(waiting) = merge.waiting.pop() {
        merge.directory(&waiting).doing("merge", to.path.join(&waiting.at))?;
    }
    for (at, dress) in merge.made.iter().rev() {
        dress_directory(to, at, dress).doing("dress", to.path.join(at))?;
    }
    Ok(())
}

/// A directory that is made and not yet filled.
struct Waiting {
    at: PathBuf,
    layers: Vec<usize>,
    /// What it is in the highest of these.
    stat: Stat,
    /// Nothing from below the run is seen in it.
    alone: bool,
    /// It is itself what hides that.
    opaque: bool,
}

struct Merge<'a> {
    layers: &'a [Tree],
    to: &'a Tree,
    /// Where files that could not be linked have been copied to.
    copied: HashMap<(u64, u64), PathBuf>,
    waiting: Vec<Waiting>,
    made: Vec<(PathBuf, Dress)>,
}

impl Merge<'_> {
    fn directory(&mut self, directory: &Waiting) -> Result<(), Errno> {
        let Waiting { at, layers, stat, alone, opaque } = directory;
        let parts = Parts::enter(self.layers, at, layers)?;
        let target = self.to.enter(at)?;
        if let Some(top) = layers.first().and_then(|layer| parts.of(*layer)) {
            self.made.push((at.clone(), dress_of(top, OsStr::new("."), stat)?));
        }
        if *opaque {
            attributes::make_opaque(target.as_fd(), OsStr::new("."))?;
        }
        for name in parts.names(|_| true)? {
            let Some(entry) = parts.look(&name)? else { continue };
            let path = at.join(&name);
            if entry.is_directory() {
                rustix::fs::mkdirat(&target, &name, Mode::RWXU)?;
                let (hidden, opaque) = (*alone || entry.hides, entry.hides && !alone);
                self.waiting.push(Waiting { at: path, layers: entry.layers, stat: entry.stat, alone: hidden, opaque });
            } else if !(entry.is_whiteout() && *alone)
                && let Some(source) = parts.of(entry.layer)
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
            // It has as many names as a file may have (a payload can see to that), or the layers are not on one file system.
            Err(Errno::MLINK | Errno::XDEV) => {
                copy_file(source, name, stat, target)?;
                self.copied.insert(file, path.to_owned());
                Ok(())
            }
            other => other,
        }
    }
}
