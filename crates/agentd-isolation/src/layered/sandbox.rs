//! A sandbox of layers, like any other to its user.

use super::{
    Home,
    slot::{Live, Place, Slot, on_disk, settle},
};
use crate::tracker::Tracker;
use agentd_core::{
    BackendCapabilities, Command, EndReason, ExecHandle, ExecStreams, IsolationBackend, IsolationError, LayerReport, Outcome,
    PtySize, Sandbox, SandboxId, SandboxSpec, Usage,
};
use agentd_sandboxes::{Name, Of, State};
use async_trait::async_trait;
use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, MutexGuard},
};

/// See the head of this module. What is begun with its processes or its layers is done to its end, also when nobody waits for it: half a
/// snapshot would leave commands standing still.
pub(crate) struct LayeredSandbox(Arc<Inner>);

struct Inner {
    id: SandboxId,
    name: Name,
    origin: Origin,
    /// Told when it is started first.
    layers: OnceLock<Vec<LayerReport>>,
    slot: Mutex<Slot>,
    gone: AtomicBool,
}

/// What a sandbox has in common with its copies.
#[derive(Clone)]
struct Origin {
    spec: Arc<SandboxSpec>,
    home: Arc<Home>,
    /// What has been proven is its backend's to say.
    backend: Arc<dyn IsolationBackend>,
    /// Where they are listed.
    live: Weak<Tracker<LayeredSandbox>>,
}

impl LayeredSandbox {
    /// Makes one of `spec`.
    pub(crate) async fn create(
        home: Arc<Home>,
        backend: Arc<dyn IsolationBackend>,
        live: &Arc<Tracker<Self>>,
        spec: SandboxSpec,
    ) -> Result<Arc<Self>, IsolationError> {
        let name = home.create().await?;
        let origin = Origin { spec: Arc::new(spec), home, backend, live: Arc::downgrade(live) };
        Self::open(origin, name).await
    }

    /// Starts the processes of one that is on disk. Where they cannot be, it is removed.
    async fn open(origin: Origin, name: Name) -> Result<Arc<Self>, IsolationError> {
        let id = SandboxId(format!("{}-{}-{name}", origin.backend.name(), std::process::id()));
        let (layers, slot, gone) = (OnceLock::new(), Mutex::default(), AtomicBool::new(false));
        let sandbox = Arc::new(Self(Arc::new(Inner { id, name, origin, layers, slot, gone })));
        let (started, _) = sandbox.used().await?;
        let inner = &sandbox.0;
        inner.layers.get_or_init(|| started.layers().to_vec());
        if let Some(live) = inner.origin.live.upgrade() {
            live.add(&sandbox);
        }
        Ok(sandbox)
    }

    /// See [`Inner::used`]. One that is started by half would still have its layers when the next is.
    async fn used(&self) -> Result<(Arc<dyn Sandbox>, Arc<()>), IsolationError> {
        let inner = self.0.clone();
        whole(async move { inner.used().await }).await
    }
}

/// Does it to its end, whether that is waited for or not.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, IsolationError>> + Send + 'static,
) -> Result<T, IsolationError> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(IsolationError::Lost(format!("a task of the sandbox: {error}"))),
    }
}

impl Inner {
    fn place(&self) -> Place<'_> {
        let Origin { spec, home, .. } = &self.origin;
        Place { backend: &*home.backend, state: &home.state, name: &self.name, spec: Some(spec) }
    }

    fn check(&self) -> Result<(), IsolationError> {
        if self.gone.load(Ordering::Acquire) { Err(IsolationError::Lost("destroyed".to_owned())) } else { Ok(()) }
    }

    /// Its place, as long as it is not destroyed.
    async fn slot(&self) -> Result<MutexGuard<'_, Slot>, IsolationError> {
        let slot = self.slot.lock().await;
        self.check()?;
        Ok(slot)
    }

    /// Its processes, and what says that a command of theirs runs for as long as it lives.
    async fn used(&self) -> Result<(Arc<dyn Sandbox>, Arc<()>), IsolationError> {
        let mut slot = self.slot().await?;
        let Live { sandbox, commands, .. } = slot.start(self.place()).await?;
        Ok((sandbox.clone(), commands.clone()))
    }

    async fn snapshot(&self, snapshot: Name) -> Result<(), IsolationError> {
        let of = self.name.clone();
        let save = move |state: &State, how| state.snapshot_anew(&of, &snapshot, how).map(drop);
        self.slot().await?.sealed(self.place(), save).await?;
        settle(&self.origin.home.state, self.name.clone());
        Ok(())
    }

    async fn restore(&self, snapshot: Name) -> Result<(), IsolationError> {
        self.slot().await?.restore(self.place(), snapshot).await?;
        settle(&self.origin.home.state, self.name.clone());
        Ok(())
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let (of, new) = (self.name.clone(), Home::fresh_name()?);
        let made = new.clone();
        let multiply = move |state: &State, how| state.fork(&of, Of::Now(how), &[made]).map(drop);
        self.slot().await?.sealed(self.place(), multiply).await?;
        settle(&self.origin.home.state, self.name.clone());
        Ok(LayeredSandbox::open(self.origin.clone(), new).await?)
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let mut slot = self.slot.lock().await;
        slot.end().await?;
        if self.gone.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let name = self.name.clone();
        let remove = move |state: &State| {
            state.remove(&name)?;
            state.collect().map(drop)
        };
        Ok(on_disk(&self.origin.home.state, remove).await?)
    }
}

/// A command, which is counted as long as it runs.
struct Counted {
    handle: Box<dyn ExecHandle>,
    running: Option<Arc<()>>,
}

#[async_trait]
impl ExecHandle for Counted {
    fn take_streams(&mut self) -> ExecStreams {
        self.handle.take_streams()
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.handle.signal(signal).await
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        self.handle.resize(size).await
    }

    async fn end(&self, reason: EndReason) -> Result<(), IsolationError> {
        self.handle.end(reason).await
    }

    async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        let outcome = self.handle.wait().await;
        self.running = None;
        outcome
    }
}

#[async_trait]
impl Sandbox for LayeredSandbox {
    fn id(&self) -> &SandboxId {
        &self.0.id
    }

    fn layers(&self) -> &[LayerReport] {
        self.0.layers.get().map_or(&[], Vec::as_slice)
    }

    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError> {
        self.0.origin.backend.probe().await
    }

    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError> {
        let (sandbox, _running) = self.used().await?;
        sandbox.exec(command).await
    }

    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
        let (sandbox, running) = self.used().await?;
        let handle = sandbox.exec_streaming(command).await?;
        Ok(Box::new(Counted { handle, running: Some(running) }))
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError> {
        let (sandbox, _running) = self.used().await?;
        sandbox.read_file(path, limit).await
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError> {
        let (sandbox, _running) = self.used().await?;
        sandbox.write_file(path, content).await
    }

    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError> {
        let (sandbox, _running) = self.used().await?;
        sandbox.read_file_to(path, limit, to).await
    }

    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError> {
        let (sandbox, _running) = self.used().await?;
        sandbox.write_file_from(path, from).await
    }

    /// Processes that have ended are started again when they are needed.
    async fn is_alive(&self) -> bool {
        self.0.check().is_ok()
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        let inner = self.0.clone();
        whole(async move { Ok(inner.slot().await?.pause(inner.place()).await?) }).await
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        let inner = self.0.clone();
        whole(async move { Ok(inner.slot().await?.resume().await?) }).await
    }

    async fn snapshot(&self, name: &str) -> Result<(), IsolationError> {
        let (inner, snapshot) = (self.0.clone(), snapshot_name(name)?);
        whole(async move { inner.snapshot(snapshot).await }).await
    }

    async fn restore(&self, name: &str) -> Result<(), IsolationError> {
        let (inner, snapshot) = (self.0.clone(), snapshot_name(name)?);
        whole(async move { inner.restore(snapshot).await }).await
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let inner = self.0.clone();
        whole(async move { inner.fork().await }).await
    }

    async fn resource_usage(&self) -> Result<Usage, IsolationError> {
        Ok(self.0.slot().await?.usage().await?)
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let inner = self.0.clone();
        whole(async move { inner.destroy().await }).await
    }
}

impl Drop for LayeredSandbox {
    fn drop(&mut self) {
        let inner = self.0.clone();
        // Outside a runtime its processes are ended with what holds them, and its layers are gone with the home.
        if let (Ok(()), Ok(runtime)) = (inner.check(), Handle::try_current()) {
            runtime.spawn(async move { inner.destroy().await.ok() });
        }
    }
}

/// The name of a snapshot, which becomes part of a file.
fn snapshot_name(name: &str) -> Result<Name, IsolationError> {
    name.parse().map_err(|error: agentd_sandboxes::NotAName| IsolationError::Invalid {
        what: "snapshot".to_owned(),
        reason: error.to_string(),
    })
}
