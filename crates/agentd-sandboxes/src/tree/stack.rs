//! A stack of layers, seen as overlayfs shows it (`Documentation/filesystems/overlayfs.rst`). The highest layer that contains a
//! name determines the entry, and a whiteout hides it. The directories of several layers are merged, down to the first that is
//! opaque or to an entry that is not a directory.

use super::{
    attributes,
    open::{OpenDirectory, Tree, is_whiteout, kind, unlock_directory},
};
use agentd_disk::{lstat, names};
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

/// One directory, opened in each layer that contributes to it, highest first.
pub(super) struct StackedDirectory(Vec<(usize, OpenDirectory)>);

/// The entry of a name in a directory of a stack.
pub(super) struct StackEntry {
    /// The highest layer that contains the name.
    pub(super) layer: usize,
    /// The metadata of the entry in that layer.
    pub(super) stat: Stat,
    /// The layers that contribute to the entry if it is a directory, highest first.
    pub(super) layers: Vec<usize>,
    /// True if the entry hides the layers below the stack.
    pub(super) hides: bool,
}

impl StackEntry {
    pub(super) fn is_whiteout(&self) -> bool {
        is_whiteout(&self.stat)
    }

    pub(super) fn is_directory(&self) -> bool {
        kind(&self.stat) == FileType::Directory
    }
}

impl StackedDirectory {
    /// Opens the directory `at` in those of `trees` whose indexes are in `layers`.
    pub(super) fn enter(trees: &[Tree], at: &Path, layers: &[usize]) -> Result<Self, Errno> {
        let enter = |layer: &usize| Ok((*layer, trees[*layer].enter(at)?));
        layers.iter().map(enter).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the directory in `layer`.
    pub(super) fn directory_of(&self, layer: usize) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(of, _)| *of == layer).map(|(_, entered)| entered.as_fd())
    }

    /// Returns all names in the layers that `of` selects, including whiteouts.
    pub(super) fn names(&self, of: impl Fn(usize) -> bool) -> Result<BTreeSet<OsString>, Errno> {
        let mut all = BTreeSet::new();
        for (_, entered) in self.0.iter().filter(|(layer, _)| of(*layer)) {
            all.extend(names(entered.as_fd())?);
        }
        Ok(all)
    }

    /// Returns the entry of `name`. A whiteout is also an entry, because it affects the layers below the stack.
    pub(super) fn lstat(&self, name: &OsStr) -> Result<Option<StackEntry>, Errno> {
        let mut found: Option<StackEntry> = None;
        for (layer, entered) in &self.0 {
            let Some(stat) = lstat(entered.as_fd(), name)? else { continue };
            let is_directory = kind(&stat) == FileType::Directory;
            let entry = found.get_or_insert_with(|| StackEntry { layer: *layer, stat, layers: Vec::new(), hides: false });
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

/// Returns true if the directory `name` is opaque. If its owner may not read the directory, the mode is changed for the call: a
/// `user.*` attribute is readable only if the file is.
fn opaque(entered: &OpenDirectory, name: &OsStr) -> Result<bool, Errno> {
    match attributes::is_opaque(entered.as_fd(), name) {
        Err(Errno::ACCESS) => {
            let unlocked = unlock_directory(entered.as_fd(), name)?;
            let opaque = attributes::is_opaque(entered.as_fd(), name);
            drop(unlocked);
            opaque
        }
        other => other,
    }
}
