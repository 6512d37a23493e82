//! Staging directories: new content is built in them, and content to be removed is moved into them. The creator of a staging
//! directory holds its lock (`flock`) until the creator removes the directory. If another process can take the lock, the creator
//! is dead and the directory is abandoned.

use crate::{
    durable::{entries, make_folder},
    erase::erase,
    error::{DiskError, FileContext as _},
    lock::Lock,
};
use agentd_log::LogFailure as _;
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    fs::{File, TryLockError},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// A staging directory that this process has locked. It is removed on drop, unless [`Staging::keep`] was called.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Holds the lock until the file is closed.
    held: File,
    keep: bool,
}

impl Staging {
    /// Creates a staging directory with a random name in `folder`. The store lock must be held, because an unlocked staging
    /// directory looks abandoned until this call has locked it.
    ///
    /// # Errors
    /// [`DiskError`] if the directory cannot be created or locked.
    pub fn make(folder: &Path, _lock: &Lock) -> Result<Self, DiskError> {
        let mut name = [0; 8];
        getrandom(&mut name, GetRandomFlags::empty()).during("choose a random name in", folder)?;
        let path = folder.join(format!("{:016x}", u64::from_ne_bytes(name)));
        make_folder(&path)?;
        let held = File::open(&path).during("open", &path)?;
        held.lock().during("lock", &path)?;
        make_folder(&path.join("pins"))?;
        Ok(Self { path, held, keep: false })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pins a layer: it is not collected while this staging directory exists.
    ///
    /// # Errors
    /// [`DiskError`] if the pin cannot be written.
    pub fn pin(&self, layer: impl std::fmt::Display, _lock: &Lock) -> Result<(), DiskError> {
        self.pin_new(layer)
    }

    /// Pins a layer that does not exist yet and has an unused name. The pin precedes the layer, so the store lock is not needed.
    ///
    /// # Errors
    /// [`DiskError`] if the pin cannot be written.
    pub fn pin_new(&self, layer: impl std::fmt::Display) -> Result<(), DiskError> {
        let path = self.path.join("pins").join(layer.to_string());
        File::create(&path).map(drop).during("create", path)
    }

    /// Unlocks the directory without removing it, and returns its path.
    pub fn keep(mut self) -> PathBuf {
        self.keep = true;
        self.path.clone()
    }

    /// Removes the directory and returns the error that [`Drop`] would only log.
    ///
    /// # Errors
    /// [`DiskError`] if the directory cannot be removed.
    pub fn remove(self) -> Result<(), DiskError> {
        clear(&self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If the removal fails, the next process to open the store removes the directory: `held` is closed after this.
        if !self.keep {
            clear(&self.path).or_warn("remove staging directory", &self.path);
        }
        let _ = &self.held;
    }
}

/// Locks and returns the staging directories whose creators are dead. The result may include a draft of a record: its writer
/// holds the store lock while it writes, so a draft found under that lock is abandoned.
///
/// # Errors
/// [`DiskError`] if `folder` cannot be read or an entry cannot be opened or locked.
pub fn abandoned(folder: &Path, _lock: &Lock) -> Result<Vec<Staging>, DiskError> {
    let mut abandoned = Vec::new();
    for path in entries(folder)? {
        let held = match File::open(&path) {
            // The creator is alive and removed its directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.during("open", &path)?,
        };
        match held.try_lock() {
            Ok(()) => abandoned.push(Staging { path, held, keep: false }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).during("lock", path),
        }
    }
    Ok(abandoned)
}

/// Returns the names of the layers that are pinned by any staging directory.
///
/// # Errors
/// [`DiskError`] if a directory cannot be read.
pub fn pinned(folder: &Path, _lock: &Lock) -> Result<Vec<String>, DiskError> {
    let mut all = Vec::new();
    for path in entries(folder)? {
        let pins = entries(&path.join("pins"))?;
        all.extend(pins.iter().filter_map(|pin| Some(pin.file_name()?.to_str()?.to_owned())));
    }
    Ok(all)
}

fn clear(path: &Path) -> Result<(), DiskError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = File::open(parent).during("open", parent)?;
    erase(parent.as_fd(), name).during("remove", path)
}
