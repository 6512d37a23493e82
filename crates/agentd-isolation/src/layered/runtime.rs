//! The processes of one sandbox over its layers.

use super::{LayeredError, flows::FlowWriter};
use agentd_core::{Control, ControlError, IsolationBackend, IsolationError, Sandbox, SandboxSpec, Usage, Writable};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Hold, Name, SandboxStore, SaveMode, StoreError};
use std::{sync::Arc, time::Instant};

/// A reference to a sandbox on disk and to the backend that creates its processes.
#[derive(Clone, Copy)]
pub struct SandboxRef<'a> {
    /// The backend that creates sandboxes over layers on disk.
    pub backend: &'a dyn IsolationBackend,
    /// The state directory that contains the sandbox.
    pub state: &'a Arc<SandboxStore>,
    /// The name of the sandbox in the state directory.
    pub name: &'a Name,
    /// The spec of the sandbox; `None` if its record contains the spec.
    pub spec: Option<&'a SandboxSpec>,
}

/// The processes of a started sandbox.
pub struct Running {
    /// The sandbox.
    pub sandbox: Arc<dyn Sandbox>,
    /// Counts the running commands by its strong references: there is one more than there are running commands.
    pub commands: Arc<()>,
    /// Writes the flows of the sandbox to disk, if the sandbox has granted hosts.
    flows: Option<FlowWriter>,
    /// Protects the sandbox's layers from removal, whatever the records contain.
    _held: Hold,
}

impl Running {
    /// Returns the number of running commands.
    pub fn commands_running(&self) -> usize {
        Arc::strong_count(&self.commands) - 1
    }
}

/// The processes of a sandbox, if started. Only the task that holds the lock on it changes the layers.
#[derive(Default)]
pub struct SandboxRuntime {
    /// The running sandbox, if started.
    pub running: Option<Running>,
    /// True while the processes are paused. Processes that are started during that time are also paused.
    pub paused: bool,
    /// The time at which the processes were last used.
    pub used: Option<Instant>,
    /// Usage of the processes that have ended.
    past: Usage,
}

impl SandboxRuntime {
    /// Ends the sandbox's processes, if any, and waits until nothing of them is left.
    ///
    /// # Errors
    /// As [`Sandbox::destroy`].
    pub async fn end(&mut self) -> Result<(), LayeredError> {
        if let Some(running) = &self.running {
            // The usage of a lost sandbox is unknown.
            let used = running.sandbox.resource_usage().await.unwrap_or_default();
            running.sandbox.destroy().await?;
            self.past = sum(&self.past, &used);
            let flows = self.running.take().and_then(|running| running.flows);
            if let Some(flows) = flows {
                flows.finish().await?;
            }
        }
        self.paused = false;
        Ok(())
    }

    /// Returns the resources used by the sandbox's current and former processes.
    ///
    /// # Errors
    /// As [`Sandbox::resource_usage`].
    pub async fn usage(&self) -> Result<Usage, LayeredError> {
        match &self.running {
            Some(running) => Ok(sum(&self.past, &running.sandbox.resource_usage().await?)),
            None => Ok(self.past),
        }
    }

    /// Returns the sandbox's processes. Starts them from the state on disk if they are not alive.
    ///
    /// # Errors
    /// The error of preparing the layers or of creating the sandbox.
    pub async fn start(&mut self, place: SandboxRef<'_>) -> Result<&Running, LayeredError> {
        let alive = match &self.running {
            Some(running) => running.sandbox.is_alive().await,
            None => false,
        };
        if !alive {
            let paused = self.paused;
            self.end().await?;
            self.paused = paused;
            let name = place.name.clone();
            let hold = move |state: &SandboxStore| {
                let (record, held) = state.hold(&name)?;
                state.before_mount(&record)?;
                Ok((record, held))
            };
            let (record, held) = on_disk(place.state, hold).await?;
            let mut spec = place.spec.unwrap_or(&record.about.spec).clone();
            if let Some(grant) = spec.grants.iter().find(|grant| grant.object.is_none()) {
                let path = grant.path.display();
                let call = format!(
                    "open {path}: an older agentd wrote the sandbox's record, which does not identify the granted object"
                );
                return Err(IsolationError::from(ControlError::new(Control::Grants, call, None)).into());
            }
            spec.writable = Writable::KeptLayers(place.state.layer_paths(&record));
            let sandbox = place.backend.create_sandbox(spec).await?;
            let mut ready = place.state.after_mount(&record).map_err(LayeredError::from);
            if paused && ready.is_ok() {
                ready = sandbox.suspend().await.map_err(LayeredError::from);
            }
            if let Err(error) = ready {
                // The caller gets the first error. The sandbox must not run if it could not be paused.
                sandbox.destroy().await.or_warn("destroy sandbox that could not be started", place.name);
                return Err(error);
            }
            tracing::info!(name = %place.name, id = %sandbox.id().0, "sandbox started");
            let flows = sandbox.network_log().and_then(|log| {
                FlowWriter::start(log, place.state.log_directory(place.name)).or_warn("record the flows of sandbox", place.name)
            });
            self.running = Some(Running { sandbox, commands: Arc::new(()), flows, _held: held });
        }
        self.used = Some(Instant::now());
        self.running.as_ref().ok_or_else(|| {
            IsolationError::Internal(format!(
                "start sandbox {}: its processes are missing although the start succeeded",
                place.name
            ))
            .into()
        })
    }

    /// Pauses all processes until [`SandboxRuntime::resume`]. Starts them first if necessary.
    ///
    /// # Errors
    /// As [`SandboxRuntime::start`] and [`Sandbox::suspend`].
    pub async fn pause(&mut self, place: SandboxRef<'_>) -> Result<(), LayeredError> {
        if !self.paused {
            self.start(place).await?.sandbox.suspend().await?;
            self.paused = true;
        }
        Ok(())
    }

    /// Resumes the processes.
    ///
    /// # Errors
    /// As [`Sandbox::resume`].
    pub async fn resume(&mut self) -> Result<(), LayeredError> {
        if let (true, Some(running)) = (self.paused, &self.running) {
            running.sandbox.resume().await?;
        }
        self.paused = false;
        Ok(())
    }

    /// Runs `work`, which commits the changes of the sandbox as a layer.
    ///
    /// - No command runs: the processes are ended and the layer is committed in place, in constant time.
    /// - A command runs, and may write to any file that it has open: all processes are paused while the layer is copied.
    ///
    /// # Errors
    /// The error of `work`, or of ending, pausing or resuming the processes.
    pub async fn committed<T: Send + 'static>(
        &mut self,
        place: SandboxRef<'_>,
        work: impl FnOnce(&SandboxStore, SaveMode) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, LayeredError> {
        let Some(running) = self.running.as_ref().filter(|running| running.commands_running() > 0) else {
            let paused = self.paused;
            self.end().await?;
            self.paused = paused && place.state.record(place.name).is_ok();
            return on_disk(place.state, |state| work(state, SaveMode::Commit)).await;
        };
        if !self.paused {
            running.sandbox.suspend().await?;
        }
        let done = on_disk(place.state, |state| work(state, SaveMode::Copy)).await;
        if !self.paused {
            running.sandbox.resume().await?;
        }
        done
    }

    /// Ends the sandbox's processes and restores its layers from a snapshot.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] if there is no such snapshot; the sandbox is then unchanged. Otherwise, the error of the
    /// processes or the layers.
    pub async fn restore(&mut self, place: SandboxRef<'_>, snapshot: Name) -> Result<(), LayeredError> {
        // Checked before the processes are ended.
        let record = place.state.record(place.name)?;
        if !record.snapshots.contains_key(&snapshot) {
            let known = record.snapshots.keys().map(ToString::to_string).collect();
            return Err(StoreError::NoSnapshot { name: place.name.clone(), snapshot, known }.into());
        }
        self.end().await?;
        let name = place.name.clone();
        on_disk(place.state, move |state| state.restore(&name, &snapshot).map(drop)).await
    }
}

fn sum(past: &Usage, now: &Usage) -> Usage {
    Usage {
        wall: past.wall + now.wall,
        cpu_user: past.cpu_user + now.cpu_user,
        cpu_system: past.cpu_system + now.cpu_system,
        peak_memory: past.peak_memory.max(now.peak_memory),
        peak_memory_is_group: if past.peak_memory > now.peak_memory {
            past.peak_memory_is_group
        } else {
            now.peak_memory_is_group
        },
        machine_memory: now.machine_memory,
    }
}

/// Runs `work`, which may take a long time, on a thread for blocking operations.
///
/// # Errors
/// The error of `work`, or [`IsolationError::Internal`] if it panicked.
pub async fn on_disk<T: Send + 'static>(
    state: &Arc<SandboxStore>,
    work: impl FnOnce(&SandboxStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, LayeredError> {
    let state = state.clone();
    match tokio::task::spawn_blocking(move || work(&state)).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(IsolationError::Internal(format!("run a blocking task: {error}")).into()),
    }
}

/// Squashes the layers of a sandbox if there are many, in the background, and removes layers that are no longer used.
pub fn squash_and_collect(state: &Arc<SandboxStore>, name: Name) {
    let state = state.clone();
    tokio::spawn(async move {
        // If a step fails now, the next call repeats it.
        let of = name.clone();
        on_disk(&state, move |state| state.squash(&of)).await.or_warn("merge layers of sandbox", &name);
        on_disk(&state, SandboxStore::collect).await.or_warn("remove unused layers of sandbox", &name);
    });
}
