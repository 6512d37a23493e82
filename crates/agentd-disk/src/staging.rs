//! Where things are made and removed: a directory that its maker holds locked (`flock`) and that goes when the maker does. What another
//! process died over is known by its lock, which can be taken.

use crate::{
    durable::{entries, make_folder},
    erase::erase,
    error::{DiskError, Doing as _},
    lock::Lock,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    fs::{File, TryLockError},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// A staging directory that this process holds.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Holds the lock until it is closed.
    held: File,
    keep: bool,
}

impl Staging {
    /// Makes one. Under the lock: between its making and its locking it looks abandoned.
    pub fn make(folder: &Path, _lock: &Lock) -> Result<Self, DiskError> {
        let mut name = [0; 8];
        getrandom(&mut name, GetRandomFlags::empty()).doing("name", folder)?;
        let path = folder.join(format!("{:016x}", u64::from_ne_bytes(name)));
        make_folder(&path)?;
        let held = File::open(&path).doing("open", &path)?;
        held.lock().doing("lock", &path)?;
        make_folder(&path.join("pins"))?;
        Ok(Self { path, held, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a layer from being collected while this lives.
    pub fn pin(&self, layer: impl std::fmt::Display, _lock: &Lock) -> Result<(), DiskError> {
        self.pin_new(layer)
    }

    /// The same for one that is not there yet and has a name that nothing had: its pin comes first, so the lock is not needed.
    pub fn pin_new(&self, layer: impl std::fmt::Display) -> Result<(), DiskError> {
        let path = self.path.join("pins").join(layer.to_string());
        File::create(&path).map(drop).doing("make", path)
    }

    /// Gives it up as it is.
    pub fn leave(mut self) -> PathBuf {
        self.keep = true;
        self.path.clone()
    }

    /// Removes it, and says if that failed.
    pub fn remove(self) -> Result<(), DiskError> {
        clear(&self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next to open the store: `held` is closed after this.
        if !self.keep {
            let _ = clear(&self.path);
        }
        let _ = &self.held;
    }
}

/// What the dead left in the staging folder; it is held by us from now on. Among it is a draft of a record: who writes one has the lock.
pub fn abandoned(folder: &Path, _lock: &Lock) -> Result<Vec<Staging>, DiskError> {
    let mut abandoned = Vec::new();
    for path in entries(folder)? {
        let held = match File::open(&path) {
            // Its maker, who is alive, removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.doing("open", &path)?,
        };
        match held.try_lock() {
            Ok(()) => abandoned.push(Staging { path, held, keep: false }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).doing("lock", path),
        }
    }
    Ok(abandoned)
}

/// The layers that are pinned by anything staged.
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
    let parent = File::open(parent).doing("open", parent)?;
    erase(parent.as_fd(), name).doing("remove", path)
}
