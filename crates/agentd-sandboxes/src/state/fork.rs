//! Sandboxes that begin as another one is, or was.

use super::{How, State, snapshot, volumes::size};
use crate::{
    error::StateError,
    layer::{Draft, Home},
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::{Record, Snapshot},
};
use agentd_disk::{Lock, Staging};
use std::path::Path;

/// What of a sandbox is forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of<'a> {
    /// What it is now.
    Now(How),
    /// What it was when this snapshot was made.
    Snapshot(&'a Name),
}

impl State {
    /// Makes sandboxes that begin as `name` is or was; they share its layers and each has a top of its own. All of them appear, or none,
    /// whenever this process is killed or the power goes. What may be seen after a kill, beside nothing and everything, is that the
    /// top of `name` is sealed (which changes nothing of what it shows) and no new sandbox is there.
    ///
    /// It does not wait until what was changed in `name` is on the disk. What they begin as is the snapshot [`Name::created`] of each.
    ///
    /// # Errors
    /// [`StateError::Taken`] if there is a sandbox of a name, or a name comes twice; [`StateError::TooDeep`] after too many forks of forks with
    /// a limit.
    pub fn fork(&self, name: &Name, of: Of<'_>, new: &[Name]) -> Result<Vec<Record>, StateError> {
        self.are_free(new)?;
        let forked = match of {
            Of::Snapshot(snapshot) => self.fork_snapshot(name, snapshot, new),
            Of::Now(how) => self.fork_now(name, how, new),
        };
        forked.map_err(|error| self.told(name, error))
    }

    fn fork_snapshot(&self, name: &Name, snapshot: &Name, new: &[Name]) -> Result<Vec<Record>, StateError> {
        let layers = snapshot::find(&self.record(name)?, snapshot)?.layers.clone();
        let (record, staging, _mounted) = self.pin(name, |_| layers.clone())?;
        let volumes = self.volumes_for(&record, &layers, new, &staging)?;
        let lock = self.lock()?;
        let record = self.load(name)?;
        if snapshot::find(&record, snapshot)?.layers != layers {
            return Err(StateError::Changed { name: name.clone() });
        }
        let below = self.highest(&layers);
        let origin = Origin { record, layers, parent: format!("{name}@{snapshot}"), volumes };
        self.multiply(&origin, below.as_deref(), new, &staging, &lock)
    }

    fn fork_now(&self, name: &Name, how: How, new: &[Name]) -> Result<Vec<Record>, StateError> {
        let mut prepared = self.prepare(name, how)?;
        let record = self.record(name)?;
        let stack: Vec<_> = record.sealed.iter().copied().chain([record.top]).collect();
        let volumes = self.volumes_for(&record, &stack, new, prepared.staging())?;
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        // Before anything is changed: who is refused has changed nothing.
        self.are_free(new)?;
        let old_top = record.top;
        let below = self.tree(old_top);
        let layers = self.seal(&mut record, &mut prepared, &lock)?;
        if record.top != old_top {
            self.flush_layers()?;
            // First: what is sealed for the new sandboxes must be the top of none.
            self.replace(&record, &lock)?;
        }
        let origin = Origin { record, layers, parent: name.to_string(), volumes };
        self.multiply(&origin, Some(&below), new, prepared.staging(), &lock)
    }

    /// A volume for each new sandbox, over layers of `stack`, if there is to be a limit.
    fn volumes_for(
        &self,
        record: &Record,
        stack: &[LayerId],
        new: &[Name],
        staging: &Staging,
    ) -> Result<Vec<(Home, Mounted)>, StateError> {
        let Some(bytes) = size(&record.about) else { return Ok(Vec::new()) };
        self.is_shallow(record, stack)?;
        new.iter().map(|_| self.make_volume(bytes, staging)).collect()
    }

    fn multiply(
        &self,
        origin: &Origin,
        below: Option<&Path>,
        new: &[Name],
        staging: &Staging,
        lock: &Lock,
    ) -> Result<Vec<Record>, StateError> {
        self.are_free(new)?;
        let mut records = Vec::new();
        for (at, name) in new.iter().enumerate() {
            let home = origin.volumes.get(at).map(|(home, _)| home);
            let top = Draft::make_over(staging, home, below)?.adopt(&self.layers(), lock)?;
            let (about, parent) = (origin.record.about.clone(), Some(origin.parent.clone()));
            let mut record = Record::new(name, about, origin.layers.clone(), top, parent);
            record.snapshots.insert(Name::created(), Snapshot { layers: origin.layers.clone(), made: record.made });
            records.push(record);
        }
        if !records.is_empty() {
            self.appear(&records, staging, lock)?;
        }
        Ok(records)
    }

    fn are_free(&self, new: &[Name]) -> Result<(), StateError> {
        for (at, name) in new.iter().enumerate() {
            self.is_free(name)?;
            if new[..at].contains(name) {
                return Err(StateError::Taken { name: name.clone() });
            }
        }
        Ok(())
    }
}

/// What new sandboxes begin as.
struct Origin {
    record: Record,
    layers: Vec<LayerId>,
    parent: String,
    /// A volume for each, if there is to be a limit.
    volumes: Vec<(Home, Mounted)>,
}
