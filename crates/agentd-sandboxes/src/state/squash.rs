//! Makes a deep stack less deep: overlayfs takes 500 layers at most, and each makes looking up a name slower.

use super::{State, run};
use crate::{
    error::StateError,
    layer::{Draft, Home},
    layer_id::LayerId,
    name::Name,
    record::Record,
    tree::{Tree, merge},
};
use agentd_disk::{Lock, Staging};
use std::collections::HashMap;

/// How many sealed layers a sandbox may have before they are merged.
const DEEPEST: usize = 12;

/// What was merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Squashed {
    /// How many layers became one; 0 if there was nothing to be done, or nothing that could be.
    pub layers: usize,
}

impl State {
    /// Merges sealed layers of a sandbox that has more than 12 of them: the longest run that every snapshot and every other sandbox
    /// has as a whole or not at all, in one volume. Files are linked, not copied. What a sandbox or snapshot shows stays the same. A sandbox that
    /// is mounted goes on with the layers that it has; whoever mounted it holds them ([`State::hold`]).
    ///
    /// After a kill some records name the merged layer and some those that it was made of; each is right.
    pub fn squash(&self, name: &Name) -> Result<Squashed, StateError> {
        let lock = self.lock()?;
        let record = self.load(name)?;
        if record.sealed.len() <= DEEPEST {
            return Ok(Squashed::default());
        }
        let records = self.load_all(&lock)?;
        let volumes = record.sealed.iter().map(|layer| Ok((*layer, self.volume_of(*layer)?)));
        let volumes = volumes.collect::<Result<HashMap<_, _>, StateError>>()?;
        let stacks = records.iter().flat_map(Record::stacks).collect::<Vec<_>>();
        let run = run::longest(&record.sealed, &stacks, |low, high| volumes.get(&low) == volumes.get(&high));
        if run.is_empty() {
            return Ok(Squashed::default());
        }
        let staging = self.stage(&lock)?;
        run.iter().try_for_each(|layer| staging.pin(*layer, &lock))?;
        drop(lock);
        let _mounted = self.mount(run.iter().copied())?;
        let home = self.home_of(run[0])?;
        let merged = match self.merge(&run, &staging, home.as_ref()) {
            // There is no room for as many directories again. The stack stays as it is; there will be another time.
            Err(error) if home.is_some() && self.is_full(&error) => return Ok(Squashed::default()),
            merged => merged?,
        };
        self.put(&run, merged, &self.lock()?)
    }

    /// Makes the one layer, without the lock.
    fn merge(&self, run: &[LayerId], staging: &Staging, home: Option<&Home>) -> Result<Draft, StateError> {
        let draft = Draft::make(staging, home)?;
        let trees = run.iter().map(|layer| Tree::open(&self.tree(*layer))).collect::<Result<Vec<_>, _>>()?;
        merge(&trees, &draft.tree()?)?;
        // What it is made of may go when it is there.
        agentd_disk::flush_all(&draft.tree_path())?;
        Ok(draft)
    }

    /// Puts the one layer in the place of the run, wherever that is.
    fn put(&self, run: &[LayerId], merged: Draft, lock: &Lock) -> Result<Squashed, StateError> {
        let records = self.load_all(lock)?;
        let stacks: Vec<_> = records.iter().flat_map(Record::stacks).collect();
        if !run::is_whole(run, &stacks) || !stacks.iter().any(|stack| stack.contains(&run[0])) {
            // Somebody forked, restored or removed a sandbox meanwhile. There will be another time.
            return Ok(Squashed::default());
        }
        let merged = merged.adopt(&self.layers(), lock)?;
        self.flush_layers()?;
        for mut record in records {
            let mut changed = false;
            for stack in record.stacks_mut() {
                changed |= run::replace(run, merged, stack);
            }
            if changed {
                self.replace(&record, lock)?;
            }
        }
        Ok(Squashed { layers: run.len() })
    }
}
