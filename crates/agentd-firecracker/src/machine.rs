//! The machine of a sandbox: ends, suspends, saves, restores and forks it. A snapshot holds the memory, the device state and the
//! disk at one moment. Machines resumed from a snapshot map its memory privately and share all unchanged pages.

use super::{
    FirecrackerBackend,
    size::Size,
    snapshot::Snapshot,
    spare::{PreviousMachine, Spare},
    vm::Vm,
};
use agentd_core::{IsolationBackend, IsolationError, Limits, Sandbox, SandboxId};
use agentd_guest::{Attach, Guest, GuestSandbox, Machine, MachineIdentity, ResumedToSave};
use agentd_isolation::{blocking::blocking, tracker::next_machine_id};
use agentd_log::LogFailure as _;
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::timeout;

/// The time limit for an agent to create its sandbox.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

/// The time limit for pausing the machine that a restore replaces. When the limit has passed, that machine is ended immediately.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The machine of one sandbox; see the module documentation.
pub(super) struct FirecrackerMachine {
    backend: FirecrackerBackend,
    /// The current Firecracker; a restore replaces it.
    vm: Mutex<Arc<Vm>>,
    size: Size,
    limits: Limits,
    /// Whether the machine is suspended. The lock is held during every operation on the machine as a whole.
    suspended: tokio::sync::Mutex<bool>,
    snapshots: Mutex<HashMap<String, Arc<Snapshot>>>,
    /// A Firecracker for the next restore, present once there is a snapshot. Until the spare has started, it owns the machine
    /// that the last restore replaced.
    spare: Mutex<Option<Spare>>,
}

impl FirecrackerMachine {
    pub(super) fn new(backend: FirecrackerBackend, vm: Vm, size: Size, limits: Limits) -> Arc<Self> {
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

    /// Begins to prepare a spare for the next restore of `snapshot`, unless the current spare is suitable. The machine `vm`,
    /// replaced by a restore, and an unsuitable spare are ended first.
    fn prepare(&self, snapshot: &Arc<Snapshot>, vm: Option<Arc<Vm>>) {
        let mut spare = self.spare();
        let before = spare.take();
        *spare = match before {
            Some(before) if vm.is_none() && before.suits(snapshot) => Some(before),
            before => {
                let previous = PreviousMachine { vm, spare: before.map(Spare::give_up) };
                Some(Spare::begin(self.backend.clone(), self.size, snapshot, previous))
            }
        };
    }

    /// Resumes a snapshot, in the spare if that can serve this snapshot.
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

    /// Saves the machine, which afterwards is running or suspended as before.
    async fn save(&self, guest: &Guest, suspended: bool) -> Result<Snapshot, IsolationError> {
        let vm = self.vm();
        let resumed = suspended.then(|| ResumedToSave::new(guest));
        if suspended {
            // The agent must answer, so a suspended machine runs for the time of the save.
            vm.pause(false).await?;
        }
        guest.quiesce().await?;
        let store = self.backend.store().clone();
        let saved = vm.save(move |written, disk| Snapshot::take(&store, written, disk)).await;
        vm.attached(async |transport| guest.proceed(transport).await).await?;
        if let Some(resumed) = resumed {
            vm.pause(true).await?;
            resumed.disarm();
        }
        saved
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        Arc::new(self.backend.clone())
    }

    async fn why_ended(&self) -> Option<String> {
        Some(self.vm().why_ended().await)
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
        let snapshots = std::mem::take(&mut *self.snapshots());
        let removed = remove(snapshots).await;
        ended.and(spared).and(removed)
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
        let replaced = self.snapshots().insert(name.to_owned(), taken.clone());
        self.prepare(&taken, None);
        remove(replaced).await
    }

    async fn restore(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        let snapshot = self.snapshots().get(name).cloned();
        let snapshot = snapshot.ok_or_else(|| IsolationError::Invalid {
            what: "snapshot".to_owned(),
            reason: format!("this sandbox has no snapshot '{name}' — use a name that was passed to snapshot()"),
        })?;
        let identity = MachineIdentity::generate()?;
        let replaced = self.vm();
        // Only pause the replaced machine here. Ending it takes time, so `prepare` does that after the restore.
        if !matches!(timeout(STOP_TIMEOUT, replaced.pause(true)).await, Ok(Ok(()))) {
            replaced.end();
        }
        let started = Arc::new(self.start(&snapshot).await?);
        *self.vm.lock().unwrap_or_else(PoisonError::into_inner) = started.clone();
        *suspended = false;
        let adopted = started.attached(async |transport| guest.adopt(transport, identity.clone()).await).await;
        self.prepare(&snapshot, Some(replaced));
        adopted
    }

    async fn fork(&self, guest: &Guest) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let snapshot = {
            let suspended = self.suspended.lock().await;
            self.save(guest, *suspended).await?
        };
        let vm = self.backend.resume(snapshot.folder(), self.size).await;
        // The new machine has mapped the memory file and copied the disk, so the snapshot can be deleted.
        remove(snapshot).await?;
        let vm = vm?;
        let id = next_machine_id(FirecrackerBackend::NAME);
        let machine = Self::new(self.backend.clone(), vm, self.size, self.limits.clone());
        let gateway = guest.copy_of_gateway().await?;
        let how = Attach::Adopt { identity: MachineIdentity::generate()?, limits: Box::new(self.limits.clone()), gateway };
        Ok(machine.open(id, how).await?)
    }

    fn restores(&self, name: &str) -> bool {
        self.snapshots().contains_key(name)
    }
}

impl FirecrackerMachine {
    /// Attaches to the agent, which creates or adopts the sandbox.
    pub(super) async fn open(self: Arc<Self>, id: SandboxId, how: Attach) -> Result<Arc<GuestSandbox>, IsolationError> {
        let vm = self.vm();
        if let Err(error) = fill(&vm, &how).await {
            // The error of `fill` is the cause to report, so a failure to destroy the machine is only logged.
            vm.destroy().await.or_warn("destroy machine after failed copy of grants", "firecracker");
            return Err(error);
        }
        let attach =
            async |transport| match timeout(ATTACH_TIMEOUT, GuestSandbox::open(id.clone(), self.clone(), transport, how.clone()))
                .await
            {
                Ok(opened) => opened,
                Err(_) => {
                    Err(IsolationError::MachineLost(format!("no reply of the guest agent within {} s", ATTACH_TIMEOUT.as_secs())))
                }
            };
        match vm.attached(attach).await {
            Ok(sandbox) => {
                self.backend.add(&sandbox);
                Ok(sandbox)
            }
            Err(error) => {
                // The error of `attached` is the cause to report, so a failure to destroy the machine is only logged.
                self.vm().destroy().await.or_warn("destroy machine after failed attach", "firecracker");
                Err(error)
            }
        }
    }
}

/// Drops snapshots, which removes their files, on a thread for blocking operations.
async fn remove(snapshots: impl Send + 'static) -> Result<(), IsolationError> {
    blocking(move || {
        drop(snapshots);
        Ok(())
    })
    .await
}

/// Copies the grants into the guest. A copy that was cut off by a lost connection is repeated over the next connection.
async fn fill(vm: &Vm, how: &Attach) -> Result<(), IsolationError> {
    let Attach::New(wanted) = how else { return Ok(()) };
    let Some(copies) = &wanted.copies else { return Ok(()) };
    for number in 0..copies.count() {
        vm.attached(async |transport| copies.fill(number, transport).await).await?;
    }
    Ok(())
}
