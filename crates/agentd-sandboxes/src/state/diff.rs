//! What a sandbox changed.

use super::{State, snapshot};
use crate::{
    error::StateError,
    layer_id::LayerId,
    name::Name,
    tree::{Change, Stacks, Tree, compare},
};
use std::path::PathBuf;

impl State {
    /// What a sandbox changed since a snapshot, or of its image: the paths, sorted. `image` has the trees of the image's layers, the
    /// lowest first, which the caller keeps. Of a directory that was removed or replaced, what was below it is not told apart.
    pub fn diff(&self, name: &Name, against: Option<&Name>, image: &[PathBuf]) -> Result<Vec<Change>, StateError> {
        let (record, _pinned, _mounted) = self.pin(name, |record| record.needs().collect())?;
        let old = against.map(|against| snapshot::find(&record, against)).transpose()?.map_or(&[][..], |old| &old.layers);
        let new: Vec<_> = record.sealed.iter().copied().chain([record.top]).collect();
        let shared = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let own = |layers: &[LayerId]| layers.iter().map(|layer| Tree::open(&self.tree(*layer))).collect::<Result<Vec<_>, _>>();
        let mut common = image.iter().map(|path| Tree::open(path)).collect::<Result<Vec<_>, _>>()?;
        common.extend(own(&new[..shared])?);
        compare(Stacks { common, old: own(&old[shared..])?, new: own(&new[shared..])? })
    }
}
