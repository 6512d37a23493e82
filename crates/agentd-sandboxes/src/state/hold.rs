//! Holds: what keeps layers from being collected while they are mounted or read. A hold is a staging directory in which nothing is made:
//! its pins count until it is dropped or its process dies.

use super::State;
use crate::{
    error::StateError,
    name::Name,
    record::{Record, exists},
    staging::Staging,
};

/// Keeps the layers of a sandbox, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "held, not used: its pins go with it")] Staging);

impl State {
    /// Keeps the layers that `record` names for the sandbox as it is now (not those of its snapshots alone) from being collected, also
    /// when the sandbox is restored, squashed or removed. Who mounts a sandbox holds it first.
    ///
    /// # Errors
    /// [`StateError::Gone`] if the record is of before a change, and a layer was collected since.
    pub fn hold(&self, record: &Record) -> Result<Hold, StateError> {
        let lock = self.lock()?;
        let staging = self.stage(&lock)?;
        for layer in record.sealed.iter().chain([&record.top]) {
            if !exists(&self.layer(*layer))? {
                return Err(StateError::Gone { name: record.name.clone(), layer: *layer });
            }
            // Under the lock: what is there now stays.
            staging.pin(*layer, &lock)?;
        }
        Ok(Hold(staging))
    }

    /// A sandbox, all whose layers are pinned, those of its snapshots too: for what is done without the lock.
    pub(super) fn pin(&self, name: &Name) -> Result<(Record, Staging), StateError> {
        let lock = self.lock()?;
        let record = self.load(name)?;
        let staging = self.stage(&lock)?;
        record.needs().try_for_each(|layer| staging.pin(layer, &lock))?;
        Ok((record, staging))
    }
}
