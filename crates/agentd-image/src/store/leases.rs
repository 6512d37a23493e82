//! Leases: what keeps layers from being collected while something outside the store uses them, such as the mounts of a sandbox. A
//! lease is a file and outlives its maker, as sandboxes do; whoever ends the use gives it back by name.

use super::{Staging, Store, durable, lock::Lock, staging::entries};
use crate::{
    digest::Digest,
    error::{Doing as _, ImageError},
    image::Image,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Layers in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The image that they were taken of.
    pub image: Digest,
    /// The layers, by the digests of their plain tar streams.
    pub layers: Vec<Digest>,
}

impl Store {
    /// Keeps the layers of `image` until [`Store::release`] is called with the same name; a lease of that name is replaced.
    pub fn lease(&self, name: &str, image: &Image) -> Result<(), ImageError> {
        let path = self.lease_path(name)?;
        let lock = self.lock()?;
        // Under the lock: what is there now stays.
        let layers = image.layers.iter().map(|tree| self.leasable(image, tree)).collect::<Result<_, _>>()?;
        let lease = Lease { image: image.digest, layers };
        let bytes = serde_json::to_vec(&lease).map_err(|source| ImageError::Damaged { path: path.clone(), source })?;
        let staging = Staging::make(&self.staging(), &lock)?;
        durable::write(&path, &bytes, staging.path())?;
        durable::flush_directory(&self.leases_folder())
    }

    /// Ends a lease; one that is not there has ended.
    pub fn release(&self, name: &str) -> Result<(), ImageError> {
        let path = self.lease_path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.doing("remove", path),
        }
    }

    /// All leases by name.
    pub fn leases(&self) -> Result<Vec<(String, Lease)>, ImageError> {
        let mut leases = Vec::new();
        for path in entries(&self.leases_folder())? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let bytes = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.doing("read", &path)?,
            };
            leases.push((name, serde_json::from_slice(&bytes).map_err(|source| ImageError::Damaged { path, source })?));
        }
        leases.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(leases)
    }

    /// The layers that are leased.
    pub(super) fn leased(&self, _lock: &Lock) -> Result<Vec<Digest>, ImageError> {
        Ok(self.leases()?.into_iter().flat_map(|(_, lease)| lease.layers).collect())
    }

    fn leasable(&self, image: &Image, tree: &Path) -> Result<Digest, ImageError> {
        let lost = || ImageError::Incomplete { image: image.digest, part: format!("layer {}", tree.display()) };
        let hex = tree.parent().and_then(Path::file_name).and_then(|name| name.to_str()).ok_or_else(lost)?;
        Digest::from_hex(hex).filter(|digest| self.layer(*digest).exists()).ok_or_else(lost)
    }

    fn lease_path(&self, name: &str) -> Result<PathBuf, ImageError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !begins || name.len() > 128 || !name.bytes().all(plain) {
            return Err(ImageError::LeaseName(name.chars().take(128).collect()));
        }
        Ok(self.leases_folder().join(name))
    }
}
