//! A layer's directory: `tree`, which holds the changes, and beside it `work`, which overlayfs needs of a top, on the same file system.
//! All that makes, moves or removes a layer is here. One of a sandbox with a limit is made in the sandbox's volume, where it stays; what makes
//! it a layer is a link to it among the others.
//!
//! The tree is one level down because its root has the owner and mode that a payload gave it.

use crate::{
    error::{Doing as _, StateError},
    layer_id::LayerId,
    tree::{Dress, Tree, dress_like, dress_of, empty, look, names},
    volume_id::VolumeId,
};
use agentd_disk::{Lock, Staging, erase, flush_directory, make_folder};
use rustix::fs::{CWD, Mode};
use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{PermissionsExt, symlink},
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

/// Where the layers are in a volume.
pub(crate) const INSIDE: &str = "layers";

/// What the link to a layer in a volume leads to.
pub(crate) fn target(volume: VolumeId, layer: LayerId) -> PathBuf {
    PathBuf::from(format!("../volumes/{volume}/at/{INSIDE}/{layer}"))
}

/// A volume that is mounted, for layers to be made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) volume: VolumeId,
    /// Where they are in it.
    pub(crate) layers: PathBuf,
}

/// Makes the directory of a layer in which nothing is changed.
fn make_empty(path: &Path) -> Result<(), StateError> {
    make_folder(path)?;
    make_folder(&tree(path))?;
    make_folder(&work(path))?;
    // As a root is everywhere. A directory above keeps others out.
    fs::set_permissions(tree(path), fs::Permissions::from_mode(0o755)).doing("open up", tree(path))
}

/// A layer that is made and not yet among the others. It is in a staging directory, and goes with that, or in a volume, where its name
/// is pinned by that directory.
pub(crate) struct Draft {
    pub(crate) id: LayerId,
    path: PathBuf,
    home: Option<Home>,
    adopted: bool,
}

impl Draft {
    /// Makes a layer in which nothing is changed.
    pub(crate) fn make(staging: &Staging, home: Option<&Home>) -> Result<Self, StateError> {
        let draft = Self::named(staging, home)?;
        make_empty(&draft.path)?;
        Ok(draft)
    }

    /// Makes a top for a stack whose highest tree is `below`.
    pub(crate) fn make_over(staging: &Staging, home: Option<&Home>, below: Option<&Path>) -> Result<Self, StateError> {
        Self::make(staging, home)?.over(below)
    }

    /// One with a name, and nothing in its place yet.
    fn named(staging: &Staging, home: Option<&Home>) -> Result<Self, StateError> {
        let id = LayerId::draw().doing("name", staging.path())?;
        if home.is_some() {
            // Before it is there: who collects reads the pins after he has seen what is there.
            staging.pin_new(id)?;
        }
        let path = home.map_or(staging.path(), |home| &home.layers).join(id.to_string());
        Ok(Self { id, path, home: home.cloned(), adopted: false })
    }

    /// Of the root of a stack, the highest layer says owner and mode.
    fn over(self, below: Option<&Path>) -> Result<Self, StateError> {
        if let Some(below) = below {
            let tree = tree(&self.path);
            let directory = File::open(&tree).doing("open", &tree)?;
            dress_like(directory.as_fd(), OsStr::new("."), &dress_of_root(below)?).doing("dress", &tree)?;
        }
        Ok(self)
    }

    /// The tree, to be filled.
    pub(crate) fn tree(&self) -> Result<Tree, StateError> {
        Tree::open(&self.tree_path())
    }

    pub(crate) fn tree_path(&self) -> PathBuf {
        tree(&self.path)
    }

    /// Moves the layer to the others, in `layers`. It is durable when that folder is flushed.
    pub(crate) fn adopt(mut self, layers: &Path, _lock: &Lock) -> Result<LayerId, StateError> {
        // For a power failure, what is in it comes before its name.
        flush_directory(&self.path)?;
        let place = layers.join(self.id.to_string());
        match &self.home {
            None => fs::rename(&self.path, &place).doing("rename to", &place)?,
            Some(home) => {
                flush_directory(&home.layers)?;
                symlink(target(home.volume, self.id), &place).doing("link", &place)?;
            }
        }
        self.adopted = true;
        Ok(self.id)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let (Some(_), false) = (&self.home, self.adopted) {
            // What stays is collected.
            remove(&self.path).ok();
        }
    }
}

/// Removes the directory of what is no layer, or no longer one.
pub(crate) fn remove(path: &Path) -> Result<(), StateError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let folder = File::open(folder).doing("open", folder)?;
    erase(folder.as_fd(), name).doing("remove", path)
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
