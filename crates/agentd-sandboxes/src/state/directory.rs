//! The directory of the sandbox store: its lock, its folders and its records.

use crate::{
    error::StoreError,
    layer,
    layer_id::LayerId,
    mounts::Mounts,
    name::Name,
    record::{Record, exists},
};
use agentd_core::DiskLayers;
use agentd_disk::{FileContext as _, Lock, NotPrivate, Staging, entries};
use agentd_kernel::mount::OwnMounts;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The sandbox store: all sandboxes of one directory. Any number of processes may open the same directory any number of times.
#[derive(Debug, Clone)]
pub struct SandboxStore {
    pub(super) root: PathBuf,
    /// The mounted volumes; `None` if this process cannot mount any.
    pub(super) mounts: Option<Arc<Mounts>>,
}

impl SandboxStore {
    /// Opens the directory `root`, creates it if it does not exist, and removes the staging directories of dead processes.
    ///
    /// # Errors
    /// [`StoreError::Place`] if `root` is not private to the caller, [`StoreError::Io`] if a file operation fails.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_private(root)?;
        // Absolute, because the returned paths must stay valid if the caller changes its working directory.
        let state = Self { root: fs::canonicalize(root).during("resolve", root)?, mounts: None };
        for folder in [state.named_directory(), state.layers(), state.volumes(), state.staging()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).during("create", &folder)?;
        }
        // A failed removal must not block access to the sandboxes: fsck finds the leftovers, and collecting them reports the
        // error.
        drop(state.abandoned()?);
        Ok(state)
    }

    /// Like [`SandboxStore::open`], for a process that supports sandboxes with a disk limit. Their volumes are mounted on demand
    /// in the mount namespace of this process.
    ///
    /// # Errors
    /// As [`SandboxStore::open`].
    pub fn open_with_volumes(root: &Path, own: OwnMounts) -> Result<Self, StoreError> {
        Ok(Self { mounts: Some(Arc::new(Mounts::new(own))), ..Self::open(root)? })
    }

    /// Returns the paths of the layers of a sandbox. Paths inside volumes are valid only while the sandbox is held.
    pub fn layer_paths(&self, record: &Record) -> DiskLayers {
        let lower = record.lower.iter().map(|layer| layer::upperdir(&self.place_of(*layer))).collect();
        DiskLayers { lower, upper: self.place_of(record.upper) }
    }

    /// Prepares a held sandbox for its mount: empties the `work` directory of its upper layer, which must not be mounted. After a
    /// crash overlayfs leaves a mark there (`work/incompat/volatile`) that prevents the next mount. If the disk of the sandbox is
    /// full, the reserve is removed.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory cannot be emptied or the reserve cannot be removed.
    pub fn before_mount(&self, record: &Record) -> Result<(), StoreError> {
        layer::reset_workdir(&self.layer(record.upper))?;
        self.volume_dir_of(record.upper)?.map_or(Ok(()), |volume_dir| volume_dir.give_up_reserve())
    }

    /// Restores the reserve after the mount, before anything runs in the sandbox.
    ///
    /// # Errors
    /// [`StoreError`] if the reserve cannot be created; a full disk is not an error.
    pub fn after_mount(&self, record: &Record) -> Result<(), StoreError> {
        let Some(volume_dir) = self.volume_dir_of(record.upper)? else { return Ok(()) };
        match volume_dir.keep_reserve(&self.lock()?) {
            // The mount used up the space of the reserve. The sandbox runs without one, and its files can be removed from inside.
            Err(error) if self.is_full(&error) => Ok(()),
            kept => kept,
        }
    }

    /// Returns the directory for the command output of a sandbox. The directory is removed with the sandbox.
    pub fn log_directory(&self, name: &Name) -> PathBuf {
        self.sandbox(name).join("log")
    }

    /// Locks and returns the staging directories of dead processes. Each is removed on drop.
    pub(super) fn abandoned(&self) -> Result<Vec<Staging>, StoreError> {
        Ok(agentd_disk::abandoned(&self.staging(), &self.lock()?)?)
    }

    /// Returns the layers that are pinned by any staging directory.
    pub(super) fn pinned(&self, lock: &Lock) -> Result<impl Iterator<Item = LayerId> + use<>, StoreError> {
        Ok(agentd_disk::pinned(&self.staging(), lock)?.into_iter().filter_map(|pin| pin.parse().ok()))
    }

    /// Waits for the lock, and replays the journal of a process that died while it held the lock.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        let lock = Lock::take(&self.root.join("lock"))?;
        self.replay_journal(&lock)?;
        Ok(lock)
    }

    pub(super) fn stage(&self, lock: &Lock) -> Result<Staging, StoreError> {
        Ok(Staging::make(&self.staging(), lock)?)
    }

    /// Reads the record of a sandbox.
    pub(super) fn load(&self, name: &Name) -> Result<Record, StoreError> {
        let directory = self.sandbox(name);
        match Record::read(&directory, name)? {
            Ok(record) => Ok(record),
            Err(_) if !exists(&directory)? => Err(StoreError::NotFound { name: name.clone() }),
            Err(damage) => Err(StoreError::Damaged { name: name.clone(), damage }),
        }
    }

    /// Reads every record. A damaged record is an error, because its needs are unknown.
    pub(super) fn load_all(&self, _lock: &Lock) -> Result<Vec<Record>, StoreError> {
        self.names()?.iter().map(|name| self.load(name)).collect()
    }

    /// Replaces the record of a sandbox.
    pub(super) fn replace(&self, record: &Record, _lock: &Lock) -> Result<(), StoreError> {
        // One name is enough for all drafts, because the writer holds the lock.
        record.write(&self.sandbox(&record.name), &self.staging().join("draft"))
    }

    /// Returns the names of all sandboxes, sorted.
    pub(super) fn names(&self) -> Result<Vec<Name>, StoreError> {
        let name = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(entries(&self.named_directory())?.into_iter().filter_map(name).collect())
    }

    /// Makes new layers durable, before a record names them.
    pub(super) fn flush_layers(&self) -> Result<(), StoreError> {
        Ok(agentd_disk::flush_directory(&self.layers())?)
    }

    pub(super) fn named_directory(&self) -> PathBuf {
        self.root.join("named")
    }

    pub(super) fn sandbox(&self, name: &Name) -> PathBuf {
        self.named_directory().join(name)
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, layer: LayerId) -> PathBuf {
        self.layers().join(layer.to_string())
    }

    pub(super) fn tree(&self, layer: LayerId) -> PathBuf {
        layer::upperdir(&self.layer(layer))
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }
}

/// Creates the directory, or checks that it is private to the caller.
fn make_private(root: &Path) -> Result<(), StoreError> {
    agentd_disk::make_private(root).map_err(|error| match error {
        NotPrivate::Disk(error) => error.into(),
        NotPrivate::Refused(why) => StoreError::Place { path: root.to_owned(), why },
    })
}
