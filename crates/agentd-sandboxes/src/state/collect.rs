//! Takes away the layers that nothing leads to. What is needed is found anew each time: there is no counter that could be wrong.

use super::State;
use crate::{error::StateError, layer, layer_id::LayerId, record::Record};
use agentd_disk::{Staging, entries};
use std::collections::HashSet;

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: usize,
}

impl State {
    /// Removes the layers that no sandbox, no snapshot and no hold needs, and what the dead left. Others may work meanwhile: under the
    /// lock layers are only moved away, and removed after.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if a record cannot be read: what it needs is not known, so nothing is removed.
    pub fn collect(&self) -> Result<Collected, StateError> {
        self.abandoned()?.into_iter().try_for_each(Staging::remove)?;
        let lock = self.lock()?;
        let records = self.load_all(&lock)?;
        let mut needed: HashSet<LayerId> = records.iter().flat_map(Record::needs).collect();
        needed.extend(self.pinned(&lock)?);
        let bin = self.stage(&lock)?;
        let mut collected = Collected::default();
        for path in entries(&self.layers())? {
            if LayerId::of(&path).is_some_and(|layer| !needed.contains(&layer)) {
                layer::retire(&path, &bin, &lock)?;
                collected.layers += 1;
            }
        }
        drop(lock);
        bin.remove()?;
        Ok(collected)
    }
}
