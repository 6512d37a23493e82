//! The sandboxes whose processes live, each behind a lock of its own: what one is asked for waits for what it was asked before, and for
//! nothing of another's.

use crate::error::KeeperError;
use agentd_core::{IsolationBackend, Sandbox, Writable};
use agentd_isolation::ContainerBackend;
use agentd_sandboxes::{Hold, Name, Record, State};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// One sandbox's processes.
pub(crate) struct Live {
    pub sandbox: Arc<dyn Sandbox>,
    /// As many as commands run, and one.
    pub commands: Arc<()>,
    /// Its layers are not removed, whatever the records say.
    _held: Hold,
}

impl Live {
    pub(crate) fn running(&self) -> usize {
        Arc::strong_count(&self.commands) - 1
    }
}

/// A place for them.
#[derive(Default)]
pub(crate) struct Slot {
    pub live: Option<Live>,
    pub paused: bool,
    /// When it was last used.
    pub used: Option<Instant>,
}

impl Slot {
    /// Ends its processes, if there are any, and waits until nothing of them is left.
    pub(crate) async fn end(&mut self) -> Result<(), KeeperError> {
        self.paused = false;
        if let Some(live) = &self.live {
            live.sandbox.destroy().await?;
            self.live = None;
        }
        Ok(())
    }
}

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

    /// The processes of a sandbox, started from what is on disk where there are none.
    pub(crate) async fn start<'a>(&self, state: &State, name: &Name, slot: &'a mut Slot) -> Result<&'a Live, KeeperError> {
        if slot.paused {
            // What stands still answers nothing: who waited for it would wait for whoever lets it go on.
            return Err(KeeperError::Refused(format!("{name} is paused: `agentd sandbox resume {name}` first")));
        }
        let alive = match &slot.live {
            Some(live) => live.sandbox.is_alive().await,
            None => false,
        };
        if !alive {
            slot.end().await?;
            let (record, held) = state.hold(name)?;
            state.fresh_work(&record)?;
            slot.live = Some(self.make(state, &record, held).await?);
        }
        slot.used = Some(Instant::now());
        slot.live.as_ref().ok_or_else(|| KeeperError::Refused(format!("{name} could not be started")))
    }

    async fn make(&self, state: &State, record: &Record, held: Hold) -> Result<Live, KeeperError> {
        let mut spec = record.about.spec.clone();
        spec.writable = Writable::Disk(state.layer_paths(record));
        let sandbox = self.backend.create_sandbox(spec).await?;
        Ok(Live { sandbox, commands: Arc::new(()), _held: held })
    }
}
