//! Creates sandboxes from the current state or a snapshot of another sandbox.

use super::{commit::SaveMode, directory::SandboxStore, snapshot, volumes::size};
use crate::{
    error::StoreError,
    layer::{Draft, VolumeDir},
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::{Record, Snapshot},
};
use agentd_disk::{Lock, Staging};
use std::{collections::BTreeMap, path::Path};

/// The state of a sandbox that is forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForkSource<'a> {
    /// The current state.
    Now(SaveMode),
    /// The state that this snapshot recorded.
    Snapshot(&'a Name),
}

impl SandboxStore {
    /// Creates sandboxes from the current state or a snapshot of `name`. The new sandboxes share its layers, and each has its own
    /// upper layer. Either all of them appear or none, even if this process is killed or the power fails. A kill can leave one
    /// intermediate state: the upper layer of `name` is committed, which changes none of its contents, and no new sandbox exists.
    ///
    /// The call does not wait until the changes in `name` are on disk. The initial state of each new sandbox is recorded as its
    /// snapshot [`Name::created`]. The new sandboxes also get the snapshots of `name` (for a fork of a snapshot: only that one),
    /// so that changes since a snapshot can be listed and undone.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if a name is in use or occurs twice in `new`; [`StoreError::TooDeep`] if the stack has layers in too
    /// many volumes.
    pub fn fork(&self, name: &Name, of: ForkSource<'_>, new: &[Name]) -> Result<Vec<Record>, StoreError> {
        self.are_free(new)?;
        let forked = match of {
            ForkSource::Snapshot(snapshot) => self.fork_snapshot(name, snapshot, new),
            ForkSource::Now(how) => self.fork_now(name, how, new),
        };
        forked.map_err(|error| self.or_full(name, error))
    }

    fn fork_snapshot(&self, name: &Name, snapshot: &Name, new: &[Name]) -> Result<Vec<Record>, StoreError> {
        let layers = snapshot::find(&self.record(name)?, snapshot)?.layers.clone();
        let (record, staging, _mounted) = self.pin(name, |_| layers.clone())?;
        let volumes = self.volumes_for(&record, &layers, new, &staging)?;
        let lock = self.lock()?;
        let record = self.load(name)?;
        if snapshot::find(&record, snapshot)?.layers != layers {
            return Err(StoreError::Changed { name: name.clone() });
        }
        let below = self.highest(&layers);
        let snapshots = BTreeMap::from([(snapshot.clone(), snapshot::find(&record, snapshot)?.clone())]);
        let origin = Origin { record, layers, snapshots, parent: format!("{name}@{snapshot}"), volumes };
        self.fork_committed(&origin, below.as_deref(), new, &staging, &lock)
    }

    fn fork_now(&self, name: &Name, how: SaveMode, new: &[Name]) -> Result<Vec<Record>, StoreError> {
        let mut prepared = self.prepare(name, how)?;
        let record = self.record(name)?;
        let stack: Vec<_> = record.lower.iter().copied().chain([record.upper]).collect();
        let volumes = self.volumes_for(&record, &stack, new, prepared.staging())?;
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        // The names are checked before any change, so that a rejected call has changed nothing.
        self.are_free(new)?;
        let old_top = record.upper;
        let below = self.tree(old_top);
        let layers = self.commit(&mut record, &mut prepared, &lock)?;
        if record.upper != old_top {
            self.flush_layers()?;
            // First, because the layer that is committed for the new sandboxes must no longer be the upper layer of any sandbox.
            self.replace(&record, &lock)?;
        }
        let snapshots = record.snapshots.clone();
        let origin = Origin { record, layers, snapshots, parent: name.to_string(), volumes };
        self.fork_committed(&origin, Some(&below), new, prepared.staging(), &lock)
    }

    /// Creates a volume for each new sandbox with layers above `stack`, if `record` has a disk limit.
    fn volumes_for(
        &self,
        record: &Record,
        stack: &[LayerId],
        new: &[Name],
        staging: &Staging,
    ) -> Result<Vec<(VolumeDir, Mounted)>, StoreError> {
        let Some(bytes) = size(&record.about) else { return Ok(Vec::new()) };
        self.check_volume_count(record, stack)?;
        new.iter().map(|_| self.make_volume(bytes, staging)).collect()
    }

    fn fork_committed(
        &self,
        origin: &Origin,
        below: Option<&Path>,
        new: &[Name],
        staging: &Staging,
        lock: &Lock,
    ) -> Result<Vec<Record>, StoreError> {
        self.are_free(new)?;
        let mut records = Vec::new();
        for (at, name) in new.iter().enumerate() {
            let volume_dir = origin.volumes.get(at).map(|(volume_dir, _)| volume_dir);
            let upper = Draft::make_over(staging, volume_dir, below)?.adopt(&self.layers(), lock)?;
            let (about, parent) = (origin.record.about.clone(), Some(origin.parent.clone()));
            let mut record = Record::new(name, about, origin.layers.clone(), upper, parent);
            record.snapshots.clone_from(&origin.snapshots);
            record.snapshots.insert(Name::created(), Snapshot { layers: origin.layers.clone(), created: record.created });
            records.push(record);
        }
        if !records.is_empty() {
            self.create_together(&records, staging, lock)?;
        }
        Ok(records)
    }

    fn are_free(&self, new: &[Name]) -> Result<(), StoreError> {
        for (at, name) in new.iter().enumerate() {
            self.is_free(name)?;
            if new[..at].contains(name) {
                return Err(StoreError::Taken { name: name.clone() });
            }
        }
        Ok(())
    }
}

/// The common initial state of new sandboxes.
struct Origin {
    record: Record,
    layers: Vec<LayerId>,
    /// Snapshots of the origin that each new sandbox gets. The lock has been held since they were read, so their layers still
    /// exist.
    snapshots: BTreeMap<Name, Snapshot>,
    parent: String,
    /// One volume for each new sandbox, if there is a disk limit.
    volumes: Vec<(VolumeDir, Mounted)>,
}
