//! The processes of one sandbox over its layers.

use super::LayeredError;
use agentd_core::{IsolationBackend, IsolationError, Sandbox, SandboxSpec, Usage, Writable};
use agentd_sandboxes::{Hold, How, Name, State, StateError};
use std::{sync::Arc, time::Instant};

/// A sandbox on disk, and what makes its processes.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Makes sandboxes over layers on disk.
    pub backend: &'a dyn IsolationBackend,
    /// Where it is.
    pub state: &'a Arc<State>,
    /// What it is called there.
    pub name: &'a Name,
    /// What it is made of, where its record does not say so.
    pub spec: Option<&'a SandboxSpec>,
}

/// The processes of a sandbox that has some.
pub struct Live {
    /// They.
    pub sandbox: Arc<dyn Sandbox>,
    /// As many as commands run, and one.
    pub commands: Arc<()>,
    /// Its layers are not removed, whatever the records say.
    _held: Hold,
}

impl Live {
    /// How many commands run.
    pub fn running(&self) -> usize {
        Arc::strong_count(&self.commands) - 1
    }
}

/// A place for them. Who has it, and nobody else, changes the layers.
#[derive(Default)]
pub struct Slot {
    /// They, where there are any.
    pub live: Option<Live>,
    /// Whether they stand still, and those that are started meanwhile do too.
    pub paused: bool,
    /// When they were last used.
    pub used: Option<Instant>,
    /// What those that have ended used.
    past: Usage,
}

impl Slot {
    /// Ends its processes, if there are any, and waits until nothing of them is left.
    ///
    /// # Errors
    /// What of them could not be removed.
    pub async fn end(&mut self) -> Result<(), LayeredError> {
        if let Some(live) = &self.live {
            // Of one that is lost nothing is known any more.
            let used = live.sandbox.resource_usage().await.unwrap_or_default();
            live.sandbox.destroy().await?;
            self.past = sum(&self.past, &used);
            self.live = None;
        }
        self.paused = false;
        Ok(())
    }

    /// What its processes have used so far, these and those before.
    ///
    /// # Errors
    /// As [`Sandbox::resource_usage`].
    pub async fn usage(&self) -> Result<Usage, LayeredError> {
        match &self.live {
            Some(live) => Ok(sum(&self.past, &live.sandbox.resource_usage().await?)),
            None => Ok(self.past),
        }
    }

    /// Its processes, started from what is on disk where there are none.
    ///
    /// # Errors
    /// What hinders the sandbox from being made.
    pub async fn start(&mut self, place: Place<'_>) -> Result<&Live, LayeredError> {
        let alive = match &self.live {
            Some(live) => live.sandbox.is_alive().await,
            None => false,
        };
        if !alive {
            let paused = self.paused;
            self.end().await?;
            self.paused = paused;
            let name = place.name.clone();
            let hold = move |state: &State| {
                let (record, held) = state.hold(&name)?;
                state.before_mount(&record)?;
                Ok((record, held))
            };
            let (record, held) = on_disk(place.state, hold).await?;
            let mut spec = place.spec.unwrap_or(&record.about.spec).clone();
            spec.writable = Writable::Disk(place.state.layer_paths(&record));
            let sandbox = place.backend.create_sandbox(spec).await?;
            let mut ready = place.state.after_mount(&record).map_err(LayeredError::from);
            if paused && ready.is_ok() {
                ready = sandbox.suspend().await.map_err(LayeredError::from);
            }
            if let Err(error) = ready {
                // The first error is the one to tell. What is paused does not run, and this would.
                sandbox.destroy().await.ok();
                return Err(error);
            }
            self.live = Some(Live { sandbox, commands: Arc::new(()), _held: held });
        }
        self.used = Some(Instant::now());
        self.live.as_ref().ok_or_else(|| IsolationError::Lost(format!("{} could not be started", place.name)).into())
    }

    /// Stops all its processes, until [`Slot::resume`].
    ///
    /// # Errors
    /// As [`Sandbox::suspend`].
    pub async fn pause(&mut self, place: Place<'_>) -> Result<(), LayeredError> {
        if !self.paused {
            self.start(place).await?.sandbox.suspend().await?;
            self.paused = true;
        }
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`Sandbox::resume`].
    pub async fn resume(&mut self) -> Result<(), LayeredError> {
        if let (true, Some(live)) = (self.paused, &self.live) {
            live.sandbox.resume().await?;
        }
        self.paused = false;
        Ok(())
    }

    /// Does something that keeps the changes of the sandbox as a layer. Where no command runs, its processes are ended and the layer is
    /// sealed as it is, in a time that does not depend on how much is in it. Where one runs, which may write to any file it has open, all
    /// processes are stopped meanwhile and the layer is copied.
    ///
    /// # Errors
    /// What the work says, or what hinders it.
    pub async fn sealed<T: Send + 'static>(
        &mut self,
        place: Place<'_>,
        work: impl FnOnce(&State, How) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, LayeredError> {
        let Some(live) = self.live.as_ref().filter(|live| live.running() > 0) else {
            let paused = self.paused;
            self.end().await?;
            self.paused = paused && place.state.record(place.name).is_ok();
            return on_disk(place.state, |state| work(state, How::Seal)).await;
        };
        if !self.paused {
            live.sandbox.suspend().await?;
        }
        let done = on_disk(place.state, |state| work(state, How::Copy)).await;
        if !self.paused {
            live.sandbox.resume().await?;
        }
        done
    }

    /// Ends its processes, and makes it what it was when a snapshot was made of it.
    ///
    /// # Errors
    /// [`StateError::NoSnapshot`] if there is none of that name; then nothing is changed.
    pub async fn restore(&mut self, place: Place<'_>, snapshot: Name) -> Result<(), LayeredError> {
        // Before anything is ended: it may not exist.
        let record = place.state.record(place.name)?;
        if !record.snapshots.contains_key(&snapshot) {
            let known = record.snapshots.keys().map(ToString::to_string).collect();
            return Err(StateError::NoSnapshot { name: place.name.clone(), snapshot, known }.into());
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

/// Does what may take long, because it goes through files, beside everything else.
///
/// # Errors
/// What the work says.
pub async fn on_disk<T: Send + 'static>(
    state: &Arc<State>,
    work: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
) -> Result<T, LayeredError> {
    let state = state.clone();
    match tokio::task::spawn_blocking(move || work(&state)).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(IsolationError::Lost(format!("a thread that waited for a disk: {error}")).into()),
    }
}

/// Merges layers of a sandbox where there are many, beside everything else, and removes what nobody needs then.
pub fn settle(state: &Arc<State>, name: Name) {
    let state = state.clone();
    tokio::spawn(async move {
        // What could not be done now is done after the next.
        on_disk(&state, move |state| state.squash(&name)).await.ok();
        on_disk(&state, State::collect).await.ok();
    });
}
