//! Reduces the depth of a stack: overlayfs supports at most 500 layers, and each layer makes name lookups slower.

use super::{directory::SandboxStore, run};
use crate::{
    error::StoreError,
    layer::{Draft, VolumeDir},
    layer_id::LayerId,
    name::Name,
    record::Record,
    tree::{Tree, merge},
};
use agentd_disk::{Lock, Staging};
use std::collections::HashMap;

/// Maximum number of committed layers of a sandbox before some of them are merged.
const MAX_COMMITTED_LAYERS: usize = 12;

/// The result of [`SandboxStore::squash`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Squashed {
    /// Number of layers that were merged into one; 0 if no merge was necessary or possible.
    pub layers: usize,
}

impl SandboxStore {
    /// Merges consecutive committed layers of a sandbox that has more than 12 of them. The merged sequence of layers, called a
    /// run, lies in one volume. Each snapshot and each other sandbox contains either all layers of the run or none of them. The
    /// longest such run is merged. Files are linked, not copied, and the contents of sandboxes and snapshots stay the same. A
    /// mounted sandbox continues to use its old layers, which are protected by a hold ([`SandboxStore::hold`]).
    ///
    /// If the process is killed, some records may name the merged layer and others the original layers; both are valid.
    ///
    /// # Errors
    /// [`StoreError`] if a record or a layer cannot be read or written. A full volume is not an error: nothing is merged.
    pub fn squash(&self, name: &Name) -> Result<Squashed, StoreError> {
        let lock = self.lock()?;
        let record = self.load(name)?;
        if record.lower.len() <= MAX_COMMITTED_LAYERS {
            return Ok(Squashed::default());
        }
        let records = self.load_all(&lock)?;
        let volumes = record.lower.iter().map(|layer| Ok((*layer, self.volume_of(*layer)?)));
        let volumes = volumes.collect::<Result<HashMap<_, _>, StoreError>>()?;
        let stacks = records.iter().flat_map(Record::stacks).collect::<Vec<_>>();
        let run = run::longest(&record.lower, &stacks, |low, high| volumes.get(&low) == volumes.get(&high));
        if run.is_empty() {
            return Ok(Squashed::default());
        }
        let staging = self.stage(&lock)?;
        run.iter().try_for_each(|layer| staging.pin(*layer, &lock))?;
        drop(lock);
        let _mounted = self.mount(run.iter().copied())?;
        let volume_dir = self.volume_dir_of(run[0])?;
        let merged = match self.merge(&run, &staging, volume_dir.as_ref()) {
            // The volume has no space for copies of the directories. The stack stays as it is, and a later call tries again.
            Err(error) if volume_dir.is_some() && self.is_full(&error) => return Ok(Squashed::default()),
            merged => merged?,
        };
        self.replace_run(&run, merged, &self.lock()?)
    }

    /// Merges the layers of `run` into a new layer, without the lock.
    fn merge(&self, run: &[LayerId], staging: &Staging, volume_dir: Option<&VolumeDir>) -> Result<Draft, StoreError> {
        let draft = Draft::make(staging, volume_dir)?;
        let trees = run.iter().map(|layer| Tree::open(&self.tree(*layer))).collect::<Result<Vec<_>, _>>()?;
        merge(&trees, &draft.tree()?)?;
        // Flushed now, because the original layers may be removed once the merged layer exists.
        agentd_disk::flush_all(&draft.tree_path())?;
        Ok(draft)
    }

    /// Replaces the run with the merged layer in all records.
    fn replace_run(&self, run: &[LayerId], merged: Draft, lock: &Lock) -> Result<Squashed, StoreError> {
        let records = self.load_all(lock)?;
        let stacks: Vec<_> = records.iter().flat_map(Record::stacks).collect();
        if !run::is_whole(run, &stacks) || !stacks.iter().any(|stack| stack.contains(&run[0])) {
            // Another process forked, restored or removed a sandbox in the meantime. A later call tries again.
            return Ok(Squashed::default());
        }
        let merged = merged.adopt(&self.layers(), lock)?;
        self.flush_layers()?;
        for mut record in records {
            let mut changed = false;
            for stack in record.stacks_mut() {
                changed |= run::replace(run, merged, stack);
            }
            if changed {
                self.replace(&record, lock)?;
            }
        }
        Ok(Squashed { layers: run.len() })
    }
}
