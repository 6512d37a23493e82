//! Creates and removes snapshots.

use super::{commit::SaveMode, directory::SandboxStore};
use crate::{
    error::StoreError,
    name::Name,
    record::{Record, Snapshot, now},
};

impl SandboxStore {
    /// Saves the current state of a sandbox as a snapshot. The call does not wait until the contents of the layer are on disk.
    ///
    /// # Errors
    /// [`StoreError::SnapshotTaken`] if the snapshot exists, [`StoreError::Changed`] if another process replaced the upper layer
    /// in the meantime, [`StoreError::Full`] if the disk of the sandbox is full.
    pub fn snapshot(&self, name: &Name, snapshot: &Name, how: SaveMode) -> Result<Record, StoreError> {
        self.save(name, snapshot, how, refuse_taken).map_err(|error| self.or_full(name, error))
    }

    /// Like [`SandboxStore::snapshot`], but replaces an existing snapshot of that name. The old snapshot is kept until the new
    /// one is complete.
    ///
    /// # Errors
    /// [`StoreError::Changed`] and [`StoreError::Full`], as for [`SandboxStore::snapshot`].
    pub fn replace_snapshot(&self, name: &Name, snapshot: &Name, how: SaveMode) -> Result<Record, StoreError> {
        self.save(name, snapshot, how, |_, _| Ok(())).map_err(|error| self.or_full(name, error))
    }

    fn save(
        &self,
        name: &Name,
        snapshot: &Name,
        how: SaveMode,
        check: impl Fn(&Record, &Name) -> Result<(), StoreError>,
    ) -> Result<Record, StoreError> {
        check(&self.record(name)?, snapshot)?;
        let mut prepared = self.prepare(name, how)?;
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        check(&record, snapshot)?;
        let layers = self.commit(&mut record, &mut prepared, &lock)?;
        self.flush_layers()?;
        record.snapshots.insert(snapshot.clone(), Snapshot { layers, created: now() });
        self.replace(&record, &lock)?;
        Ok(record)
    }

    /// Removes a snapshot. Layers that only this snapshot needed remain until [`SandboxStore::collect`].
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] if there is no such snapshot.
    pub fn drop_snapshot(&self, name: &Name, snapshot: &Name) -> Result<Record, StoreError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        find(&record, snapshot)?;
        record.snapshots.remove(snapshot);
        self.replace(&record, &lock)?;
        Ok(record)
    }
}

/// Returns the snapshot of that name.
pub(super) fn find<'a>(record: &'a Record, snapshot: &Name) -> Result<&'a Snapshot, StoreError> {
    record.snapshots.get(snapshot).ok_or_else(|| StoreError::NoSnapshot {
        name: record.name.clone(),
        snapshot: snapshot.clone(),
        known: record.snapshots.keys().map(ToString::to_string).collect(),
    })
}

fn refuse_taken(record: &Record, snapshot: &Name) -> Result<(), StoreError> {
    if record.snapshots.contains_key(snapshot) {
        return Err(StoreError::SnapshotTaken { name: record.name.clone(), snapshot: snapshot.clone() });
    }
    Ok(())
}
