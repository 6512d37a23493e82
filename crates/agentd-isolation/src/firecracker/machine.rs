//! A machine under a sandbox: ended, stopped, saved, started again and copied. A snapshot is its memory, its devices and its disk at one
//! moment; machines that are started from one map its memory privately, and share what they do not change.

use super::{FirecrackerBackend, size::Size, snapshot::Snapshot, spare::Spare, vm::Vm};
use crate::guest::{Attach, Awake, Guest, GuestSandbox, Identity, Machine};
use agentd_core::{IsolationBackend, IsolationError, Limits, Sandbox, SandboxId};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

/// How long an agent may take to make its sandbox.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// See the head of this module.
pub(super) struct FirecrackerMachine {
    backend: Arc<FirecrackerBackend>,
    /// Another one after a restore.
    vm: Mutex<Arc<Vm>>,
    /// The end of the one that the last restore has left, for which nobody waits but who leaves another one, or destroys all.
    ending: tokio::sync::Mutex<Option<JoinHandle<Result<(), IsolationError>>>>,
    size: Size,
    limits: Limits,
    /// Whether it is suspended; held while something is done with it as a whole.
    suspended: tokio::sync::Mutex<bool>,
    snapshots: Mutex<HashMap<String, Arc<Snapshot>>>,
    /// For the next restore, as soon as there is something to go back to.
    spare: Mutex<Option<Spare>>,
}

impl FirecrackerMachine {
    pub(super) fn new(backend: Arc<FirecrackerBackend>, vm: Vm, size: Size, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            backend,
            vm: Mutex::new(Arc::new(vm)),
            ending: tokio::sync::Mutex::default(),
            size,
            limits,
            suspended: tokio::sync::Mutex::default(),
            snapshots: Mutex::default(),
            spare: Mutex::default(),
        })
    }

    fn snapshots(&self) -> MutexGuard<'_, HashMap<String, Arc<Snapshot>>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vm(&self) -> Arc<Vm> {
        self.vm.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn spare(&self) -> MutexGuard<'_, Option<Spare>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a spare, from now on.
    fn prepare(&self) {
        self.spare().get_or_insert_with(|| Spare::begin(self.backend.clone(), self.size));
    }

    /// A machine that goes on from a snapshot, in the spare if there is one.
    async fn start(&self, snapshot: &Snapshot) -> Result<Vm, IsolationError> {
        let spare = self.spare().take();
        if let Some(spare) = spare
            && let Some(vm) = spare.load(snapshot.folder()).await
        {
            return Ok(vm);
        }
        self.backend.resume(snapshot.folder(), self.size).await
    }

    /// Saves the machine, which goes on afterwards as it was.
    async fn save(&self, guest: &Guest, suspended: bool) -> Result<Snapshot, IsolationError> {
        let vm = self.vm();
        let awake = suspended.then(|| Awake::new(guest));
        if suspended {
            // Its agent must answer. What was stopped runs for that long.
            vm.pause(false).await?;
        }
        guest.quiesce().await?;
        let store = self.backend.store().clone();
        let saved = vm.save(move |written, disk| Snapshot::take(&store, written, disk)).await;
        vm.attached(async |carrier| guest.proceed(carrier).await).await?;
        if let Some(awake) = awake {
            vm.pause(true).await?;
            awake.over();
        }
        saved
    }

    /// Waits for the end of what the last restore has left.
    async fn ended(&self) -> Result<(), IsolationError> {
        let mut ending = self.ending.lock().await;
        let Some(end) = ending.as_mut() else { return Ok(()) };
        let ended = end.await;
        *ending = None;
        ended.unwrap_or_else(|error| Err(IsolationError::Lost(format!("the end of a machine: {error}"))))
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        self.backend.clone()
    }

    fn kill(&self) {
        self.vm().end();
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let spare = self.spare().take();
        let spared = match spare {
            Some(spare) => spare.destroy().await,
            None => Ok(()),
        };
        let ended = self.ended().await;
        self.vm().destroy().await?;
        self.snapshots().clear();
        ended.and(spared)
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        self.vm().pause(true).await?;
        *suspended = true;
        Ok(())
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        self.vm().pause(false).await?;
        *suspended = false;
        Ok(())
    }

    async fn snapshot(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let suspended = self.suspended.lock().await;
        let taken = Arc::new(self.save(guest, *suspended).await?);
        self.snapshots().insert(name.to_owned(), taken);
        self.prepare();
        Ok(())
    }

    async fn restore(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        let snapshot = self.snapshots().get(name).cloned();
        let snapshot = snapshot.ok_or_else(|| IsolationError::Invalid {
            what: "snapshot".to_owned(),
            reason: format!("there is none called '{name}' of this sandbox"),
        })?;
        // There are never more than two. What could not be removed is, when the next machine is made.
        self.ended().await.ok();
        let left = self.vm();
        left.end();
        *self.ending.lock().await = Some(tokio::spawn(async move { left.destroy().await }));
        let started = Arc::new(self.start(&snapshot).await?);
        *self.vm.lock().unwrap_or_else(PoisonError::into_inner) = started.clone();
        *suspended = false;
        let identity = Identity::individual()?;
        started.attached(async |carrier| guest.adopt(carrier, identity.clone()).await).await?;
        self.prepare();
        Ok(())
    }

    async fn fork(&self, guest: &Guest) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let snapshot = {
            let suspended = self.suspended.lock().await;
            self.save(guest, *suspended).await?
        };
        let vm = self.backend.resume(snapshot.folder(), self.size).await?;
        // It is mapped by now.
        drop(snapshot);
        let id = self.backend.next_id();
        let machine = Self::new(self.backend.clone(), vm, self.size, self.limits.clone());
        let how = Attach::Adopt { identity: Identity::individual()?, limits: self.limits.clone() };
        Ok(machine.open(id, how).await?)
    }

    fn restores(&self, name: &str) -> bool {
        self.snapshots().contains_key(name)
    }
}

impl FirecrackerMachine {
    /// Attaches to the agent.
    pub(super) async fn open(self: Arc<Self>, id: SandboxId, how: Attach) -> Result<Arc<GuestSandbox>, IsolationError> {
        let vm = self.vm();
        if let Err(error) = fill(&vm, &how).await {
            // The first error is the one to tell.
            vm.destroy().await.ok();
            return Err(error);
        }
        let attach =
            async |carrier| match timeout(ATTACH_PATIENCE, GuestSandbox::open(id.clone(), self.clone(), carrier, how.clone()))
                .await
            {
                Ok(opened) => opened,
                Err(_) => {
                    Err(IsolationError::Lost(format!("the machine's agent said nothing for {} s", ATTACH_PATIENCE.as_secs())))
                }
            };
        match vm.attached(attach).await {
            Ok(sandbox) => {
                self.backend.add(&sandbox);
                Ok(sandbox)
            }
            Err(error) => {
                // The first error is the one to tell.
                self.vm().destroy().await.ok();
                Err(error)
            }
        }
    }
}

/// Copies what is granted into the guest. A copy that a lost connection cuts off is made anew over the next one.
async fn fill(vm: &Vm, how: &Attach) -> Result<(), IsolationError> {
    let Attach::New(wanted) = how else { return Ok(()) };
    let Some(copies) = &wanted.copies else { return Ok(()) };
    for number in 0..copies.count() {
        vm.attached(async |carrier| copies.fill(number, carrier).await).await?;
    }
    Ok(())
}
