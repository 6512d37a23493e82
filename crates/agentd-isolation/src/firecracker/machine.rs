//! A machine under a sandbox: ended, stopped, saved, started again and copied. A snapshot is its memory, its devices and its disk at one
//! moment; machines that are started from one map its memory privately, and share what they do not change.

use super::{
    FirecrackerBackend,
    size::Size,
    snapshot::Snapshot,
    spare::{Left, Spare},
    vm::Vm,
};
use crate::guest::{Attach, Awake, Guest, GuestSandbox, Identity, Machine};
use agentd_core::{IsolationBackend, IsolationError, Limits, Sandbox, SandboxId};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::timeout;

/// How long an agent may take to make its sandbox.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// How long one that is left may take to be stopped, before it is ended at once.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// See the head of this module.
pub(super) struct FirecrackerMachine {
    backend: Arc<FirecrackerBackend>,
    /// Another one after a restore.
    vm: Mutex<Arc<Vm>>,
    size: Size,
    limits: Limits,
    /// Whether it is suspended; held while something is done with it as a whole.
    suspended: tokio::sync::Mutex<bool>,
    snapshots: Mutex<HashMap<String, Arc<Snapshot>>>,
    /// For the next restore, as soon as there is something to go back to. Until it is there, what the last restore has left is there.
    spare: Mutex<Option<Spare>>,
}

impl FirecrackerMachine {
    pub(super) fn new(backend: Arc<FirecrackerBackend>, vm: Vm, size: Size, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            backend,
            vm: Mutex::new(Arc::new(vm)),
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

    /// Has a spare for a restore of that snapshot, from now on. A machine that is left ends before.
    fn prepare(&self, snapshot: &Arc<Snapshot>, vm: Option<Arc<Vm>>) {
        let mut spare = self.spare();
        let before = spare.take();
        *spare = match before {
            Some(before) if vm.is_none() && before.suits(snapshot) => Some(before),
            before => {
                let left = Left { vm, spare: before.map(Spare::give_up) };
                Some(Spare::begin(self.backend.clone(), self.size, snapshot, left))
            }
        };
    }

    /// A machine that goes on from a snapshot, in the spare if there is one that serves.
    async fn start(&self, snapshot: &Arc<Snapshot>) -> Result<Vm, IsolationError> {
        let spare = {
            let mut spare = self.spare();
            if spare.as_ref().is_some_and(|spare| spare.serves(snapshot)) { spare.take() } else { None }
        };
        if let Some(spare) = spare
            && let Some(vm) = spare.load(snapshot).await
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
        let vm = self.vm();
        vm.end();
        let spare = self.spare().take();
        let spared = match spare {
            Some(spare) => spare.destroy().await,
            None => Ok(()),
        };
        let ended = vm.destroy().await;
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
        self.snapshots().insert(name.to_owned(), taken.clone());
        self.prepare(&taken, None);
        Ok(())
    }

    async fn restore(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        let snapshot = self.snapshots().get(name).cloned();
        let snapshot = snapshot.ok_or_else(|| IsolationError::Invalid {
            what: "snapshot".to_owned(),
            reason: format!("there is none called '{name}' of this sandbox"),
        })?;
        let identity = Identity::individual()?;
        let left = self.vm();
        // It does nothing any more. Its end, which takes time, comes after what is waited for.
        if !matches!(timeout(STOP_PATIENCE, left.pause(true)).await, Ok(Ok(()))) {
            left.end();
        }
        let started = Arc::new(self.start(&snapshot).await?);
        *self.vm.lock().unwrap_or_else(PoisonError::into_inner) = started.clone();
        *suspended = false;
        let adopted = started.attached(async |carrier| guest.adopt(carrier, identity.clone()).await).await;
        self.prepare(&snapshot, Some(left));
        adopted
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
