//! Holds: what keeps layers from being collected while they are mounted or read. A hold is a staging directory in which nothing is made:
//! its pins count until it is dropped or its process dies.

use super::State;
use crate::{
    error::StateError,
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::{Record, exists},
};
use agentd_disk::Staging;

/// Keeps the layers of a sandbox, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Hold {
    #[expect(dead_code, reason = "held, not used: its pins go with it")]
    pins: Staging,
    #[expect(dead_code, reason = "held, not used: volumes are mounted meanwhile")]
    mounted: Mounted,
}

impl State {
    /// The record of a sandbox, whose layers as it is now (not those of its snapshots alone) are kept from being collected from this
    /// moment on, also when the sandbox is restored, squashed or removed. Who mounts a sandbox holds it first.
    ///
    /// # Errors
    /// [`StateError::Gone`] if a layer is lost.
    pub fn hold(&self, name: &Name) -> Result<(Record, Hold), StateError> {
        let (record, pins, mounted) = self.pin(name, |record| record.sealed.iter().copied().chain([record.top]).collect())?;
        Ok((record, Hold { pins, mounted }))
    }

    /// A sandbox, some of whose layers are pinned, and the volumes mounted in which these are.
    pub(super) fn pin(
        &self,
        name: &Name,
        layers: impl FnOnce(&Record) -> Vec<LayerId>,
    ) -> Result<(Record, Staging, Mounted), StateError> {
        let lock = self.lock()?;
        let record = self.load(name)?;
        let staging = self.stage(&lock)?;
        let layers = layers(&record);
        for layer in &layers {
            if !exists(&self.layer(*layer))? {
                return Err(StateError::Gone { name: record.name, layer: *layer });
            }
            // Under the lock: what is there now stays.
            staging.pin(layer, &lock)?;
        }
        drop(lock);
        let mounted = self.mount(layers)?;
        Ok((record, staging, mounted))
    }
}
