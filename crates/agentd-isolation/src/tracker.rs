//! Tracks the live sandboxes of a backend with weak references, so that a sandbox without users is dropped, which destroys the
//! sandbox.

use agentd_core::{IsolationError, Sandbox, SandboxId};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Returns the id of a new machine of `backend`, which no other sandbox of this process has.
pub fn next_machine_id(backend: &str) -> SandboxId {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    SandboxId(format!("{backend}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// The live sandboxes of a backend, by id.
pub struct Tracker<S>(Mutex<BTreeMap<SandboxId, Weak<S>>>);

impl<S> Default for Tracker<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Sandbox + 'static> Tracker<S> {
    /// Adds a sandbox, and removes the entries of dropped sandboxes.
    pub fn add(&self, sandbox: &Arc<S>) {
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

    /// Returns the ids of the live sandboxes.
    pub async fn ids(&self) -> Vec<SandboxId> {
        self.alive().await.iter().map(|s| s.id().clone()).collect()
    }

    /// Returns the live sandbox with this id.
    pub async fn get(&self, id: &SandboxId) -> Option<Arc<dyn Sandbox>> {
        self.alive().await.into_iter().find(|s| s.id() == id).map(|s| s as Arc<dyn Sandbox>)
    }

    /// Destroys all sandboxes.
    ///
    /// # Errors
    /// The first failure. The remaining sandboxes are still destroyed.
    pub async fn destroy_all(&self) -> Result<(), IsolationError> {
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
