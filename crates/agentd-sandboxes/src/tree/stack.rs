//! Layers on each other, seen as overlayfs shows them (`Documentation/filesystems/overlayfs.rst`): of a name the highest layer decides;
//! a whiteout hides it; directories of several layers are one, down to the first that is opaque or to what is no directory.

use super::{Entered, Tree, attributes, is_whiteout, kind, look, names};
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

/// The parts of one directory in several layers, the highest first; none where it is not.
pub(super) struct Parts(Vec<(usize, Entered)>);

/// What is called by a name in a directory of a stack.
pub(super) struct Entry {
    /// The layer that decides what it is.
    pub(super) layer: usize,
    /// What it is there.
    pub(super) stat: Stat,
    /// The layers that have a part in it, the highest first, if it is a directory.
    pub(super) layers: Vec<usize>,
    /// Whether it hides what may be below the stack.
    pub(super) hides: bool,
}

impl Entry {
    pub(super) fn is_whiteout(&self) -> bool {
        is_whiteout(&self.stat)
    }

    pub(super) fn is_directory(&self) -> bool {
        kind(&self.stat) == FileType::Directory
    }
}

impl Parts {
    /// Opens the directory `at` in those of `trees` that have a part in it.
    pub(super) fn enter(trees: &[Tree], at: &Path, layers: &[usize]) -> Result<Self, Errno> {
        let enter = |layer: &usize| Ok((*layer, trees[*layer].enter(at)?));
        layers.iter().map(enter).collect::<Result<_, _>>().map(Self)
    }

    /// The part that lies in `layer`.
    pub(super) fn of(&self, layer: usize) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(of, _)| *of == layer).map(|(_, entered)| entered.as_fd())
    }

    /// Every name that one of the parts in these layers has, whiteouts too.
    pub(super) fn names(&self, of: impl Fn(usize) -> bool) -> Result<BTreeSet<OsString>, Errno> {
        let mut all = BTreeSet::new();
        for (_, entered) in self.0.iter().filter(|(layer, _)| of(*layer)) {
            all.extend(names(entered.as_fd())?);
        }
        Ok(all)
    }

    /// What `name` is here. A whiteout is an entry: it says something to what is below the stack.
    pub(super) fn look(&self, name: &OsStr) -> Result<Option<Entry>, Errno> {
        let mut found: Option<Entry> = None;
        for (layer, entered) in &self.0 {
            let Some(stat) = look(entered.as_fd(), name)? else { continue };
            let is_directory = kind(&stat) == FileType::Directory;
            let entry = found.get_or_insert_with(|| Entry { layer: *layer, stat, layers: Vec::new(), hides: false });
            if is_directory {
                entry.layers.push(*layer);
            }
            if !is_directory || opaque(entered, name)? {
                entry.hides = true;
                break;
            }
        }
        Ok(found)
    }
}

/// Whether the directory `name` is opaque. One that its owner may not read is, for the while, unlocked by who enters it, not here: an
/// attribute of `user.*` can be read only where the file can.
fn opaque(entered: &Entered, name: &OsStr) -> Result<bool, Errno> {
    match attributes::is_opaque(entered.as_fd(), name) {
        Err(Errno::ACCESS) => {
            let unlocked = super::unlock_directory(entered.as_fd(), name)?;
            let opaque = attributes::is_opaque(entered.as_fd(), name);
            drop(unlocked);
            opaque
        }
        other => other,
    }
}
