//! The operations of a sandbox on its Gondolin machine. A snapshot holds the disk only, copied while the guest's file system is
//! frozen. Running commands are not part of it and continue. A restore or fork starts a new machine with a copy of that disk.

use super::{
    GondolinBackend,
    host::Host,
    plan::{DISK, Plan},
    saved::{self, Saved},
};
use agentd_core::{IsolationBackend, IsolationError, Sandbox};
use agentd_guest::{Guest, Machine, MachineIdentity, ResumedToSave};
use agentd_isolation::blocking::blocking;
use async_trait::async_trait;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(super) struct GondolinMachine {
    backend: GondolinBackend,
    plan: Plan,
    /// The host's side of the current machine; a restore replaces it.
    host: Mutex<Arc<Host>>,
    /// Whether the machine is suspended. The lock is held during every operation on the machine as a whole.
    suspended: tokio::sync::Mutex<bool>,
    snapshots: Mutex<HashMap<String, Arc<Saved>>>,
}

impl GondolinMachine {
    pub(super) fn new(backend: GondolinBackend, plan: Plan, host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self {
            backend,
            plan,
            host: Mutex::new(host),
            suspended: tokio::sync::Mutex::default(),
            snapshots: Mutex::default(),
        })
    }

    fn host(&self) -> Arc<Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn snapshots(&self) -> MutexGuard<'_, HashMap<String, Arc<Saved>>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves the machine's disk. A suspended machine runs for the time of the save.
    async fn save(&self, guest: &Guest, suspended: bool) -> Result<Saved, IsolationError> {
        let host = self.host();
        if !suspended {
            return self.copy(guest, &host).await;
        }
        let resumed = ResumedToSave::new(guest);
        host.sandbox().resume().await?;
        let saved = self.copy(guest, &host).await;
        host.sandbox().suspend().await?;
        resumed.disarm();
        saved
    }

    async fn copy(&self, guest: &Guest, host: &Host) -> Result<Saved, IsolationError> {
        let store = self.backend.store().clone();
        let saved = blocking(move || Saved::make(&store)).await?;
        let frozen = guest.freeze().await?;
        // The file contains the complete disk: freezing ends with a flush of the guest's disk, and QEMU then also flushes its
        // tables.
        host.sandbox().read_file_to(Path::new(DISK), self.plan.disk_bytes, saved.create()?).await?;
        frozen.thaw().await?;
        Ok(saved)
    }
}

#[async_trait]
impl Machine for GondolinMachine {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        Arc::new(self.backend.clone())
    }

    async fn why_ended(&self) -> Option<String> {
        Some(self.host().why_ended().await)
    }

    fn kill(&self) {
        self.host().kill();
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.host().sandbox().destroy().await?;
        let snapshots = std::mem::take(&mut *self.snapshots());
        saved::remove(snapshots).await
    }

    /// Suspends Node and QEMU, and thereby the guest. The guest's clock jumps on resume.
    async fn suspend(&self) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        self.host().sandbox().suspend().await?;
        *suspended = true;
        Ok(())
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        self.host().sandbox().resume().await?;
        *suspended = false;
        Ok(())
    }

    async fn snapshot(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let suspended = self.suspended.lock().await;
        let saved = Arc::new(self.save(guest, *suspended).await?);
        let replaced = self.snapshots().insert(name.to_owned(), saved);
        saved::remove(replaced).await
    }

    async fn restore(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        let saved = self.snapshots().get(name).cloned();
        let saved = saved.ok_or_else(|| IsolationError::Invalid {
            what: "snapshot".to_owned(),
            reason: format!("this sandbox has no snapshot '{name}' — use a name that was passed to snapshot()"),
        })?;
        self.host().sandbox().destroy().await?;
        *suspended = false;
        let identity = MachineIdentity::generate()?;
        let attach = |host, transport| {
            *self.host.lock().unwrap_or_else(PoisonError::into_inner) = host;
            guest.renew(transport, &self.plan.guest, identity.clone())
        };
        self.backend.boot(&self.plan, Some(&saved), attach).await
    }

    async fn fork(&self, guest: &Guest) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let saved = {
            let suspended = self.suspended.lock().await;
            self.save(guest, *suspended).await?
        };
        let mut plan = self.plan.clone();
        if let Some(network) = guest.network() {
            plan.guest.network = network;
        }
        Ok(self.backend.open(plan, Some(saved)).await?)
    }

    fn restores(&self, name: &str) -> bool {
        self.snapshots().contains_key(name)
    }
}
