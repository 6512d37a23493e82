//! Where an image is made: a staging directory, with layers in it.

use super::layers;
use crate::{digest::Digest, error::ImageError, unpack::Unpacked};
use agentd_disk::{Lock, entries, make_folder};
use std::path::{Path, PathBuf};

/// A staging directory that this process holds.
#[derive(Debug)]
pub(crate) struct Staging(agentd_disk::Staging);

impl Staging {
    /// Makes one. Under the store's lock: between its making and its locking it looks abandoned.
    pub(super) fn make(folder: &Path, lock: &Lock) -> Result<Self, ImageError> {
        let staging = agentd_disk::Staging::make(folder, lock)?;
        make_folder(&staging.path().join("layers"))?;
        Ok(Self(staging))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A name in it that only its maker uses, for what is to be whole or absent.
    pub(super) fn draft(&self) -> PathBuf {
        self.path().join("draft")
    }

    /// Where a layer is made before its digest is known.
    pub(crate) fn begin_layer(&self) -> Result<PathBuf, ImageError> {
        let path = self.path().join("layer");
        make_folder(&path)?;
        // Closed but for what the archive says of its root.
        make_folder(&layers::tree(&path))?;
        Ok(layers::tree(&path))
    }

    /// Keeps what [`Self::begin_layer`] began as the layer `diff_id`.
    pub(crate) fn end_layer(&self, diff_id: Digest, about: &Unpacked) -> Result<(), ImageError> {
        let made = self.path().join("layer");
        about.write(&made)?;
        layers::adopt(&made, &self.layer(diff_id))
    }

    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.path().join("layers").join(diff_id.hex())
    }

    /// The layers that were made here.
    pub(super) fn layers(&self) -> Result<Vec<Digest>, ImageError> {
        let names = entries(&self.path().join("layers"))?;
        Ok(names.iter().filter_map(|path| Digest::from_hex(path.file_name()?.to_str()?)).collect())
    }

    /// Marks a layer as needed by what is made here.
    pub(super) fn pin(&self, layer: Digest, lock: &Lock) -> Result<(), ImageError> {
        Ok(self.0.pin(layer.hex(), lock)?)
    }

    /// Removes it, and says if that failed.
    pub(super) fn remove(self) -> Result<(), ImageError> {
        Ok(self.0.remove()?)
    }
}
