//! Holds protect layers from collection while they are mounted or read. A hold is a staging directory that contains only pins,
//! which count until it is dropped or its process dies.

use super::directory::SandboxStore;
use crate::{
    error::StoreError,
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::{Record, exists},
};
use agentd_disk::Staging;

/// Protects the layers of a sandbox from collection, until it is dropped or its process dies. Keeps their volumes mounted.
#[derive(Debug)]
pub struct Hold {
    #[expect(dead_code, reason = "owned only for its pins, which are dropped with the value")]
    pins: Staging,
    #[expect(dead_code, reason = "owned only to keep the volumes mounted")]
    mounted: Mounted,
}

impl SandboxStore {
    /// Returns the record of a sandbox and protects the layers of its current state from collection, even if the sandbox is
    /// restored, squashed or removed. Layers that only its snapshots need are not protected. A process must hold a sandbox before
    /// it mounts the sandbox.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if a layer is missing.
    pub fn hold(&self, name: &Name) -> Result<(Record, Hold), StoreError> {
        let (record, pins, mounted) = self.pin(name, |record| record.lower.iter().copied().chain([record.upper]).collect())?;
        Ok((record, Hold { pins, mounted }))
    }

    /// Pins some layers of a sandbox and mounts their volumes. Returns the record, the pins and the mounts.
    pub(super) fn pin(
        &self,
        name: &Name,
        layers: impl FnOnce(&Record) -> Vec<LayerId>,
    ) -> Result<(Record, Staging, Mounted), StoreError> {
        let lock = self.lock()?;
        let record = self.load(name)?;
        let staging = self.stage(&lock)?;
        let layers = layers(&record);
        for layer in &layers {
            if !exists(&self.layer(*layer))? {
                return Err(StoreError::Gone { name: record.name, layer: *layer });
            }
            // Checked under the lock: a layer that exists now is kept.
            staging.pin(layer, &lock)?;
        }
        drop(lock);
        let mounted = self.mount(layers)?;
        Ok((record, staging, mounted))
    }
}
