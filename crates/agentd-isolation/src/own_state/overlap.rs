//! Detects whether two trees overlap: by name, by object, and by position in a file system. A bind mount can show a folder, or a
//! part of it, under another name.

use super::mounts::{DevicePath, Mounts};
use std::{
    collections::HashMap,
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
    pub fn at(path: &Path, mounts: &Mounts, objects: &mut Objects) -> Self {
        let path = objects.real(path);
        let place = mounts.place(&path);
        Self { object: objects.get(&path), above: objects.above(&path), place, path }
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
    /// The objects mounted in the tree, which a grant of the tree also shows.
    mounted: Vec<Object>,
    /// The positions that the tree shows: its own, and those of the mounts in it.
    places: Vec<DevicePath>,
}

impl GrantedTree {
    /// Determines the objects that a grant of the path `grant` shows.
    ///
    /// # Errors
    /// Fails if the path cannot be read.
    pub fn at(grant: &Path, mounts: &Mounts, objects: &mut Objects) -> io::Result<Self> {
        let path = objects.real(grant);
        let object = object(&path)?;
        // A mount point that cannot be accessed, such as another user's FUSE mount, is compared by position only.
        let mounted = mounts.points_below(&path).filter_map(|point| self::object(point).ok()).collect();
        let places = mounts.place(&path).into_iter().chain(mounts.places_below(&path)).collect();
        Ok(Self { object, above: objects.above(&path), mounted, places, path })
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

/// The objects at the paths that one comparison needs. Each path is looked up once: the folders of agentd and the grants have
/// most of their parent directories in common.
#[derive(Default)]
pub(super) struct Objects(HashMap<PathBuf, Option<Entry>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    object: Object,
    is_link: bool,
}

impl Objects {
    fn entry(&mut self, path: &Path) -> Option<Entry> {
        if let Some(known) = self.0.get(path) {
            return *known;
        }
        let entry = fs::symlink_metadata(path).ok();
        let entry = entry.map(|meta| Entry { object: (meta.dev(), meta.ino()), is_link: meta.is_symlink() });
        self.0.insert(path.to_path_buf(), entry);
        entry
    }

    /// Returns the object at `path`, if there is one.
    fn get(&mut self, path: &Path) -> Option<Object> {
        self.entry(path).map(|entry| entry.object)
    }

    /// Returns the objects of the existing directories that contain `path`, and the object at `path`.
    fn above(&mut self, path: &Path) -> Vec<Object> {
        path.ancestors().filter_map(|above| self.get(above)).collect()
    }

    /// Resolves the symbolic links in the existing part of `path`.
    fn real(&mut self, path: &Path) -> PathBuf {
        let mut real = PathBuf::new();
        for part in std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).components() {
            match part {
                Component::ParentDir => {
                    real.pop();
                }
                part => real.push(part),
            }
            if self.entry(&real).is_some_and(|entry| entry.is_link)
                && let Ok(target) = real.canonicalize()
            {
                real = target;
            }
        }
        real
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_in_the_existing_part_of_a_path_are_resolved() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("a/b", root.join("link")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        let mut objects = Objects::default();
        for (path, real) in [
            ("a/b", "a/b"),
            ("link", "a/b"),
            ("link/missing/x", "a/b/missing/x"),
            ("link/../c", "a/c"),
            ("dangling/x", "dangling/x"),
            ("missing/../a", "a"),
        ] {
            assert_eq!(objects.real(&root.join(path)), root.join(real), "{path}");
        }
        assert_eq!(objects.get(&root.join("link/missing")), None);
        assert_eq!(objects.above(&root.join("a/b")).len(), root.ancestors().count() + 2);
    }
}
