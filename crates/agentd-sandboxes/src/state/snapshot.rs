//! Snapshots are made and dropped.

use super::{How, State};
use crate::{
    error::StateError,
    name::Name,
    record::{Record, Snapshot, now},
};

impl State {
    /// Saves what a sandbox is now under a name. It does not wait until what is in the layer is on the disk.
    ///
    /// # Errors
    /// [`StateError::SnapshotTaken`] if it has a snapshot of that name, [`StateError::Changed`] if another process gave it another top
    /// meanwhile, [`StateError::Full`] if its disk has no room for what this needs.
    pub fn snapshot(&self, name: &Name, snapshot: &Name, how: How) -> Result<Record, StateError> {
        self.save(name, snapshot, how, refuse_taken).map_err(|error| self.told(name, error))
    }

    /// The same instead of a snapshot of that name, if there is one, which is there until the new one is.
    ///
    /// # Errors
    /// [`StateError::Changed`] as above.
    pub fn snapshot_anew(&self, name: &Name, snapshot: &Name, how: How) -> Result<Record, StateError> {
        self.save(name, snapshot, how, |_, _| Ok(())).map_err(|error| self.told(name, error))
    }

    fn save(
        &self,
        name: &Name,
        snapshot: &Name,
        how: How,
        check: impl Fn(&Record, &Name) -> Result<(), StateError>,
    ) -> Result<Record, StateError> {
        check(&self.record(name)?, snapshot)?;
        let mut prepared = self.prepare(name, how)?;
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        check(&record, snapshot)?;
        let layers = self.seal(&mut record, &mut prepared, &lock)?;
        self.flush_layers()?;
        record.snapshots.insert(snapshot.clone(), Snapshot { layers, made: now() });
        self.replace(&record, &lock)?;
        Ok(record)
    }

    /// Forgets a snapshot. The layers that only it had are there until [`State::collect`].
    pub fn drop_snapshot(&self, name: &Name, snapshot: &Name) -> Result<Record, StateError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        find(&record, snapshot)?;
        record.snapshots.remove(snapshot);
        self.replace(&record, &lock)?;
        Ok(record)
    }
}

/// The snapshot of that name.
pub(super) fn find<'a>(record: &'a Record, snapshot: &Name) -> Result<&'a Snapshot, StateError> {
    record.snapshots.get(snapshot).ok_or_else(|| StateError::NoSnapshot {
        name: record.name.clone(),
        snapshot: snapshot.clone(),
        known: record.snapshots.keys().map(ToString::to_string).collect(),
    })
}

fn refuse_taken(record: &Record, snapshot: &Name) -> Result<(), StateError> {
    if record.snapshots.contains_key(snapshot) {
        return Err(StateError::SnapshotTaken { name: record.name.clone(), snapshot: snapshot.clone() });
    }
    Ok(())
}
