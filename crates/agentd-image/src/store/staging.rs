//! Where things are made: a directory that its maker holds locked (`flock`) and that goes when the maker does. What another process
//! died over is known by its lock, which can be taken.

use super::{layers, lock::Lock};
use crate::{
    digest::Digest,
    erase::erase,
    error::{Doing as _, ImageError},
    unpack::Unpacked,
};
use std::{
    fs::{self, File, TryLockError},
    io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

/// A staging directory that this process holds.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    /// Holds the lock until it is closed.
    held: File,
}

impl Staging {
    /// Makes one. Under the store's lock: between its making and its locking it looks abandoned.
    pub(super) fn make(folder: &Path, _lock: &Lock) -> Result<Self, ImageError> {
        let mut name = [0; 8];
        rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty()).doing("name", folder)?;
        let path = folder.join(format!("{:016x}", u64::from_ne_bytes(name)));
        make_folder(&path)?;
        let held = File::open(&path).doing("open", &path)?;
        held.lock().doing("lock", &path)?;
        make_folder(&path.join("layers"))?;
        make_folder(&path.join("pins"))?;
        Ok(Self { path, held })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a layer is made before its digest is known.
    pub(crate) fn begin_layer(&self) -> Result<PathBuf, ImageError> {
        let path = self.path.join("layer");
        make_folder(&path)?;
        // Closed but for what the archive says of its root.
        make_folder(&layers::tree(&path))?;
        Ok(layers::tree(&path))
    }

    /// Keeps what [`Self::begin_layer`] began as the layer `diff_id`.
    pub(crate) fn end_layer(&self, diff_id: Digest, about: &Unpacked) -> Result<(), ImageError> {
        let made = self.path.join("layer");
        about.write(&made)?;
        layers::adopt(&made, &self.layer(diff_id))
    }

    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.path.join("layers").join(diff_id.hex())
    }

    /// The layers that were made here.
    pub(super) fn layers(&self) -> Result<Vec<Digest>, ImageError> {
        digests_in(&self.path.join("layers"))
    }

    /// Marks a layer as needed by what is made here.
    pub(super) fn pin(&self, layer: Digest) -> Result<(), ImageError> {
        let path = self.path.join("pins").join(layer.hex());
        File::create(&path).map(drop).doing("make", path)
    }

    /// Removes it, and says if that failed.
    pub(super) fn remove(self) -> Result<(), ImageError> {
        clear(&self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next to open the store: `held` is closed after this.
        let _ = clear(&self.path);
        let _ = &self.held;
    }
}

/// The staging directories whose makers are dead; they are held by us from now on.
pub(super) fn abandoned(folder: &Path, _lock: &Lock) -> Result<Vec<Staging>, ImageError> {
    let mut abandoned = Vec::new();
    for path in entries(folder)? {
        let held = match File::open(&path) {
            // Its maker, who is alive, removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.doing("open", &path)?,
        };
        match held.try_lock() {
            Ok(()) => abandoned.push(Staging { path, held }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).doing("lock", path),
        }
    }
    Ok(abandoned)
}

/// The layers that are pinned by anything staged.
pub(super) fn pinned(folder: &Path, _lock: &Lock) -> Result<Vec<Digest>, ImageError> {
    let mut all = Vec::new();
    for path in entries(folder)? {
        all.extend(digests_in(&path.join("pins"))?);
    }
    Ok(all)
}

fn digests_in(folder: &Path) -> Result<Vec<Digest>, ImageError> {
    let names = entries(folder)?.into_iter().filter_map(|path| Digest::from_hex(path.file_name()?.to_str()?));
    Ok(names.collect())
}

/// What is in a folder; nothing when its owner removed it meanwhile.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let list = || fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.doing("list", folder),
    }
}

fn make_folder(path: &Path) -> Result<(), ImageError> {
    fs::DirBuilder::new().mode(0o700).create(path).doing("make", path)
}

fn clear(path: &Path) -> Result<(), ImageError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = File::open(parent).doing("open", parent)?;
    erase(parent.as_fd(), name).doing("remove", path)
}
