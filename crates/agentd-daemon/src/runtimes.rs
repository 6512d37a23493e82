//! The running sandboxes, each behind its own lock. A request to a sandbox waits for earlier requests to the same sandbox, and
//! never for those to another.

use crate::{
    error::DaemonError,
    host_approver::{self, HostWait},
};
use agentd_core::IsolationError;
use agentd_isolation::{
    ContainerBackend,
    layered::{
        LayeredError,
        runtime::{Running, SandboxRef, SandboxRuntime},
    },
};
use agentd_sandboxes::{Name, SandboxStore};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::broadcast;

/// The number of announcements that a client may not have read yet.
const WAITS: usize = 64;

/// All sandboxes that this daemon has used.
pub(crate) struct Runtimes {
    backend: ContainerBackend,
    runtimes: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<SandboxRuntime>>>>,
    /// The connections of all sandboxes that wait for an approval.
    waits: broadcast::Sender<HostWait>,
}

impl Runtimes {
    pub(crate) fn new() -> Result<Self, IsolationError> {
        let backend = ContainerBackend::new(&std::env::temp_dir(), None)?;
        Ok(Self { backend, runtimes: Mutex::default(), waits: broadcast::Sender::new(WAITS) })
    }

    /// Receives the connections that wait for an approval from now on.
    pub(crate) fn waits(&self) -> broadcast::Receiver<HostWait> {
        self.waits.subscribe()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Name, Arc<tokio::sync::Mutex<SandboxRuntime>>>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the runtime of a sandbox, which need not exist on disk.
    pub(crate) fn get(&self, name: &Name) -> Arc<tokio::sync::Mutex<SandboxRuntime>> {
        self.all().entry(name.clone()).or_default().clone()
    }

    /// Returns all current runtimes.
    pub(crate) fn each(&self) -> Vec<(Name, Arc<tokio::sync::Mutex<SandboxRuntime>>)> {
        self.all().iter().map(|(name, runtime)| (name.clone(), runtime.clone())).collect()
    }

    /// Removes runtimes that have neither processes nor waiting requests.
    pub(crate) fn remove_unused(&self) {
        self.all().retain(|_, runtime| {
            Arc::strong_count(runtime) > 1 || runtime.try_lock().is_ok_and(|runtime| runtime.running.is_some() || runtime.paused)
        });
    }

    /// Returns a reference to a sandbox on disk, for its runtime.
    pub(crate) fn place<'a>(&'a self, state: &'a Arc<SandboxStore>, name: &'a Name) -> SandboxRef<'a> {
        SandboxRef { backend: &self.backend, state, name, spec: None }
    }

    /// Returns the processes of a sandbox, and starts them from disk if necessary.
    pub(crate) async fn start<'a>(
        &self,
        state: &Arc<SandboxStore>,
        name: &Name,
        runtime: &'a mut SandboxRuntime,
    ) -> Result<&'a Running, DaemonError> {
        if runtime.paused {
            // A paused sandbox answers no request: waiting for it would last until a client resumes it.
            return Err(DaemonError::Refused(format!(
                "start a process in sandbox {name}: the sandbox is paused — run `agentd sandbox resume {name}`"
            )));
        }
        let before = runtime.running.as_ref().map(|running| running.sandbox.id().clone());
        let running = runtime.start(self.place(state, name)).await.map_err(|error| match error {
            LayeredError::Isolation(IsolationError::GrantChanged(error)) => {
                let error = error.remedy(format!(
                    "find out what replaced that path; then run `agentd sandbox regrant {name}` to grant its current content, or \
                     `agentd sandbox rm {name}`"
                ));
                DaemonError::Refused(format!("start sandbox {name}: {error}"))
            }
            other => other.into(),
        })?;
        if before.as_ref() != Some(running.sandbox.id()) {
            host_approver::start(name, &*running.sandbox, self.waits.clone());
        }
        Ok(running)
    }
}
