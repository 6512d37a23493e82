//! Takes away the layers that nothing leads to. What is needed is found anew each time: there is no counter that could be wrong.

use super::State;
use crate::{
    error::{Doing as _, StateError},
    layer,
    layer_id::LayerId,
    record::Record,
    volume_id::VolumeId,
};
use agentd_disk::{Staging, entries};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::PathBuf,
};

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: usize,
    /// Volumes, with all that was in them.
    pub volumes: usize,
}

impl State {
    /// Removes the layers that no sandbox, no snapshot and no hold needs, and what the dead left. Others may work meanwhile: under the
    /// lock layers are only moved away, and removed after.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if a record cannot be read: what it needs is not known, so nothing is removed.
    pub fn collect(&self) -> Result<Collected, StateError> {
        self.abandoned()?.into_iter().try_for_each(Staging::remove)?;
        let mounted = self.mounts.as_ref().map(|mounts| mounts.mounted()).unwrap_or_default();
        let lock = self.lock()?;
        // Before the pins are read: what is made in a volume without the lock is pinned first.
        let mut strays = BTreeMap::new();
        for volume in mounted {
            strays.insert(volume, self.strays(volume)?);
        }
        let records = self.load_all(&lock)?;
        let mut needed: HashSet<LayerId> = records.iter().flat_map(Record::needs).collect();
        needed.extend(self.pinned(&lock)?);
        let pinned = agentd_disk::pinned(&self.staging(), &lock)?;
        let bin = self.stage(&lock)?;
        let mut collected = Collected::default();
        for path in entries(&self.layers())? {
            let Some(id) = LayerId::of(&path).filter(|id| !needed.contains(id)) else { continue };
            if let Some(volume) = self.volume_of(id)? {
                strays.entry(volume).or_default().push(self.inside(volume).join(id.to_string()));
            }
            layer::retire(&path, &bin, &lock)?;
            collected.layers += 1;
        }
        let linked = self.linked()?;
        for path in entries(&self.volumes())? {
            let Some(volume) = VolumeId::of(&path) else { continue };
            if linked.contains(&volume) || pinned.contains(&volume.to_string()) || !self.release(volume) {
                continue;
            }
            fs::rename(&path, bin.path().join(volume.to_string())).doing("move away", path)?;
            collected.volumes += 1;
        }
        strays.values_mut().for_each(|strays| strays.retain(|path| !pinned.iter().any(|pin| path.ends_with(pin))));
        drop(lock);
        bin.remove()?;
        strays.retain(|volume, strays| linked.contains(volume) && !strays.is_empty());
        self.clear(strays);
        self.keep_reserves(&linked).map(|()| collected)
    }

    /// In what is mounted, now that there may be room again. Not where a sandbox is or is just being started, for which it may have been given up:
    /// it is made anew there before that runs.
    fn keep_reserves(&self, linked: &BTreeSet<VolumeId>) -> Result<(), StateError> {
        for volume in self.mounts.as_ref().map(|mounts| mounts.unused()).unwrap_or_default().intersection(linked).copied() {
            let Ok(_mounted) = self.mount_all([volume]) else { continue };
            // Otherwise there is still none.
            self.home(volume).keep_reserve(&self.lock()?).ok();
        }
        Ok(())
    }

    fn release(&self, volume: VolumeId) -> bool {
        self.mounts.as_ref().is_none_or(|mounts| mounts.release(volume))
    }

    /// Removes what nothing leads to in volumes that something leads to. What cannot be removed now is found the next time that the volume is
    /// mounted.
    fn clear(&self, strays: BTreeMap<VolumeId, Vec<PathBuf>>) {
        for (volume, paths) in strays {
            let Ok(_mounted) = self.mount_all([volume]) else { continue };
            paths.iter().for_each(|path| {
                layer::remove(path).ok();
            });
        }
    }
}
