//! Which sandboxes of a backend live. It holds them weakly: a sandbox that nobody uses any more is ended by being dropped.

use agentd_core::{IsolationError, Sandbox, SandboxId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

pub(crate) struct Tracker<S>(Mutex<BTreeMap<SandboxId, Weak<S>>>);

impl<S> Default for Tracker<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Sandbox + 'static> Tracker<S> {
    pub(crate) fn add(&self, sandbox: &Arc<S>) {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, sandbox| sandbox.strong_count() > 0);
        live.insert(sandbox.id().clone(), Arc::downgrade(sandbox));
    }

    fn all(&self) -> Vec<Arc<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }

    async fn alive(&self) -> Vec<Arc<S>> {
        let mut alive = Vec::new();
        for sandbox in self.all() {
            if sandbox.is_alive().await {
                alive.push(sandbox);
            }
        }
        alive
    }

    pub(crate) async fn ids(&self) -> Vec<SandboxId> {
        self.alive().await.iter().map(|s| s.id().clone()).collect()
    }

    pub(crate) async fn get(&self, id: &SandboxId) -> Option<Arc<dyn Sandbox>> {
        self.alive().await.into_iter().find(|s| s.id() == id).map(|s| s as Arc<dyn Sandbox>)
    }

    /// Destroys all, and tells the first error after having tried every one.
    pub(crate) async fn destroy_all(&self) -> Result<(), IsolationError> {
        let mut first = Ok(());
        for sandbox in self.all() {
            let result = sandbox.destroy().await;
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}
