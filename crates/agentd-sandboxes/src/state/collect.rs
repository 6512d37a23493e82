//! Garbage collection: removes the layers that nothing refers to. The needed layers are determined from the records each time,
//! because a reference counter could be wrong.

use super::directory::SandboxStore;
use crate::{error::StoreError, layer, layer_id::LayerId, record::Record, volume_id::VolumeId};
use agentd_disk::{FileContext as _, Staging, entries};
use agentd_log::LogFailure as _;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::PathBuf,
};

/// The result of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Number of layers removed.
    pub layers: usize,
    /// Number of volumes removed, with all their contents.
    pub volumes: usize,
}

impl SandboxStore {
    /// Removes the layers that no sandbox, snapshot or hold needs, and the staging directories of dead processes. The state
    /// remains usable during the collection: layers are only moved away under the lock, and deleted afterwards.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a record cannot be read. Its needs are unknown, so no layer is removed.
    pub fn collect(&self) -> Result<Collected, StoreError> {
        self.abandoned()?.into_iter().try_for_each(Staging::remove)?;
        let mounted = self.mounts.as_ref().map(|mounts| mounts.mounted()).unwrap_or_default();
        let lock = self.lock()?;
        // Directories are listed before the pins are read: a layer created in a volume without the lock is pinned before its
        // directory exists.
        let mut unreferenced = BTreeMap::new();
        for volume in mounted {
            unreferenced.insert(volume, self.unreferenced(volume)?);
        }
        let records = self.load_all(&lock)?;
        let mut needed: HashSet<LayerId> = records.iter().flat_map(Record::needs).collect();
        needed.extend(self.pinned(&lock)?);
        let pinned = agentd_disk::pinned(&self.staging(), &lock)?;
        let bin = self.stage(&lock)?;
        let mut collected = Collected::default();
        for path in entries(&self.layers())? {
            let Some(id) = LayerId::from_path(&path).filter(|id| !needed.contains(id)) else { continue };
            if let Some(volume) = self.volume_of(id)? {
                unreferenced.entry(volume).or_default().push(self.inside(volume).join(id.to_string()));
            }
            layer::retire(&path, &bin, &lock)?;
            collected.layers += 1;
        }
        let linked = self.linked()?;
        for path in entries(&self.volumes())? {
            let Some(volume) = VolumeId::from_path(&path) else { continue };
            if linked.contains(&volume) || pinned.contains(&volume.to_string()) || !self.release(volume) {
                continue;
            }
            fs::rename(&path, bin.path().join(volume.to_string())).during("move to staging", path)?;
            collected.volumes += 1;
        }
        unreferenced.values_mut().for_each(|paths| paths.retain(|path| !pinned.iter().any(|pin| path.ends_with(pin))));
        drop(lock);
        bin.remove()?;
        unreferenced.retain(|volume, paths| linked.contains(volume) && !paths.is_empty());
        self.clear(unreferenced);
        if collected != Collected::default() {
            tracing::debug!(collected.layers, collected.volumes, "unused layers removed");
        }
        self.keep_reserves(&linked).map(|()| collected)
    }

    /// Recreates the reserves of mounted volumes, which may have space again now. Volumes in use are skipped: a sandbox that is
    /// being started may have removed its reserve, and recreates the reserve before a command runs.
    fn keep_reserves(&self, linked: &BTreeSet<VolumeId>) -> Result<(), StoreError> {
        for volume in self.mounts.as_ref().map(|mounts| mounts.unused()).unwrap_or_default().intersection(linked).copied() {
            let Some(_mounted) = self.mount_all([volume]).or_warn("mount volume to reserve directories", volume) else {
                continue;
            };
            // If this fails, the volume still has no reserve, and a later call tries again.
            self.volume_dir(volume).keep_reserve(&self.lock()?).or_debug("reserve directories in volume", volume);
        }
        Ok(())
    }

    fn release(&self, volume: VolumeId) -> bool {
        self.mounts.as_ref().is_none_or(|mounts| mounts.release(volume))
    }

    /// Removes unreferenced directories from volumes that are still needed. If a removal fails, the next collection while the
    /// volume is mounted tries again.
    fn clear(&self, unreferenced: BTreeMap<VolumeId, Vec<PathBuf>>) {
        for (volume, paths) in unreferenced {
            let Some(_mounted) = self.mount_all([volume]).or_warn("mount volume to remove layers", volume) else { continue };
            for path in &paths {
                layer::remove(path).or_warn("remove unused layer", path);
            }
        }
    }
}
