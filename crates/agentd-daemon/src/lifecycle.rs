//! Creates sandboxes, and starts, pauses and resumes their processes.

use crate::{
    error::DaemonError,
    protection::SharedWatch,
    serve::{Server, compare},
};
use agentd_core::{ControlReport, Sandbox};
use agentd_isolation::protect::Interrupt;
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Name, SandboxSettings, SandboxStore, SaveMode};
use std::sync::Arc;

impl Server {
    /// Creates a sandbox and starts its processes once, so that a sandbox that could never start is not created. The files that
    /// the start creates in its root become part of the first snapshot, which is taken before any use.
    pub(crate) async fn create(&self, name: Name, mut about: SandboxSettings) -> Result<Vec<ControlReport>, DaemonError> {
        compare(&mut about.spec)?;
        let runtime = self.runtimes.get(&name);
        let mut runtime = runtime.lock().await;
        let of = name.clone();
        let created = self.on_disk(move |state| state.create(&of, about).map(drop)).await;
        self.collected_unless(created).await?;
        let controls = match self.runtimes.start(&self.state, &name, &mut runtime).await {
            Ok(running) => running.sandbox.controls().to_vec(),
            Err(error) => {
                // Only the first error is reported.
                let of = name.clone();
                self.on_disk(move |state| state.remove(&of)).await.or_warn("remove sandbox that failed to start", &name);
                self.collect().await.or_warn("remove the sandbox's unused layers", &name);
                return Err(error);
            }
        };
        runtime.end().await?;
        self.on_disk(move |state| state.snapshot(&name, &Name::created(), SaveMode::Commit).map(drop)).await?;
        Ok(controls)
    }

    /// Starts the processes of a sandbox if necessary. The sandbox counts as used by a command as long as the second value is
    /// alive.
    pub(crate) async fn used_by(&self, name: &Name) -> Result<(Arc<dyn Sandbox>, Arc<()>), DaemonError> {
        let runtime = self.runtimes.get(name);
        let mut runtime = runtime.lock().await;
        let watched = self.watched(name, &Interrupt::default()).await?;
        if runtime.running.is_none() {
            watched.starts(false).await;
        }
        let running = self.runtimes.start(&self.state, name, &mut runtime).await?;
        Ok((running.sandbox.clone(), running.commands.clone()))
    }

    /// Starts the processes of a sandbox for a command, as [`Server::used_by`] does, and compares its protected paths. If a
    /// protected path has changed so that a running sandbox without commands does not protect it, that sandbox is restarted.
    /// `interrupt` ends the comparison.
    pub(crate) async fn used_by_command(
        &self,
        name: &Name,
        interrupt: &Interrupt,
    ) -> Result<(Arc<dyn Sandbox>, Arc<()>, SharedWatch), DaemonError> {
        let runtime = self.runtimes.get(name);
        let mut runtime = runtime.lock().await;
        let watched = self.watched(name, interrupt).await?;
        watched.compare_before(interrupt).await;
        let idle = runtime.running.as_ref().is_some_and(|running| running.commands_running() == 0);
        let restarts = idle && !runtime.paused && watched.is_outdated();
        if restarts {
            runtime.end().await?;
        }
        if runtime.running.is_none() {
            watched.starts(restarts).await;
        }
        let running = self.runtimes.start(&self.state, name, &mut runtime).await?;
        Ok((running.sandbox.clone(), running.commands.clone(), watched))
    }

    pub(crate) async fn watched(&self, name: &Name, interrupt: &Interrupt) -> Result<SharedWatch, DaemonError> {
        let of = name.clone();
        let record = self.on_disk(move |state| state.record(&of)).await?;
        self.watches.get(name, record.about.spec.grants, self.state.log_directory(name), interrupt).await
    }

    /// Records that a sandbox was used now, if it has an idle time to live. The sandbox must count as used until this method
    /// returns.
    pub(crate) async fn used(&self, name: &Name) {
        let used = name.clone();
        let touch = move |state: &SandboxStore| {
            if state.record(&used)?.about.idle_ttl.is_some() {
                state.touch(&used)?;
            }
            Ok(())
        };
        // If recording fails, the sandbox is removed a little early.
        self.on_disk(touch).await.or_warn("record the use of sandbox", name);
    }

    /// Pauses all processes of a sandbox.
    pub(crate) async fn pause(&self, name: &Name) -> Result<(), DaemonError> {
        let runtime = self.runtimes.get(name);
        let mut runtime = runtime.lock().await;
        Ok(runtime.pause(self.runtimes.place(&self.state, name)).await?)
    }

    /// Resumes all processes of a sandbox.
    pub(crate) async fn resume(&self, name: &Name) -> Result<(), DaemonError> {
        self.exists(name).await?;
        let runtime = self.runtimes.get(name);
        let mut runtime = runtime.lock().await;
        Ok(runtime.resume().await?)
    }
}
