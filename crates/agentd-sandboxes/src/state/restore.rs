//! Restores a sandbox from a snapshot.

use super::{directory::SandboxStore, snapshot};
use crate::{error::StoreError, layer::Draft, layer_id::LayerId, name::Name, record::Record};
use agentd_log::LogFailure as _;

impl SandboxStore {
    /// Restores the state of a sandbox that a snapshot recorded. Later changes are lost, unless another snapshot contains them.
    /// The sandbox must not be mounted.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] if there is no such snapshot, [`StoreError::Gone`] if one of its layers is missing,
    /// [`StoreError::Changed`] if another process changed the sandbox in the meantime.
    pub fn restore(&self, name: &Name, snapshot: &Name) -> Result<Record, StoreError> {
        let (record, was_full) = self.go_back(name, snapshot).map_err(|error| self.or_full(name, error))?;
        if was_full {
            // Unused layers are removed now, before a command can use up the space that the next restore needs. If the removal
            // fails, a later collection tries again.
            self.collect().or_warn("remove unused layers after restoring", name);
        }
        Ok(record)
    }

    /// Restores the sandbox. Also returns true if its disk was full, so that unused layers should be removed now.
    fn go_back(&self, name: &Name, snapshot: &Name) -> Result<(Record, bool), StoreError> {
        let layers = snapshot::find(&self.record(name)?, snapshot)?.layers.clone();
        let (before, staging, _mounted) =
            self.pin(name, |record| layers.iter().copied().chain(limited(self, record)).collect())?;
        let volume_dir = self.volume_dir_of(before.upper)?;
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        if snapshot::find(&record, snapshot)?.layers != layers || self.volume_dir_of(record.upper)? != volume_dir {
            return Err(StoreError::Changed { name: name.clone() });
        }
        record.lower = layers;
        let below = self.highest(&record.lower);
        let make = || Draft::make_over(&staging, volume_dir.as_ref(), below.as_deref());
        let (upper, was_full) = match (make(), &volume_dir) {
            // A restore must work on a full disk, because it is a way to free space.
            (Err(error), Some(volume_dir)) if self.is_full(&error) => {
                volume_dir.give_up_reserve()?;
                (make()?, true)
            }
            (upper, _) => (upper?, false),
        };
        record.upper = upper.adopt(&self.layers(), &lock)?;
        self.flush_layers()?;
        self.replace(&record, &lock)?;
        Ok((record, was_full))
    }
}

/// Returns the upper layer if it is in a volume, because the new upper layer is created there. Without a volume the old upper
/// layer is not needed and may be missing. If the link cannot be read, the caller's `volume_dir_of` reports that.
fn limited(state: &SandboxStore, record: &Record) -> Option<LayerId> {
    state.volume_of(record.upper).ok()?.map(|_| record.upper)
}
