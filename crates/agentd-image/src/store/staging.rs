//! The staging directory of an import, with the layers unpacked so far.

use super::layers;
use crate::{digest::Digest, error::ImageError, unpack::Unpacked};
use agentd_disk::{Lock, entries, make_folder};
use std::path::{Path, PathBuf};

/// A staging directory that this process has locked.
#[derive(Debug)]
pub(crate) struct Staging(agentd_disk::Staging);

impl Staging {
    /// Creates a staging directory. The store's lock must be held, because an unlocked staging directory looks abandoned until
    /// this call has locked it.
    pub(super) fn make(folder: &Path, lock: &Lock) -> Result<Self, ImageError> {
        let staging = agentd_disk::Staging::make(folder, lock)?;
        make_folder(&staging.path().join("layers"))?;
        Ok(Self(staging))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns a path that only this staging directory uses, for a file that is then renamed into place.
    pub(super) fn draft(&self) -> PathBuf {
        self.path().join("draft")
    }

    /// Creates the directory of a layer whose digest is not known yet, and returns the path of its tree.
    pub(crate) fn begin_layer(&self) -> Result<PathBuf, ImageError> {
        let path = self.path().join("layer");
        make_folder(&path)?;
        // Private until the archive's mode for the root is applied.
        make_folder(&layers::tree(&path))?;
        Ok(layers::tree(&path))
    }

    /// Finishes the layer that [`Self::begin_layer`] began, as the layer `diff_id`.
    pub(crate) fn end_layer(&self, diff_id: Digest, about: &Unpacked) -> Result<(), ImageError> {
        let made = self.path().join("layer");
        about.write(&made)?;
        layers::adopt(&made, &self.layer(diff_id))
    }

    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.path().join("layers").join(diff_id.hex())
    }

    /// Returns the layers in this staging directory.
    pub(super) fn layers(&self) -> Result<Vec<Digest>, ImageError> {
        let names = entries(&self.path().join("layers"))?;
        Ok(names.iter().filter_map(|path| Digest::from_hex(path.file_name()?.to_str()?)).collect())
    }

    /// Protects a layer that this import needs from collection.
    pub(super) fn pin(&self, layer: Digest, lock: &Lock) -> Result<(), ImageError> {
        Ok(self.0.pin(layer.hex(), lock)?)
    }

    /// Removes the directory and reports an error if that fails.
    pub(super) fn remove(self) -> Result<(), ImageError> {
        Ok(self.0.remove()?)
    }
}
