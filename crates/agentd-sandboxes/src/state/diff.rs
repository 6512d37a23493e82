//! Lists the changes in a sandbox.

use super::{directory::SandboxStore, snapshot};
use crate::{
    error::StoreError,
    layer_id::LayerId,
    name::Name,
    tree::{Change, Stacks, Tree, compare},
};
use std::path::PathBuf;

impl SandboxStore {
    /// Returns the paths that a sandbox changed since a snapshot or relative to its image, sorted. `image` contains the trees of
    /// the image's layers, lowest first; the caller protects them from collection. The contents of a directory that was removed
    /// or replaced are not listed individually.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] if there is no such snapshot, [`StoreError::Gone`] if a layer is missing, [`StoreError::Io`] if
    /// a tree cannot be read.
    pub fn diff(&self, name: &Name, against: Option<&Name>, image: &[PathBuf]) -> Result<Vec<Change>, StoreError> {
        let (record, _pinned, _mounted) = self.pin(name, |record| record.needs().collect())?;
        let old = against.map(|against| snapshot::find(&record, against)).transpose()?.map_or(&[][..], |old| &old.layers);
        let new: Vec<_> = record.lower.iter().copied().chain([record.upper]).collect();
        let shared = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let own = |layers: &[LayerId]| layers.iter().map(|layer| Tree::open(&self.tree(*layer))).collect::<Result<Vec<_>, _>>();
        let mut common = image.iter().map(|path| Tree::open(path)).collect::<Result<Vec<_>, _>>()?;
        common.extend(own(&new[..shared])?);
        compare(Stacks { common, old: own(&old[shared..])?, new: own(&new[shared..])? })
    }
}
