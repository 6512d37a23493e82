//! Applies one layer's tar stream to a directory, so that overlayfs can stack it.
//!
//! The archive is hostile until proven otherwise. Each record passes `agentd-archive` (one interpretation of the archive, bounded
//! memory) and then `name` (no path leads out). Only `tree` touches the file system, relative to descriptors that the kernel
//! resolved beneath the layer's root. `attributes` decides on owners, modes and extended attributes, and [`Bounds`] limits the
//! size of a layer.

mod attributes;
mod name;
mod tree;

pub use agentd_archive::{Bound, Bounds, UnpackError};
pub use attributes::Ownership;

pub(crate) use agentd_archive::{Kind, Record, decompress, for_each, is_compressed};

use agentd_archive::{ErrnoContext as _, lossy};
use name::{Name, NameMeaning};
use rustix::{fs::Timespec, io::Errno};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};
use tree::{LayerTree, is_directory, is_whiteout};

/// The statistics of an unpacked layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Number of entries in the archive.
    pub entries: u64,
    /// Total size of the regular files, in bytes.
    pub bytes: u64,
    /// Number of device nodes that were left out.
    pub skipped_devices: u64,
    /// Number of extended attributes that were left out (`security.capability`, `trusted.*` …).
    pub skipped_attributes: u64,
    /// True if the layer hides all layers below: its root is marked opaque. Overlayfs ignores that mark on a root, so it is
    /// recorded here.
    pub hides_all_below: bool,
}

/// Applies the plain tar stream `layer` to the empty directory `root`.
///
/// # Errors
/// [`UnpackError`] if the archive is malformed, exceeds `bounds`, or contains an unsafe or unsupported entry, or if the file
/// system refuses a call. The directory may then contain a part of the layer.
pub fn unpack(layer: impl Read, root: BorrowedFd<'_>, ownership: Ownership, bounds: &Bounds) -> Result<Unpacked, UnpackError> {
    let mut layer_tree = PartialLayer {
        tree: LayerTree::new(root, ownership),
        bounds,
        directories: BTreeMap::new(),
        named: 0,
        so_far: Unpacked::default(),
    };
    for_each(layer, bounds, |record, data| layer_tree.add(record, data))?;
    layer_tree.finish()
}

/// A layer during unpacking.
struct PartialLayer<'a> {
    tree: LayerTree<'a>,
    bounds: &'a Bounds,
    /// The final metadata of the directories. It is applied last: a restrictive mode would block entries still to come, and
    /// writing these entries would change the times.
    directories: BTreeMap<Name, DirectoryMetadata>,
    /// Total length of the names in `directories`, in bytes.
    named: usize,
    so_far: Unpacked,
}

/// The final metadata of a directory.
struct DirectoryMetadata {
    mode: u32,
    owner: (u32, u32),
    modified: Timespec,
}

impl DirectoryMetadata {
    /// Returns the metadata of a directory for which the archive has no entry, only entries below it.
    fn implied() -> Self {
        Self { mode: 0o755, owner: (0, 0), modified: Timespec { tv_sec: 0, tv_nsec: 0 } }
    }
}

impl PartialLayer<'_> {
    fn add(&mut self, record: Record, data: &mut dyn Read) -> Result<(), UnpackError> {
        self.so_far.entries += 1;
        match Name::meaning(&record.path, self.bounds)? {
            NameMeaning::Nothing => Ok(()),
            NameMeaning::Opaque(name) => self.opaque(&name),
            NameMeaning::Whiteout(name) => self.whiteout(&name),
            NameMeaning::Entry(name) if name.is_root() && record.kind != Kind::Directory => {
                Err(UnpackError::Name { path: name.path().to_owned(), why: "the entry of the layer's root is not a directory" })
            }
            NameMeaning::Entry(name) if record.kind == Kind::Directory => self.directory(name, &record),
            NameMeaning::Entry(name) => self.entry(&name, &record, data),
        }
    }

    fn entry(&mut self, name: &Name, record: &Record, data: &mut dyn Read) -> Result<(), UnpackError> {
        if record.kind == Kind::Device {
            self.so_far.skipped_devices += 1;
            return Ok(());
        }
        let parent = self.parent(name)?;
        // For a link to itself, the code below would remove the target.
        let target = if record.kind == Kind::HardLink { Some(Name::parse(&record.link, self.bounds)?) } else { None };
        if target.as_ref() == Some(name) {
            return Ok(());
        }
        if self.tree.lstat(&parent, name)?.is_some() {
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

    /// Checks the target of a symbolic link, which may be any string that the kernel accepts.
    fn symlink_target(&self, record: &Record) -> Result<(), UnpackError> {
        let refuse = |why| Err(UnpackError::Name { path: lossy(&record.path), why });
        match record.link.as_slice() {
            [] => refuse("symbolic link with an empty target"),
            link if link.contains(&0) => refuse("symbolic link whose target contains a NUL byte"),
            link if link.len() > self.bounds.path => {
                Err(UnpackError::TooLarge { bound: Bound::Path, max: self.bounds.path as u64, path: Some(lossy(&record.path)) })
            }
            _ => Ok(()),
        }
    }

    fn directory(&mut self, name: Name, record: &Record) -> Result<(), UnpackError> {
        if !name.is_root() {
            let parent = self.parent(&name)?;
            match self.tree.lstat(&parent, &name)? {
                Some(stat) if is_directory(&stat) => {}
                Some(stat) => {
                    self.tree.clear(&parent, &name)?;
                    self.tree.make_directory(&parent, &name)?;
                    if is_whiteout(&stat) {
                        // The layer has both a whiteout and a directory: the old directory is hidden and a new one replaces it.
                        self.opaque(&name)?;
                    }
                }
                None => self.tree.make_directory(&parent, &name)?,
            }
        }
        let directory = self.open(&name)?;
        self.so_far.skipped_attributes +=
            attributes::keep(directory.as_fd(), &record.attributes).during("fsetxattr", name.path())?;
        let metadata = DirectoryMetadata { mode: record.mode, owner: (record.uid, record.gid), modified: record.modified };
        self.remember(name, metadata)
    }

    /// Applies a whiteout. Entries of the same layer at this path stay, because a whiteout hides only the layers below.
    fn whiteout(&mut self, name: &Name) -> Result<(), UnpackError> {
        let parent = self.parent(name)?;
        match self.tree.lstat(&parent, name)? {
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
                self.remember(name.clone(), DirectoryMetadata::implied())?;
                self.open(name)?
            }
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(UnpackError::Through { path: name.path().to_owned() }),
            other => other.during("openat2", name.path())?,
        };
        self.tree.make_opaque(&directory, name)
    }

    fn open(&self, name: &Name) -> Result<OwnedFd, UnpackError> {
        self.tree.directory(name).during("openat2", name.path())
    }

    fn parent(&mut self, name: &Name) -> Result<OwnedFd, UnpackError> {
        let mut made = Vec::new();
        let parent = self.tree.parent(name, |directory| made.push(directory));
        for directory in made {
            self.remember(directory, DirectoryMetadata::implied())?;
        }
        parent
    }

    fn remember(&mut self, name: Name, metadata: DirectoryMetadata) -> Result<(), UnpackError> {
        self.named += name.len();
        if self.named > self.bounds.directories {
            return Err(UnpackError::TooLarge { bound: Bound::Directories, max: self.bounds.directories as u64, path: None });
        }
        self.directories.insert(name, metadata);
        Ok(())
    }

    /// Applies the metadata of the directories, innermost first, because the mode of an outer directory may block access to an
    /// inner one.
    fn finish(self) -> Result<Unpacked, UnpackError> {
        for (name, metadata) in self.directories.iter().rev() {
            match self.tree.directory(name) {
                Ok(directory) => {
                    self.tree.set_metadata(directory.as_fd(), name, metadata.mode, metadata.owner, metadata.modified)?
                }
                // A later entry replaced the directory.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(UnpackError::System { call: "openat2", path: PathBuf::from(name.path()), errno }),
            }
        }
        Ok(self.so_far)
    }
}
