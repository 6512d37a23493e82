//! One layer's tar stream, applied to a directory so that overlayfs can stack it.
//!
//! The archive is hostile until proven otherwise. Each record passes `record` (one reading of the archive, bounded memory), its
//! name `name` (no way out), and only `tree` touches the file system, relative to descriptors that the kernel resolved
//! beneath the layer's root. `attributes` decides about owners, modes and extended attributes, [`Bounds`] how big a layer may be.

mod attributes;
mod bounds;
mod compression;
mod error;
mod name;
mod pax;
mod record;
mod tree;

pub use attributes::Ownership;
pub use bounds::{Bound, Bounds};
pub use error::UnpackError;

pub(crate) use compression::{decompress, is_compressed};
pub(crate) use record::{Kind, Record, for_each};

use error::At as _;
use name::{Meaning, Name};
use rustix::{fs::Timespec, io::Errno};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};
use tree::{Tree, is_directory, is_whiteout};

/// What a layer was found to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// Device nodes that were left out.
    pub skipped_devices: u64,
    /// Extended attributes that were left out (`security.capability`, `trusted.*` …).
    pub skipped_attributes: u64,
    /// The layers below are hidden altogether: an opaque mark on the root, which overlayfs does not look for.
    pub hides_all_below: bool,
}

/// Applies the plain tar stream `layer` to the empty directory `root`.
pub fn unpack(layer: impl Read, root: BorrowedFd<'_>, ownership: Ownership, bounds: &Bounds) -> Result<Unpacked, UnpackError> {
    let mut growing =
        Growing { tree: Tree::new(root, ownership), bounds, directories: BTreeMap::new(), named: 0, so_far: Unpacked::default() };
    for_each(layer, bounds, |record, data| growing.add(record, data))?;
    growing.finish()
}

/// A layer while it is unpacked.
struct Growing<'a> {
    tree: Tree<'a>,
    bounds: &'a Bounds,
    /// What the directories will look like: their modes would hinder, and their times be changed by, what comes into them.
    directories: BTreeMap<Name, Look>,
    /// Bytes of the names in `directories`.
    named: usize,
    so_far: Unpacked,
}

/// The look of a directory.
struct Look {
    mode: u32,
    owner: (u32, u32),
    modified: Timespec,
}

impl Look {
    /// Of a directory that the archive has entries in, but none of itself.
    fn of_nothing() -> Self {
        Self { mode: 0o755, owner: (0, 0), modified: Timespec { tv_sec: 0, tv_nsec: 0 } }
    }
}

impl Growing<'_> {
    fn add(&mut self, record: Record, data: &mut dyn Read) -> Result<(), UnpackError> {
        self.so_far.entries += 1;
        match Name::meaning(&record.path, self.bounds)? {
            Meaning::Nothing => Ok(()),
            Meaning::Opaque(name) => self.opaque(&name),
            Meaning::Whiteout(name) => self.whiteout(&name),
            Meaning::Entry(name) if name.is_root() && record.kind != Kind::Directory => {
                Err(UnpackError::Name { path: name.path().to_owned(), why: "the root of the layer is no directory" })
            }
            Meaning::Entry(name) if record.kind == Kind::Directory => self.directory(name, &record),
            Meaning::Entry(name) => self.entry(&name, &record, data),
        }
    }

    fn entry(&mut self, name: &Name, record: &Record, data: &mut dyn Read) -> Result<(), UnpackError> {
        if record.kind == Kind::Device {
            self.so_far.skipped_devices += 1;
            return Ok(());
        }
        let parent = self.parent(name)?;
        // A link to itself would otherwise remove its target.
        let target = if record.kind == Kind::HardLink { Some(Name::parse(&record.link, self.bounds)?) } else { None };
        if target.as_ref() == Some(name) {
            return Ok(());
        }
        if self.tree.look(&parent, name)?.is_some() {
            self.tree.clear(&parent, name)?;
        }
        match (record.kind, target) {
            (Kind::HardLink, Some(target)) => self.tree.make_hard_link(&parent, name, &target)?,
            (Kind::Symlink, _) => {
                self.symlink_target(record)?;
                self.tree.make_symlink(&parent, name, record)?;
                self.so_far.skipped_attributes += record.attributes.len() as u64;
            }
            (Kind::Fifo, _) => {
                self.tree.make_fifo(&parent, name, record)?;
                self.so_far.skipped_attributes += record.attributes.len() as u64;
            }
            _ => {
                self.so_far.skipped_attributes += self.tree.make_file(&parent, name, record, data)?;
                self.so_far.bytes += record.size;
            }
        }
        Ok(())
    }

    /// What a symbolic link holds may be anything that the kernel takes.
    fn symlink_target(&self, record: &Record) -> Result<(), UnpackError> {
        let refuse = |why| Err(UnpackError::Name { path: name::lossy(&record.path), why });
        match record.link.as_slice() {
            [] => refuse("a symbolic link to nothing"),
            link if link.contains(&0) => refuse("a symbolic link with a zero byte"),
            link if link.len() > self.bounds.path => Err(UnpackError::TooLarge {
                bound: Bound::Path,
                most: self.bounds.path as u64,
                path: Some(name::lossy(&record.path)),
            }),
            _ => Ok(()),
        }
    }

    fn directory(&mut self, name: Name, record: &Record) -> Result<(), UnpackError> {
        if !name.is_root() {
            let parent = self.parent(&name)?;
            match self.tree.look(&parent, &name)? {
                Some(stat) if is_directory(&stat) => {}
                Some(stat) => {
                    self.tree.clear(&parent, &name)?;
                    self.tree.make_directory(&parent, &name)?;
                    if is_whiteout(&stat) {
                        // Both in one layer: the old directory is gone, and a new one has its place.
                        self.opaque(&name)?;
                    }
                }
                None => self.tree.make_directory(&parent, &name)?,
            }
        }
        let directory = self.open(&name)?;
        self.so_far.skipped_attributes += attributes::keep(directory.as_fd(), &record.attributes).at("fsetxattr", name.path())?;
        let look = Look { mode: record.mode, owner: (record.uid, record.gid), modified: record.modified };
        self.remember(name, look)
    }

    /// What the layer itself has at this place stays: a whiteout hides what is below the layer.
    fn whiteout(&mut self, name: &Name) -> Result<(), UnpackError> {
        let parent = self.parent(name)?;
        match self.tree.look(&parent, name)? {
            None => self.tree.make_whiteout(&parent, name),
            Some(stat) if is_directory(&stat) => self.opaque(name),
            Some(_) => Ok(()),
        }
    }

    fn opaque(&mut self, name: &Name) -> Result<(), UnpackError> {
        if name.is_root() {
            self.so_far.hides_all_below = true;
            return Ok(());
        }
        let directory = match self.tree.directory(name) {
            Err(Errno::NOENT) => {
                let parent = self.parent(name)?;
                self.tree.make_directory(&parent, name)?;
                self.remember(name.clone(), Look::of_nothing())?;
                self.open(name)?
            }
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(UnpackError::Through { path: name.path().to_owned() }),
            other => other.at("openat2", name.path())?,
        };
        self.tree.make_opaque(&directory, name)
    }

    fn open(&self, name: &Name) -> Result<OwnedFd, UnpackError> {
        self.tree.directory(name).at("openat2", name.path())
    }

    fn parent(&mut self, name: &Name) -> Result<OwnedFd, UnpackError> {
        let mut made = Vec::new();
        let parent = self.tree.parent(name, |directory| made.push(directory));
        for directory in made {
            self.remember(directory, Look::of_nothing())?;
        }
        parent
    }

    fn remember(&mut self, name: Name, look: Look) -> Result<(), UnpackError> {
        self.named += name.len();
        if self.named > self.bounds.directories {
            return Err(UnpackError::TooLarge { bound: Bound::Directories, most: self.bounds.directories as u64, path: None });
        }
        self.directories.insert(name, look);
        Ok(())
    }

    /// Gives the directories their looks, the innermost first: the mode of an outer one may end the way to an inner one.
    fn finish(self) -> Result<Unpacked, UnpackError> {
        for (name, look) in self.directories.iter().rev() {
            match self.tree.directory(name) {
                Ok(directory) => self.tree.dress(directory.as_fd(), name, look.mode, look.owner, look.modified)?,
                // A later entry took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(UnpackError::System { call: "openat2", path: PathBuf::from(name.path()), errno }),
            }
        }
        Ok(self.so_far)
    }
}
