//! A sandbox in a virtual machine, with the same interface as every other sandbox.

use super::{
    Attach, Guest, Machine, exec,
    frame::{StreamId, StreamKind},
    host::QuiesceGuard,
    protocol::{FromGuest, ToGuest, bytes},
    sanitize::sanitize_evidence,
    session::{Operation, refused},
};
use agentd_core::{
    BackendCapabilities, Claim, Command, ControlReport, Evidence, ExecHandle, IsolationError, Network, NetworkApprovals,
    NetworkLog, Outcome, Sandbox, SandboxId, Usage,
};
use agentd_isolation::{
    descriptor,
    exec::{Executable, tool},
    probe::AttackedSandbox,
    sandbox::{outside, too_large},
};
use async_trait::async_trait;
use std::{
    ffi::OsString,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// A [`Sandbox`] in a virtual machine, served by the agent in its guest.
pub struct GuestSandbox {
    id: SandboxId,
    guest: Arc<Guest>,
    /// Held while the state is saved or replaced.
    state: tokio::sync::Mutex<()>,
    /// Set when [`Sandbox::destroy`] begins. A restore that completes afterwards destroys the machine that it restored.
    destroyed: AtomicBool,
}

impl GuestSandbox {
    /// Attaches to the agent of a machine over a transport. There is no timeout; if the call is cancelled, the machine keeps
    /// running unchanged.
    ///
    /// # Errors
    /// Returns the same errors as creating a sandbox on the host, and [`IsolationError::MachineLost`] if no agent of this agentd
    /// version answers. The caller must then destroy the machine.
    pub async fn open<C>(id: SandboxId, machine: Arc<dyn Machine>, transport: C, how: Attach) -> Result<Arc<Self>, IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let guest = Guest::attach(machine, transport, how).await?;
        Ok(Arc::new(Self { id, guest, state: tokio::sync::Mutex::default(), destroyed: AtomicBool::new(false) }))
    }

    /// Returns the host's handle on the guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Attacks a second sandbox like this one in the same guest, and exceeds its limits. The result shows what isolates a payload
    /// from its guest. Takes some seconds, and leaves empty directories in the root at the mount points of grants.
    ///
    /// # Errors
    /// Returns an error if the agent cannot prepare the probe.
    pub async fn probe_inside(&self) -> Result<Vec<Evidence>, IsolationError> {
        let mut operation = self.begin()?;
        operation.session.request(&ToGuest::Probe { id: operation.id })?;
        match operation.answer("probe").await? {
            FromGuest::Probed { evidence, .. } => Ok(sanitize_evidence(evidence)),
            _ => Err(Operation::out_of_order()),
        }
    }

    /// Returns the results of [`GuestSandbox::probe_inside`] as evidence of a backend. The backend runs the same checks against
    /// the host, so those of the guest get the prefix `inside_`, except for limits.
    ///
    /// # Errors
    /// Returns the errors of [`GuestSandbox::probe_inside`].
    pub async fn evidence_inside(&self) -> Result<Vec<Evidence>, IsolationError> {
        let named = |evidence: Evidence| match evidence.claim {
            Claim::Resources => evidence,
            _ => Evidence { check: format!("inside_{}", evidence.check), ..evidence },
        };
        Ok(self.probe_inside().await?.into_iter().map(named).collect())
    }

    /// Refuses `operation` if the sandbox has a writable grant, because the host's files can be neither reset nor duplicated.
    fn refuse_with_writable_grants(&self, operation: &'static str) -> Result<(), IsolationError> {
        if self.guest.copies_back() { Err(self.guest.machine.unsupported(operation)) } else { Ok(()) }
    }

    /// Copies a file of the guest to `to`, streaming.
    async fn fetch(&self, path: &Path, limit: u64, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<u64, IsolationError> {
        let mut operation = self.begin()?;
        let stream = StreamId { operation: operation.id, kind: StreamKind::Output };
        let mut from = operation.session.mux.recv_stream(stream).map_err(refused)?;
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

    /// Copies `from`, until its end, to a file of the guest.
    async fn store(&self, path: &Path, from: &mut (dyn AsyncRead + Send + Unpin)) -> Result<u64, IsolationError> {
        let mut operation = self.begin()?;
        let stream = StreamId { operation: operation.id, kind: StreamKind::Input };
        let mut to = operation.session.mux.send_stream(stream).map_err(refused)?;
        operation.session.request(&ToGuest::Write { id: operation.id, path: bytes(path) })?;
        // If the guest stops reading, its answer contains the reason.
        let copied = to.copy_from(from).await;
        drop(to);
        let total = match copied {
            Ok(read) => Some(read.map_err(|source| outside(path, source))?),
            Err(_) => None,
        };
        match operation.answer(&path.display().to_string()).await? {
            FromGuest::Done { bytes, .. } if Some(bytes) == total => {
                self.guest.pull().await?;
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
impl AttackedSandbox for GuestSandbox {
    async fn attack(&self, command: Command) -> Result<Outcome, IsolationError> {
        exec::run_to_end(self.guest.clone(), command, Executable::Attack).await
    }
}

#[async_trait]
impl Sandbox for GuestSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn controls(&self) -> &[ControlReport] {
        &self.guest.controls
    }

    fn network_log(&self) -> Option<Arc<dyn NetworkLog>> {
        self.guest.gateway.as_ref().map(|gateway| gateway.log())
    }

    fn network_approvals(&self) -> Option<Arc<dyn NetworkApprovals>> {
        self.guest.gateway.as_ref().map(|gateway| gateway.approvals())
    }

    fn network_environment(&self) -> Vec<(OsString, OsString)> {
        self.guest.gateway.as_ref().map(|gateway| gateway.environment()).unwrap_or_default()
    }

    async fn set_network(&self, network: &Network) -> Result<(), IsolationError> {
        let _one = self.state.lock().await;
        self.guest.change_network(network).await
    }

    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError> {
        self.guest.machine.backend().probe().await
    }

    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError> {
        exec::run_to_end(self.guest.clone(), command, Executable::FromPath).await
    }

    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
        exec::stream(self.guest.clone(), command)
    }

    async fn exec_tool(&self, command: Command) -> Result<Outcome, IsolationError> {
        exec::run_to_end(self.guest.clone(), tool(command), Executable::Tool).await
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
        self.refuse_with_writable_grants(
            "snapshots of a sandbox with a read-write grant: a restore cannot restore the host's files",
        )?;
        let _one = self.state.lock().await;
        let _guard = QuiesceGuard(&self.guest);
        self.guest.machine.snapshot(&self.guest, name).await
    }

    async fn restore(&self, name: &str) -> Result<(), IsolationError> {
        let _one = self.state.lock().await;
        if !self.guest.machine.restores(name) {
            return self.guest.machine.restore(&self.guest, name).await;
        }
        self.guest.detach("a snapshot is being restored");
        let restored = self.guest.machine.restore(&self.guest, name).await;
        if restored.is_err() {
            self.guest.end("the snapshot could not be restored");
        }
        if self.destroyed.load(Ordering::SeqCst) {
            self.guest.detach("destroyed");
            self.guest.machine.destroy().await?;
            return Err(self.guest.session().why_lost());
        }
        restored
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        self.refuse_with_writable_grants(
            "forks of a sandbox with a read-write grant: both sandboxes would change the same files of the host",
        )?;
        let _one = self.state.lock().await;
        let _guard = QuiesceGuard(&self.guest);
        self.guest.machine.fork(&self.guest).await
    }

    async fn resource_usage(&self) -> Result<Usage, IsolationError> {
        self.guest.usage().await
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        // Commands that still run may have changed copied files since the last pull. A stopped or lost guest cannot answer.
        let brought_back = if self.guest.answers() { self.guest.pull().await } else { Ok(()) };
        self.destroyed.store(true, Ordering::SeqCst);
        self.guest.drain().await;
        self.guest.detach("destroyed");
        self.guest.machine.destroy().await?;
        self.guest.stop_gateway().await;
        brought_back
    }
}

impl Drop for GuestSandbox {
    fn drop(&mut self) {
        self.guest.detach("dropped");
        self.guest.machine.kill();
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
