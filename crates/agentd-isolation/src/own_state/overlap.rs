//! Detects whether two trees overlap: by name, by object, and by position in a file system. A bind mount can show a folder, or a
//! part of it, under another name.

use super::mounts::{DevicePath, Mounts};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Device and inode number, which identify an object while it exists.
type Object = (u64, u64);

/// A folder that no grant may show, as it is now.
pub(super) struct FolderTree {
    /// The path of the folder, without symbolic links in its existing part.
    path: PathBuf,
    /// The folder, if it exists.
    object: Option<Object>,
    /// The existing directories that contain the folder, and the folder.
    above: Vec<Object>,
    place: Option<DevicePath>,
}

impl FolderTree {
    /// Determines where the folder `path` is.
    pub fn at(path: &Path, mounts: &Mounts) -> Self {
        let path = real(path);
        let place = mounts.place(&path);
        Self { object: object(&path).ok(), above: objects_above(&path), place, path }
    }

    pub fn exists(&self) -> bool {
        self.object.is_some()
    }
}

/// A granted tree, and everything that it shows.
pub(super) struct GrantedTree {
    /// The path of the tree, without symbolic links.
    path: PathBuf,
    object: Object,
    /// The directories that contain the tree, and the tree.
    above: Vec<Object>,
    /// The objects mounted in the tree, which a grant of the tree shows too.
    mounted: Vec<Object>,
    /// The positions that the tree shows: its own, and those of the mounts in it.
    places: Vec<DevicePath>,
}

impl GrantedTree {
    /// Determines the objects that a grant of the path `grant` shows.
    ///
    /// # Errors
    /// Fails if the path cannot be read.
    pub fn at(grant: &Path, mounts: &Mounts) -> io::Result<Self> {
        let path = grant.canonicalize()?;
        let object = object(&path)?;
        // A mount point that cannot be accessed, such as another user's FUSE mount, is compared by position only.
        let mounted = mounts.points_below(&path).filter_map(|point| self::object(point).ok()).collect();
        let places = mounts.place(&path).into_iter().chain(mounts.places_below(&path)).collect();
        Ok(Self { object, above: objects_above(&path), mounted, places, path })
    }

    /// Returns whether the tree equals `folder` or lies in it.
    pub fn lies_in(&self, folder: &FolderTree) -> bool {
        let same = folder.object.is_some_and(|folder| self.above.contains(&folder));
        let place = folder.place.as_ref().filter(|_| folder.exists());
        let bound = place.is_some_and(|folder| self.places.first().is_some_and(|place| place.lies_in(folder)));
        self.path.starts_with(&folder.path) || same || bound
    }

    /// Returns whether the tree contains `folder` or a part of it. For a missing folder, returns whether it could be created in
    /// the tree.
    pub fn contains(&self, folder: &FolderTree) -> bool {
        let by_object = folder.above.iter().any(|above| *above == self.object || self.mounted.contains(above));
        let place = folder.place.as_ref();
        let by_place = place.is_some_and(|folder| self.places.iter().any(|place| place.lies_in(folder) || folder.lies_in(place)));
        folder.path.starts_with(&self.path) || by_object || by_place
    }
}

fn object(path: &Path) -> io::Result<Object> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn objects_above(path: &Path) -> Vec<Object> {
    path.ancestors().filter_map(|above| object(above).ok()).collect()
}

/// Resolves the symbolic links in the existing part of `path`.
fn real(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    for above in path.ancestors() {
        if let Ok(real) = above.canonicalize() {
            return rest.iter().rev().fold(real, |real, name| real.join(name));
        }
        if let Some(Component::Normal(name)) = above.components().next_back() {
            rest.push(name);
        }
    }
    path.to_path_buf()
}
