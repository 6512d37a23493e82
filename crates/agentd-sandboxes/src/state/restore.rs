//! A sandbox becomes what it was.

use super::{State, snapshot};
use crate::{error::StateError, layer::Draft, name::Name, record::Record};

impl State {
    /// Makes a sandbox what it was when a snapshot was made of it. What it has changed since is lost, but for what other snapshots
    /// have. Nobody may have it mounted.
    pub fn restore(&self, name: &Name, snapshot: &Name) -> Result<Record, StateError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        record.sealed = snapshot::find(&record, snapshot)?.layers.clone();
        let staging = self.stage(&lock)?;
        record.top = Draft::make_over(&staging, self.highest(&record.sealed).as_deref())?.adopt(&self.layers(), &lock)?;
        self.flush_layers()?;
        self.replace(&record, &lock)?;
        Ok(record)
    }
}
