//! The directory of a layer: `tree` contains the changes, and `work`, on the same file system, is the overlayfs workdir of an
//! upper layer. All code that creates, moves or removes a layer is in this module. The layer of a sandbox with a disk limit is
//! created in the sandbox's volume and stays there; a symbolic link in `layers` makes it a layer.
//!
//! The tree is one level down because its root has the owner and mode that a payload set.

use crate::{
    error::StoreError,
    layer_id::LayerId,
    tree::{Metadata, Tree, apply_metadata, empty, lstat, names, read_metadata},
    volume_id::VolumeId,
};
use agentd_disk::{FileContext as _, Lock, Staging, erase, flush_directory, make_folder};
use agentd_log::LogFailure as _;
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

/// Returns the tree of a layer, the upperdir of overlayfs.
pub(crate) fn upperdir(layer: &Path) -> PathBuf {
    layer.join("tree")
}

/// Returns the workdir of overlayfs.
pub(crate) fn workdir(layer: &Path) -> PathBuf {
    layer.join("work")
}

/// The directory of the layers in a volume.
pub(crate) const INSIDE: &str = "layers";

/// Returns the target of the symbolic link to a layer in a volume.
pub(crate) fn target(volume: VolumeId, layer: LayerId) -> PathBuf {
    PathBuf::from(format!("../volumes/{volume}/at/{INSIDE}/{layer}"))
}

/// A mounted volume in which layers can be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeDir {
    pub(crate) volume: VolumeId,
    /// The directory of the layers in this volume.
    pub(crate) layers: PathBuf,
}

/// Creates the directory of a layer without changes.
fn make_empty(path: &Path) -> Result<(), StoreError> {
    make_folder(path)?;
    make_folder(&upperdir(path))?;
    make_folder(&workdir(path))?;
    // The usual mode of a root directory. A directory above denies access to other users.
    Ok(fs::set_permissions(upperdir(path), fs::Permissions::from_mode(0o755)).during("chmod", upperdir(path))?)
}

/// A new layer that is not yet in `layers`. Without a volume it is in a staging directory, and is removed with that directory. In
/// a volume, its name is pinned by that staging directory.
pub(crate) struct Draft {
    pub(crate) id: LayerId,
    path: PathBuf,
    volume_dir: Option<VolumeDir>,
    adopted: bool,
}

impl Draft {
    /// Creates a layer without changes.
    pub(crate) fn make(staging: &Staging, volume_dir: Option<&VolumeDir>) -> Result<Self, StoreError> {
        let draft = Self::with_new_id(staging, volume_dir)?;
        make_empty(&draft.path)?;
        Ok(draft)
    }

    /// Creates an upper layer for a stack whose highest tree is `below`.
    pub(crate) fn make_over(staging: &Staging, volume_dir: Option<&VolumeDir>, below: Option<&Path>) -> Result<Self, StoreError> {
        Self::make(staging, volume_dir)?.over(below)
    }

    /// Chooses a random id for a layer, and pins it if the layer is in a volume. Creates no directory.
    fn with_new_id(staging: &Staging, volume_dir: Option<&VolumeDir>) -> Result<Self, StoreError> {
        let id = LayerId::random().during("choose a random layer id in", staging.path())?;
        if volume_dir.is_some() {
            // The pin precedes the directory, because the collector lists the directories before it reads the pins.
            staging.pin_new(id)?;
        }
        let path = volume_dir.map_or(staging.path(), |volume_dir| &volume_dir.layers).join(id.to_string());
        Ok(Self { id, path, volume_dir: volume_dir.cloned(), adopted: false })
    }

    /// Copies the metadata of the root from `below`: overlayfs shows the root of the highest layer.
    fn over(self, below: Option<&Path>) -> Result<Self, StoreError> {
        if let Some(below) = below {
            let tree = upperdir(&self.path);
            let directory = File::open(&tree).during("open", &tree)?;
            apply_metadata(directory.as_fd(), OsStr::new("."), &root_metadata(below)?).during("set the metadata of", &tree)?;
        }
        Ok(self)
    }

    /// Opens the tree of the layer, to be filled.
    pub(crate) fn tree(&self) -> Result<Tree, StoreError> {
        Tree::open(&self.tree_path())
    }

    pub(crate) fn tree_path(&self) -> PathBuf {
        upperdir(&self.path)
    }

    /// Moves the layer into `layers`, or links it there. The caller flushes `layers` to make that durable.
    pub(crate) fn adopt(mut self, layers: &Path, _lock: &Lock) -> Result<LayerId, StoreError> {
        // The contents of the layer must be durable before its name is.
        flush_directory(&self.path)?;
        let place = layers.join(self.id.to_string());
        match &self.volume_dir {
            None => fs::rename(&self.path, &place).during("rename to", &place)?,
            Some(volume_dir) => {
                flush_directory(&volume_dir.layers)?;
                symlink(target(volume_dir.volume, self.id), &place).during("link", &place)?;
            }
        }
        self.adopted = true;
        Ok(self.id)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let (Some(_), false) = (&self.volume_dir, self.adopted) {
            // If the removal fails, the collector tries again.
            remove(&self.path).or_warn("remove unfinished layer", &self.path);
        }
    }
}

/// Removes a directory that is not, or no longer, a layer.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let folder = File::open(folder).during("open", folder)?;
    Ok(erase(folder.as_fd(), name).during("remove", path)?)
}

/// Moves a layer into `bin`, to be removed with it.
pub(crate) fn retire(layer: &Path, bin: &Staging, _lock: &Lock) -> Result<(), StoreError> {
    let name = layer.file_name().unwrap_or(OsStr::new("layer"));
    Ok(fs::rename(layer, bin.path().join(name)).during("move to staging", layer)?)
}

/// Empties the workdir, and creates it if it does not exist. After a crash, it contains a marker that makes overlayfs refuse the
/// mount.
pub(crate) fn reset_workdir(layer: &Path) -> Result<(), StoreError> {
    let work = workdir(layer);
    if !crate::record::exists(&work)? {
        make_folder(&work)?;
    }
    let directory: OwnedFd = File::open(&work).during("open", &work)?.into();
    Ok(empty(&directory).during("empty", work)?)
}

/// Returns true if an upper layer changes nothing of the stack whose highest tree is `below`.
pub(crate) fn is_unchanged(layer: &Path, below: Option<&Path>) -> Result<bool, StoreError> {
    let tree = upperdir(layer);
    let directory = File::open(&tree).during("open", &tree)?;
    if !names(directory.as_fd()).during("list", &tree)?.is_empty() {
        return Ok(false);
    }
    let Some(root) = lstat(directory.as_fd(), OsStr::new(".")).during("stat", &tree)? else { return Ok(true) };
    let mine = (Mode::from_raw_mode(root.st_mode), root.st_uid, root.st_gid);
    let theirs = match below {
        Some(below) => {
            let stat = root_metadata(below)?.stat;
            (Mode::from_raw_mode(stat.st_mode), stat.st_uid, stat.st_gid)
        }
        None => (Mode::from(0o755), rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    Ok(mine == theirs)
}

/// Reads the metadata of the root of a tree, without overlayfs's own attributes.
fn root_metadata(tree: &Path) -> Result<Metadata, StoreError> {
    let metadata = || {
        let folder = tree.parent().unwrap_or(tree);
        let folder = rustix::fs::openat(CWD, folder, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())?;
        let name = tree.file_name().unwrap_or(OsStr::new("."));
        let stat = lstat(folder.as_fd(), name)?.ok_or(rustix::io::Errno::NOENT)?;
        read_metadata(folder.as_fd(), name, &stat)
    };
    let mut metadata = metadata().during("stat", tree)?;
    metadata.keep_own();
    Ok(metadata)
}
