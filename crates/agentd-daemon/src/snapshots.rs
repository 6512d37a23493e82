//! Snapshots and forks of sandboxes. Layers that a request leaves unused are merged and removed in the background.

use crate::{error::DaemonError, serve::Server};
use agentd_isolation::layered::runtime;
use agentd_sandboxes::{ForkSource, Name, SandboxStore, SaveMode, StoreError};

impl Server {
    /// Saves the state of a sandbox under a name.
    pub(crate) async fn snapshot(&self, name: Name, snapshot: Name) -> Result<(), DaemonError> {
        let of = name.clone();
        self.committed(&name, move |state, how| state.snapshot(&of, &snapshot, how).map(drop)).await?;
        runtime::squash_and_collect(&self.state, name);
        Ok(())
    }

    /// Creates sandboxes from a snapshot.
    pub(crate) async fn fork_snapshot(&self, name: Name, snapshot: Name, new: Vec<Name>) -> Result<(), DaemonError> {
        let forked = self.on_disk(move |state| state.fork(&name, ForkSource::Snapshot(&snapshot), &new).map(drop)).await;
        self.collected_unless(forked).await
    }

    /// Creates sandboxes from the current state of a sandbox.
    pub(crate) async fn fork_now(&self, name: Name, new: Vec<Name>) -> Result<(), DaemonError> {
        let of = name.clone();
        let forked = self.committed(&name, move |state, how| state.fork(&of, ForkSource::Now(how), &new).map(drop)).await;
        self.collected_unless(forked).await?;
        runtime::squash_and_collect(&self.state, name);
        Ok(())
    }

    /// Ends the processes of a sandbox, and restores a snapshot.
    pub(crate) async fn restore(&self, name: Name, snapshot: Name) -> Result<(), DaemonError> {
        let runtime = self.runtimes.get(&name);
        let mut runtime = runtime.lock().await;
        runtime.restore(self.runtimes.place(&self.state, &name), snapshot).await?;
        drop(runtime);
        runtime::squash_and_collect(&self.state, name);
        Ok(())
    }

    /// Removes a snapshot.
    pub(crate) async fn forget(&self, name: Name, snapshot: Name) -> Result<(), DaemonError> {
        let of = name.clone();
        self.on_disk(move |state| state.drop_snapshot(&of, &snapshot).map(drop)).await?;
        runtime::squash_and_collect(&self.state, name);
        Ok(())
    }

    /// Runs work that commits the changes of a sandbox as a layer; see [`runtime::SandboxRuntime::committed`].
    async fn committed(
        &self,
        name: &Name,
        work: impl FnOnce(&SandboxStore, SaveMode) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), DaemonError> {
        let runtime = self.runtimes.get(name);
        let mut runtime = runtime.lock().await;
        Ok(runtime.committed(self.runtimes.place(&self.state, name), work).await?)
    }
}
