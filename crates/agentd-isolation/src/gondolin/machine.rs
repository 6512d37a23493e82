//! What of one of Gondolin's machines this backend knows how to do. What is saved of one is its disk, while the files on it rest: commands go
//! on, and are no part of it. A machine that goes back is another one, started over a copy of that disk, and so is a fork.

use super::{GondolinBackend, host::Host, plan::DISK, plan::Plan, saved::Saved};
use crate::{
    guest::{Awake, Guest, Identity, Machine},
    store::blocking,
};
use agentd_core::{IsolationBackend, IsolationError, Sandbox};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(super) struct GondolinMachine {
    backend: Arc<GondolinBackend>,
    plan: Plan,
    /// Another one after a restore.
    host: Mutex<Arc<Host>>,
    /// Whether it is suspended; held while something is done with it as a whole.
    suspended: tokio::sync::Mutex<bool>,
    snapshots: Mutex<HashMap<String, Arc<Saved>>>,
}

impl GondolinMachine {
    pub(super) fn new(backend: Arc<GondolinBackend>, plan: Plan, host: Arc<Host>) -> Arc<Self> {
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

    /// Saves the machine's disk. One that is suspended runs for as long as that takes.
    async fn save(&self, guest: &Guest, suspended: bool) -> Result<Saved, IsolationError> {
        let host = self.host();
        if !suspended {
            return self.copy(guest, &host).await;
        }
        let awake = Awake::new(guest);
        host.sandbox().resume().await?;
        let saved = self.copy(guest, &host).await;
        host.sandbox().suspend().await?;
        awake.over();
        saved
    }

    async fn copy(&self, guest: &Guest, host: &Host) -> Result<Saved, IsolationError> {
        let store = self.backend.store.clone();
        let saved = blocking(move || Saved::make(&store)).await?;
        let rest = guest.freeze().await?;
        // All of the disk is in that file: the guest flushes it last of all when it comes to rest, and QEMU its tables with it.
        host.sandbox().read_file_to(Path::new(DISK), self.plan.disk_bytes, saved.create()?).await?;
        rest.thaw().await?;
        Ok(saved)
    }
}

#[async_trait]
impl Machine for GondolinMachine {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        self.backend.clone()
    }

    fn kill(&self) {
        self.host().kill();
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.host().sandbox().destroy().await?;
        self.snapshots().clear();
        Ok(())
    }

    /// Node and QEMU stand still, and with them the guest; its clock jumps when it goes on.
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
        self.snapshots().insert(name.to_owned(), saved);
        Ok(())
    }

    async fn restore(&self, guest: &Guest, name: &str) -> Result<(), IsolationError> {
        let mut suspended = self.suspended.lock().await;
        let saved = self.snapshots().get(name).cloned();
        let saved = saved.ok_or_else(|| IsolationError::Invalid {
            what: "snapshot".to_owned(),
            reason: format!("there is none called '{name}' of this sandbox"),
        })?;
        self.host().sandbox().destroy().await?;
        let (host, carrier) = self.backend.boot(&self.plan, Some(&saved)).await?;
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = host.clone();
        *suspended = false;
        let identity = Identity::individual()?;
        host.attached(guest.renew(carrier, &self.plan.guest, identity)).await
    }

    async fn fork(&self, guest: &Guest) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let saved = {
            let suspended = self.suspended.lock().await;
            self.save(guest, *suspended).await?
        };
        Ok(self.backend.open(self.plan.clone(), Some(saved)).await?)
    }

    fn restores(&self, name: &str) -> bool {
        self.snapshots().contains_key(name)
    }
}
