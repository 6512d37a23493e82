//! A sandbox becomes what it was.

use super::{State, snapshot};
use crate::{error::StateError, layer::Draft, layer_id::LayerId, name::Name, record::Record};

impl State {
    /// Makes a sandbox what it was when a snapshot was made of it. What it has changed since is lost, but for what other snapshots
    /// have. Nobody may have it mounted.
    ///
    /// # Errors
    /// [`StateError::NoSnapshot`], [`StateError::Gone`] if a layer of it is lost, [`StateError::Changed`] if another process changed the
    /// sandbox meanwhile.
    pub fn restore(&self, name: &Name, snapshot: &Name) -> Result<Record, StateError> {
        let (record, was_full) = self.go_back(name, snapshot).map_err(|error| self.told(name, error))?;
        if was_full {
            // Before anything runs that could use up again what the next way back needs. What cannot be removed now is removed later.
            self.collect().ok();
        }
        Ok(record)
    }

    /// Gives whether its disk is full until what it changed is removed.
    fn go_back(&self, name: &Name, snapshot: &Name) -> Result<(Record, bool), StateError> {
        let layers = snapshot::find(&self.record(name)?, snapshot)?.layers.clone();
        let (before, staging, _mounted) =
            self.pin(name, |record| layers.iter().copied().chain(limited(self, record)).collect())?;
        let home = self.home_of(before.top)?;
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        if snapshot::find(&record, snapshot)?.layers != layers || self.home_of(record.top)? != home {
            return Err(StateError::Changed { name: name.clone() });
        }
        record.sealed = layers;
        let below = self.highest(&record.sealed);
        let make = || Draft::make_over(&staging, home.as_ref(), below.as_deref());
        let (top, was_full) = match (make(), &home) {
            // To go back is how a full disk is freed.
            (Err(error), Some(home)) if self.is_full(&error) => {
                home.give_up_reserve()?;
                (make()?, true)
            }
            (top, _) => (top?, false),
        };
        record.top = top.adopt(&self.layers(), &lock)?;
        self.flush_layers()?;
        self.replace(&record, &lock)?;
        Ok((record, was_full))
    }
}

/// The top of a sandbox with a limit: a new one is made where it is. That of another may be lost.
fn limited(state: &State, record: &Record) -> Option<LayerId> {
    state.volume_of(record.top).ok()?.map(|_| record.top)
}
