//! Unpacked layers. Each is a private directory that contains `tree` and `about.json`. The tree is one level down because its
//! root has the owner and mode from the archive. A directory of mode 000 could not be renamed, and a directory of mode 777 would
//! be open to everyone.

use crate::{
    error::{Damage, ImageError},
    unpack::Unpacked,
};
use agentd_disk::FileContext as _;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The statistics that unpacking a layer returned.
pub(crate) type LayerStatistics = Unpacked;

/// Returns the path of a layer's tree.
pub(super) fn tree(layer: &Path) -> PathBuf {
    layer.join("tree")
}

impl LayerStatistics {
    /// Reads the statistics of a layer.
    pub(super) fn read(layer: &Path) -> Result<Result<Self, Damage>, ImageError> {
        let bytes = agentd_disk::read(&layer.join("about.json"))?;
        Ok(bytes.ok_or(Damage::Lost).and_then(|bytes| serde_json::from_slice(&bytes).map_err(Damage::Unreadable)))
    }

    pub(super) fn write(&self, layer: &Path) -> Result<(), ImageError> {
        let path = layer.join("about.json");
        let bytes = serde_json::to_vec(self).during("write", &path)?;
        Ok(fs::write(&path, bytes).during("write", path)?)
    }
}

/// Moves a finished layer into place, unless a concurrent import was faster.
pub(super) fn adopt(staged: &Path, place: &Path) -> Result<(), ImageError> {
    match fs::rename(staged, place) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
        other => Ok(other.during("rename to", place)?),
    }
}
