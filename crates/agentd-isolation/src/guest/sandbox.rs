//! A sandbox in a virtual machine, like any other to its user.

use super::{
    Attach, Guest, Machine, exec,
    frame::{StreamId, Which},
    host::Rest,
    protocol::{FromGuest, ToGuest, bytes},
    session::{Operation, refused},
    told::shown,
};
use crate::{
    descriptor,
    exec::Image,
    sandbox::{outside, too_large},
};
use agentd_core::{
    BackendCapabilities, Command, Evidence, ExecHandle, IsolationError, LayerReport, Outcome, Sandbox, SandboxId, Usage,
};
use async_trait::async_trait;
use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// See the head of this module.
pub struct GuestSandbox {
    id: SandboxId,
    guest: Arc<Guest>,
    /// Held while its state is saved or replaced.
    state: tokio::sync::Mutex<()>,
    /// Whether it is, or was, to be destroyed: while it is being replaced, what comes then is destroyed, too.
    destroyed: AtomicBool,
}

impl GuestSandbox {
    /// Attaches to the agent of a machine over a carrier. It waits as long as the agent takes; dropped meanwhile, the machine is as it was.
    ///
    /// # Errors
    /// What hinders the sandbox from being made, as on the host; [`IsolationError::Lost`] when there is no agent of this version of agentd.
    /// The machine is then to be destroyed.
    pub async fn open<C>(id: SandboxId, machine: Arc<dyn Machine>, carrier: C, how: Attach) -> Result<Arc<Self>, IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let guest = Guest::attach(machine, carrier, how).await?;
        Ok(Arc::new(Self { id, guest, state: tokio::sync::Mutex::default(), destroyed: AtomicBool::new(false) }))
    }

    /// Its connection.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Attacks a sandbox like this one beside it in the guest, and exceeds its limits: what holds there, between a payload and its guest.
    /// It takes some seconds, and leaves empty directories in the root, where grants were.
    ///
    /// # Errors
    /// What hinders the agent from preparing it.
    pub async fn probe_inside(&self) -> Result<Vec<Evidence>, IsolationError> {
        let mut operation = self.begin()?;
        operation.session.request(&ToGuest::Probe { id: operation.id })?;
        match operation.answer("probe").await? {
            FromGuest::Probed { evidence, .. } => Ok(shown(evidence)),
            _ => Err(Operation::out_of_order()),
        }
    }

    /// Runs agentd's own image in the sandbox.
    pub(crate) async fn attack(&self, command: Command) -> Result<Outcome, IsolationError> {
        exec::run_to_end(self.guest.clone(), command, Image::Own).await
    }

    /// Refuses what cannot be done while the host's files follow those of the sandbox.
    fn refuse_to_part(&self, operation: &'static str) -> Result<(), IsolationError> {
        if self.guest.brings_back() { Err(self.guest.machine.unsupported(operation)) } else { Ok(()) }
    }

    /// Carries what is in a file of the guest's to `to`, as it comes.
    async fn fetch(&self, path: &Path, limit: u64, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, IsolationError> {
        let mut operation = self.begin()?;
        let stream = StreamId { of: operation.id, which: Which::Output };
        let mut from = operation.session.mux.inlet(stream).map_err(refused)?;
        operation.session.request(&ToGuest::Read { id: operation.id, path: bytes(path) })?;
        let mut total = 0;
        while let Some(bytes) = from.read().await {
            total += bytes.len() as u64;
            if total > limit {
                return Err(too_large(path));
            }
            to.write_all(&bytes).await.map_err(|source| outside(path, source))?;
        }
        to.flush().await.map_err(|source| outside(path, source))?;
        match operation.answer(&path.display().to_string()).await? {
            FromGuest::Done { bytes, .. } if bytes == total => Ok(total),
            _ => Err(Operation::out_of_order()),
        }
    }

    /// Carries all that `from` gives to a file of the guest's.
    async fn store(&self, path: &Path, from: &mut (dyn AsyncRead + Send + Unpin)) -> Result<u64, IsolationError> {
        let mut operation = self.begin()?;
        let stream = StreamId { of: operation.id, which: Which::Input };
        let mut to = operation.session.mux.outlet(stream).map_err(refused)?;
        operation.session.request(&ToGuest::Write { id: operation.id, path: bytes(path) })?;
        // Where the guest stops reading, its answer says why.
        let carried = to.carry(from).await;
        drop(to);
        let total = match carried {
            Ok(read) => Some(read.map_err(|source| outside(path, source))?),
            Err(_) => None,
        };
        match operation.answer(&path.display().to_string()).await? {
            FromGuest::Done { bytes, .. } if Some(bytes) == total => {
                self.guest.bring_back().await?;
                Ok(bytes)
            }
            _ => Err(Operation::out_of_order()),
        }
    }

    fn begin(&self) -> Result<Operation, IsolationError> {
        self.guest.session().begin()
    }
}

#[async_trait]
impl Sandbox for GuestSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn layers(&self) -> &[LayerReport] {
        &self.guest.layers
    }

    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError> {
        self.guest.machine.backend().probe().await
    }

    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError> {
        exec::run_to_end(self.guest.clone(), command, Image::Named).await
    }

    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
        exec::stream(self.guest.clone(), &command)
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError> {
        let mut content = Vec::new();
        self.fetch(path, limit, &mut content).await?;
        Ok(content)
    }

    async fn write_file(&self, path: &Path, mut content: &[u8]) -> Result<(), IsolationError> {
        self.store(path, &mut content).await.map(drop)
    }

    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError> {
        let mut to = descriptor::sink(to).map_err(|source| outside(path, source))?;
        self.fetch(path, limit, &mut to).await
    }

    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError> {
        let mut from = descriptor::source(from).map_err(|source| outside(path, source))?;
        self.store(path, &mut from).await
    }

    async fn is_alive(&self) -> bool {
        self.guest.is_alive()
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        self.guest.suspend(true).await
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        self.guest.suspend(false).await
    }

    async fn snapshot(&self, name: &str) -> Result<(), IsolationError> {
        self.refuse_to_part("snapshots of a sandbox with a read-write grant, whose files on the host they could not take back")?;
        let _one = self.state.lock().await;
        let _rest = Rest(&self.guest);
        self.guest.machine.snapshot(&self.guest, name).await
    }

    async fn restore(&self, name: &str) -> Result<(), IsolationError> {
        let _one = self.state.lock().await;
        if !self.guest.machine.restores(name) {
            return self.guest.machine.restore(&self.guest, name).await;
        }
        self.guest.let_go("it goes back to what it was");
        let restored = self.guest.machine.restore(&self.guest, name).await;
        if restored.is_err() {
            self.guest.end("it could not go back to what it was");
        }
        if self.destroyed.load(Ordering::SeqCst) {
            self.guest.let_go("destroyed");
            self.guest.machine.destroy().await?;
            return Err(self.guest.session().why_lost());
        }
        restored
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        self.refuse_to_part("forks of a sandbox with a read-write grant, whose files on the host both would change")?;
        let _one = self.state.lock().await;
        let _rest = Rest(&self.guest);
        self.guest.machine.fork(&self.guest).await
    }

    async fn resource_usage(&self) -> Result<Usage, IsolationError> {
        self.guest.usage().await
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        // What a command changed that still runs. One that stands still, or is no more, has nothing to say.
        let brought_back = if self.guest.answers() { self.guest.bring_back().await } else { Ok(()) };
        self.destroyed.store(true, Ordering::SeqCst);
        self.guest.let_go("destroyed");
        self.guest.machine.destroy().await?;
        brought_back
    }
}

impl Drop for GuestSandbox {
    fn drop(&mut self) {
        self.guest.end("nobody holds it any more");
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
