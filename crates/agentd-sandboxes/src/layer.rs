//! A layer's directory: `tree`, which holds the changes, and beside it `work`, which overlayfs needs of a top, on the same file system.
//! All that makes, moves or removes a layer is here, so that a layer can become a file system of its own.
//!
//! The tree is one level down because its root has the owner and mode that a payload gave it.

use crate::{
    error::{Doing as _, StateError},
    layer_id::LayerId,
    tree::{Dress, Tree, dress_like, dress_of, empty, look, names},
};
use agentd_disk::{Lock, Staging, flush_directory, make_folder};
use rustix::fs::{CWD, Mode};
use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

/// The tree of a layer.
pub(crate) fn tree(layer: &Path) -> PathBuf {
    layer.join("tree")
}

/// What overlayfs works in.
pub(crate) fn work(layer: &Path) -> PathBuf {
    layer.join("work")
}

/// A layer that is made and not yet among the others. It is in a staging directory, and goes with that.
pub(crate) struct Draft {
    pub(crate) id: LayerId,
    path: PathBuf,
}

impl Draft {
    /// Makes a layer in which nothing is changed.
    pub(crate) fn make(staging: &Staging) -> Result<Self, StateError> {
        let id = LayerId::draw().doing("name", staging.path())?;
        let path = staging.path().join(id.to_string());
        make_folder(&path)?;
        make_folder(&tree(&path))?;
        make_folder(&work(&path))?;
        // As a root is everywhere. A directory above keeps others out.
        fs::set_permissions(tree(&path), fs::Permissions::from_mode(0o755)).doing("open up", tree(&path))?;
        Ok(Self { id, path })
    }

    /// Makes a top for a stack whose highest tree is `below`: of the root of a stack, the highest layer says owner and mode.
    pub(crate) fn make_over(staging: &Staging, below: Option<&Path>) -> Result<Self, StateError> {
        let draft = Self::make(staging)?;
        if let Some(below) = below {
            let tree = tree(&draft.path);
            let directory = File::open(&tree).doing("open", &tree)?;
            dress_like(directory.as_fd(), OsStr::new("."), &dress_of_root(below)?).doing("dress", &tree)?;
        }
        Ok(draft)
    }

    /// The tree, to be filled.
    pub(crate) fn tree(&self) -> Result<Tree, StateError> {
        Tree::open(&self.tree_path())
    }

    pub(crate) fn tree_path(&self) -> PathBuf {
        tree(&self.path)
    }

    /// Moves the layer to the others, in `layers`. It is durable when that folder is flushed.
    pub(crate) fn adopt(self, layers: &Path, _lock: &Lock) -> Result<LayerId, StateError> {
        // For a power failure, what is in it comes before its name.
        flush_directory(&self.path)?;
        let place = layers.join(self.id.to_string());
        fs::rename(&self.path, &place).doing("rename to", &place)?;
        Ok(self.id)
    }
}

/// Moves a layer away, to be removed with `bin`.
pub(crate) fn retire(layer: &Path, bin: &Staging, _lock: &Lock) -> Result<(), StateError> {
    let name = layer.file_name().unwrap_or(OsStr::new("layer"));
    fs::rename(layer, bin.path().join(name)).doing("move away", layer)
}

/// Empties `work`, and makes it where it is not: after a crash overlayfs left in it a mark that it will not mount over.
pub(crate) fn fresh_work(layer: &Path) -> Result<(), StateError> {
    let work = work(layer);
    if !crate::record::exists(&work)? {
        make_folder(&work)?;
    }
    let directory: OwnedFd = File::open(&work).doing("open", &work)?.into();
    empty(&directory).doing("empty", work)
}

/// Whether a top changes nothing of the stack whose highest tree is `below`.
pub(crate) fn is_unchanged(layer: &Path, below: Option<&Path>) -> Result<bool, StateError> {
    let tree = tree(layer);
    let directory = File::open(&tree).doing("open", &tree)?;
    if !names(directory.as_fd()).doing("list", &tree)?.is_empty() {
        return Ok(false);
    }
    let Some(root) = look(directory.as_fd(), OsStr::new(".")).doing("look at", &tree)? else { return Ok(true) };
    let mine = (Mode::from_raw_mode(root.st_mode), root.st_uid, root.st_gid);
    let theirs = match below {
        Some(below) => {
            let stat = dress_of_root(below)?.stat;
            (Mode::from_raw_mode(stat.st_mode), stat.st_uid, stat.st_gid)
        }
        None => (Mode::from(0o755), rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    Ok(mine == theirs)
}

/// What the root of a tree wears, but for what overlayfs noted there for itself.
fn dress_of_root(tree: &Path) -> Result<Dress, StateError> {
    let dress = || {
        let folder = tree.parent().unwrap_or(tree);
        let folder = rustix::fs::openat(CWD, folder, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())?;
        let name = tree.file_name().unwrap_or(OsStr::new("."));
        let stat = look(folder.as_fd(), name)?.ok_or(rustix::io::Errno::NOENT)?;
        dress_of(folder.as_fd(), name, &stat)
    };
    let mut dress = dress().doing("look at", tree)?;
    dress.keep_own();
    Ok(dress)
}
