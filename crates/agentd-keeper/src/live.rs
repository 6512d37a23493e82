//! The sandboxes whose processes live, each behind a lock of its own: what one is asked for waits for what it was asked before, and for
//! nothing of another's.

use crate::error::KeeperError;
use agentd_isolation::{
    ContainerBackend,
    layered::slot::{Live, Place, Slot},
};
use agentd_sandboxes::{Name, State};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All of them.
pub(crate) struct Slots {
    backend: Arc<ContainerBackend>,
    slots: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<Slot>>>>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self { backend: ContainerBackend::new(&std::env::temp_dir()), slots: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Name, Arc<tokio::sync::Mutex<Slot>>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a sandbox, which need not exist.
    pub(crate) fn of(&self, name: &Name) -> Arc<tokio::sync::Mutex<Slot>> {
        self.all().entry(name.clone()).or_default().clone()
    }

    /// The places that are there now.
    pub(crate) fn each(&self) -> Vec<(Name, Arc<tokio::sync::Mutex<Slot>>)> {
        self.all().iter().map(|(name, slot)| (name.clone(), slot.clone())).collect()
    }

    /// Forgets places in which nothing is and for which nobody waits.
    pub(crate) fn tidy(&self) {
        self.all().retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| slot.live.is_some() || slot.paused)
        });
    }

    /// A sandbox on disk, for its place.
    pub(crate) fn place<'a>(&'a self, state: &'a Arc<State>, name: &'a Name) -> Place<'a> {
        Place { backend: &*self.backend, state, name, spec: None }
    }

    /// The processes of a sandbox, started from what is on disk where there are none.
    pub(crate) async fn start<'a>(&self, state: &Arc<State>, name: &Name, slot: &'a mut Slot) -> Result<&'a Live, KeeperError> {
        if slot.paused {
            // What stands still answers nothing: who waited for it would wait for whoever lets it go on.
            return Err(KeeperError::Refused(format!("{name} is paused: `agentd sandbox resume {name}` first")));
        }
        Ok(slot.start(self.place(state, name)).await?)
    }
}
