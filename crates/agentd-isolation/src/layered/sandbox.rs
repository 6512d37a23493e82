//! A layered sandbox behind the [`Sandbox`] interface.

use super::{
    LayerStore,
    runtime::{Running, SandboxRef, SandboxRuntime, on_disk, squash_and_collect},
};
use crate::{grants, tracker::Tracker};
use agentd_core::{
    BackendCapabilities, Command, ControlReport, EndReason, ExecHandle, ExecStreams, IsolationBackend, IsolationError, Outcome,
    PtySize, Sandbox, SandboxId, SandboxSpec, Usage,
};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{ForkSource, Name, SandboxStore, StoreError};
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

/// A layered sandbox. An operation on its processes or layers runs to completion even if the caller stops waiting: half a
/// snapshot would leave commands paused.
pub(crate) struct LayeredSandbox(Arc<Inner>);

struct Inner {
    id: SandboxId,
    name: Name,
    origin: Origin,
    /// The control reports of the first start.
    controls: OnceLock<Vec<ControlReport>>,
    runtime: Mutex<SandboxRuntime>,
    /// The sandbox is destroyed, or its destruction has begun: it can no longer be used.
    gone: AtomicBool,
    /// The sandbox and its layers are removed from disk.
    removed: AtomicBool,
}

/// The parts that a sandbox shares with its forks.
#[derive(Clone)]
struct Origin {
    spec: Arc<SandboxSpec>,
    layer_store: Arc<LayerStore>,
    /// The backend that created the sandbox. It returns the proven capabilities.
    backend: Arc<dyn IsolationBackend>,
    /// The tracker that lists the sandbox and its forks.
    running: Weak<Tracker<LayeredSandbox>>,
}

impl LayeredSandbox {
    /// Creates a sandbox of `spec`.
    pub(crate) async fn create(
        layer_store: Arc<LayerStore>,
        backend: Arc<dyn IsolationBackend>,
        running: &Arc<Tracker<Self>>,
        mut spec: SandboxSpec,
    ) -> Result<Arc<Self>, IsolationError> {
        // The grants are pinned, because the processes are started again after every snapshot.
        grants::pin(&mut spec)?;
        let name = layer_store.create().await?;
        let origin = Origin { spec: Arc::new(spec), layer_store, backend, running: Arc::downgrade(running) };
        Self::open(origin, name).await
    }

    /// Starts the processes of a sandbox that exists on disk. If that fails, the sandbox is removed.
    async fn open(origin: Origin, name: Name) -> Result<Arc<Self>, IsolationError> {
        let id = SandboxId(format!("{}-{}-{name}", origin.backend.name(), std::process::id()));
        let (controls, runtime, gone, removed) =
            (OnceLock::new(), Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        let sandbox = Arc::new(Self(Arc::new(Inner { id, name, origin, controls, runtime, gone, removed })));
        let (started, _) = sandbox.used().await?;
        let inner = &sandbox.0;
        inner.controls.get_or_init(|| started.controls().to_vec());
        if let Some(running) = inner.origin.running.upgrade() {
            running.add(&sandbox);
        }
        Ok(sandbox)
    }

    /// See [`Inner::used`]. Runs to completion: a partly started sandbox would still have its layers mounted at the next start.
    async fn used(&self) -> Result<(Arc<dyn Sandbox>, Arc<()>), IsolationError> {
        let inner = self.0.clone();
        run_to_completion(async move { inner.used().await }).await
    }
}

/// Runs `work` to completion, even if the caller stops waiting.
async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = Result<T, IsolationError>> + Send + 'static,
) -> Result<T, IsolationError> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(IsolationError::Internal(format!("run a task of the sandbox: {error}"))),
    }
}

impl Inner {
    fn place(&self) -> SandboxRef<'_> {
        let Origin { spec, layer_store, .. } = &self.origin;
        SandboxRef { backend: &*layer_store.backend, state: &layer_store.state, name: &self.name, spec: Some(spec) }
    }

    fn check(&self) -> Result<(), IsolationError> {
        if self.gone.load(Ordering::Acquire) { Err(IsolationError::SandboxGone("destroyed".to_owned())) } else { Ok(()) }
    }

    /// Locks the runtime.
    ///
    /// # Errors
    /// [`IsolationError::SandboxGone`] if the sandbox was destroyed.
    async fn runtime(&self) -> Result<MutexGuard<'_, SandboxRuntime>, IsolationError> {
        let runtime = self.runtime.lock().await;
        self.check()?;
        Ok(runtime)
    }

    /// Returns the processes of the sandbox, started if necessary, and a token. A command counts as running while its token
    /// lives.
    async fn used(&self) -> Result<(Arc<dyn Sandbox>, Arc<()>), IsolationError> {
        let mut runtime = self.runtime().await?;
        let Running { sandbox, commands, .. } = runtime.start(self.place()).await?;
        Ok((sandbox.clone(), commands.clone()))
    }

    async fn snapshot(&self, snapshot: Name) -> Result<(), IsolationError> {
        let of = self.name.clone();
        let save = move |state: &SandboxStore, how| state.replace_snapshot(&of, &snapshot, how).map(drop);
        self.runtime().await?.committed(self.place(), save).await?;
        squash_and_collect(&self.origin.layer_store.state, self.name.clone());
        Ok(())
    }

    async fn restore(&self, snapshot: Name) -> Result<(), IsolationError> {
        self.runtime().await?.restore(self.place(), snapshot).await?;
        squash_and_collect(&self.origin.layer_store.state, self.name.clone());
        Ok(())
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let (of, new) = (self.name.clone(), LayerStore::fresh_name()?);
        let made = new.clone();
        let fork = move |state: &SandboxStore, how| state.fork(&of, ForkSource::Now(how), &[made]).map(drop);
        self.runtime().await?.committed(self.place(), fork).await?;
        squash_and_collect(&self.origin.layer_store.state, self.name.clone());
        Ok(LayeredSandbox::open(self.origin.clone(), new).await?)
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let mut runtime = self.runtime.lock().await;
        runtime.end().await?;
        self.gone.store(true, Ordering::Release);
        if self.removed.load(Ordering::Acquire) {
            return Ok(());
        }
        let name = self.name.clone();
        let remove = move |state: &SandboxStore| {
            match state.remove(&name) {
                // A removal that failed later has removed the name.
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            state.collect().map(drop)
        };
        on_disk(&self.origin.layer_store.state, remove).await?;
        self.removed.store(true, Ordering::Release);
        Ok(())
    }
}

/// A handle on a command, with the token that counts the command as running.
struct CountedExec {
    handle: Box<dyn ExecHandle>,
    running: Option<Arc<()>>,
}

#[async_trait]
impl ExecHandle for CountedExec {
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

    fn controls(&self) -> &[ControlReport] {
        self.0.controls.get().map_or(&[], Vec::as_slice)
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
        Ok(Box::new(CountedExec { handle, running: Some(running) }))
    }

    async fn exec_tool(&self, command: Command) -> Result<Outcome, IsolationError> {
        let (sandbox, _running) = self.used().await?;
        sandbox.exec_tool(command).await
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

    /// Returns true until the sandbox is destroyed. Processes that have ended are started again on demand.
    async fn is_alive(&self) -> bool {
        self.0.check().is_ok()
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        let inner = self.0.clone();
        run_to_completion(async move { Ok(inner.runtime().await?.pause(inner.place()).await?) }).await
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        let inner = self.0.clone();
        run_to_completion(async move { Ok(inner.runtime().await?.resume().await?) }).await
    }

    async fn snapshot(&self, name: &str) -> Result<(), IsolationError> {
        let (inner, snapshot) = (self.0.clone(), snapshot_name(name)?);
        run_to_completion(async move { inner.snapshot(snapshot).await }).await
    }

    async fn restore(&self, name: &str) -> Result<(), IsolationError> {
        let (inner, snapshot) = (self.0.clone(), snapshot_name(name)?);
        run_to_completion(async move { inner.restore(snapshot).await }).await
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let inner = self.0.clone();
        run_to_completion(async move { inner.fork().await }).await
    }

    async fn resource_usage(&self) -> Result<Usage, IsolationError> {
        Ok(self.0.runtime().await?.usage().await?)
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let inner = self.0.clone();
        run_to_completion(async move { inner.destroy().await }).await
    }
}

impl Drop for LayeredSandbox {
    fn drop(&mut self) {
        let inner = self.0.clone();
        // Without a runtime, the processes end with their handles, and the layers are removed with the layer store.
        if let (Ok(()), Ok(runtime)) = (inner.check(), Handle::try_current()) {
            runtime.spawn(async move { inner.destroy().await.or_warn("destroy dropped sandbox", "container") });
        }
    }
}

/// Parses the name of a snapshot, which becomes part of a file name.
fn snapshot_name(name: &str) -> Result<Name, IsolationError> {
    name.parse().map_err(|error: agentd_sandboxes::NotAName| IsolationError::Invalid {
        what: "snapshot".to_owned(),
        reason: error.to_string(),
    })
}
