//! The traits that backends implement.

use crate::{
    BackendCapabilities, BackendTraits, Command, ControlReport, IsolationError, Network, NetworkApprovals, NetworkLog, Outcome,
    PlanLine, PtySize, SandboxSpec, Usage, explain,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, fmt, os::fd::OwnedFd, path::Path, sync::Arc};

/// The name of a sandbox, unique within its backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId(pub String);

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A way to create sandboxes, e.g. `container` or `firecracker`.
#[async_trait]
pub trait IsolationBackend: Send + Sync {
    /// Returns the canonical name of the backend.
    fn name(&self) -> &str;
    /// Returns the traits of this backend's sandboxes. They are known without a probe and do not change while the backend exists.
    fn traits(&self) -> BackendTraits {
        BackendTraits::UNKNOWN
    }
    /// Describes the sandbox that [`IsolationBackend::create_sandbox`] would create for `spec`, and creates nothing. The default
    /// implementation lists what `spec` requests.
    ///
    /// # Errors
    /// Returns the errors of [`IsolationBackend::create_sandbox`] that follow from `spec` alone.
    fn explain(&self, spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
        Ok(explain::requested(spec))
    }
    /// Creates a small sandbox, attacks it from inside, and reports which claims held.
    ///
    /// # Errors
    /// Fails if the sandbox cannot be created or the checks cannot be run. A check that did not hold is not an error.
    async fn probe(&self) -> Result<BackendCapabilities, IsolationError>;
    /// Creates a sandbox. When this function returns, every control has been applied.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a spec that cannot be satisfied, [`IsolationError::GrantChanged`] for a grant that leads
    /// to another object, and [`IsolationError::Control`] for a control that could not be applied.
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError>;
    /// Lists the sandboxes that exist.
    ///
    /// # Errors
    /// Fails if the sandboxes cannot be listed.
    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError>;
    /// Returns the sandbox named `id`, or `None` if there is no such sandbox.
    ///
    /// # Errors
    /// Fails if the sandboxes cannot be listed.
    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError>;
    /// Destroys every sandbox of this backend, and waits until their processes, files and ids have been released.
    ///
    /// # Errors
    /// Fails if a sandbox cannot be destroyed completely.
    async fn destroy_all(&self) -> Result<(), IsolationError>;
    /// Checks that sandboxes can be created now. The default implementation creates one and destroys it.
    ///
    /// # Errors
    /// Returns the reason why no sandbox can be created.
    async fn health_check(&self) -> Result<(), IsolationError> {
        self.create_sandbox(SandboxSpec::default()).await?.destroy().await
    }
}

/// The caller's ends of an exec's streams. A command blocks while its output is not read, as with any pipe.
#[derive(Debug, Default)]
pub struct ExecStreams {
    /// The write end of standard input, if [`crate::StdinSource::Stream`] was requested. Dropping it signals end of file.
    pub stdin: Option<OwnedFd>,
    /// The read end of standard output; `None` on a PTY.
    pub stdout: Option<OwnedFd>,
    /// The read end of standard error; `None` on a PTY.
    pub stderr: Option<OwnedFd>,
    /// The master side of the PTY, if a PTY was requested.
    pub pty: Option<OwnedFd>,
}

/// A running exec. Dropping the handle before the exec has ended kills the exec.
#[async_trait]
pub trait ExecHandle: Send + Sync {
    /// Takes the streams. A second call returns an empty set.
    fn take_streams(&mut self) -> ExecStreams;
    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// Fails if the exec has ended or the sandbox was lost.
    async fn signal(&self, signal: i32) -> Result<(), IsolationError>;
    /// Sets the size of the exec's terminal.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] if the exec has no terminal. Also fails if the exec has ended or the sandbox was lost.
    async fn resize(&self, size: PtySize) -> Result<(), IsolationError>;
    /// Kills the whole process tree of the exec for `reason`, which [`ExecHandle::wait`] then returns. Does nothing if the exec
    /// has ended.
    ///
    /// # Errors
    /// Fails if the request cannot be sent.
    async fn end(&self, reason: crate::EndReason) -> Result<(), IsolationError>;
    /// Waits for the end of the exec and returns its outcome. A second call returns an error. All limits are enforced whether or
    /// not this function is awaited, except the output limit: streamed output passes through the caller only.
    ///
    /// # Errors
    /// [`IsolationError::AlreadyWaited`] if the outcome was already returned; otherwise the reason why the sandbox was lost.
    async fn wait(&mut self) -> Result<Outcome, IsolationError>;
}

/// One isolated environment in which commands are executed.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Returns the name of the sandbox.
    fn id(&self) -> &SandboxId;
    /// Returns the status that each control had when the sandbox was created.
    fn controls(&self) -> &[ControlReport];
    /// Returns the record of the sandbox's connections and attempts, if its network is limited to granted hosts
    /// ([`crate::Network::Egress`]).
    fn network_log(&self) -> Option<Arc<dyn NetworkLog>> {
        None
    }
    /// Returns the requests for approvals of hosts, if the network of the sandbox is limited to granted hosts
    /// ([`crate::Network::Egress`]). Before the first call, connections to hosts that need an approval are refused.
    fn network_approvals(&self) -> Option<Arc<dyn NetworkApprovals>> {
        None
    }
    /// Returns the variables that a command needs in its environment for the network of the sandbox: the placeholders of secrets,
    /// and the variables by which programs find the certificates of inspected hosts. Empty if the gateway does not inspect TLS.
    fn network_environment(&self) -> Vec<(OsString, OsString)> {
        Vec::new()
    }
    /// Replaces the network grants of a running sandbox ([`crate::Network::Egress`]). Connections that the new network grants do
    /// not allow end immediately. After an error, the old network grants still apply.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] if the network of the sandbox or the new network has no granted hosts. The same error is
    /// returned if a network grant cannot be enforced, if a program in the sandbox listens on a granted port, and by backends
    /// without granted hosts.
    async fn set_network(&self, _network: &Network) -> Result<(), IsolationError> {
        Err(IsolationError::Invalid {
            what: "network".to_owned(),
            reason: format!("the backend of sandbox {} cannot change granted hosts — create another sandbox", self.id()),
        })
    }
    /// Connects to a TCP port of the sandbox's loopback. The returned socket is non-blocking.
    ///
    /// # Errors
    /// [`IsolationError::Io`] if no program in the sandbox accepts the connection. [`IsolationError::Invalid`] if the sandbox has
    /// no separate loopback, if the gateway to the granted hosts listens on the port, or if the backend cannot connect.
    async fn connect(&self, port: u16) -> Result<OwnedFd, IsolationError> {
        Err(IsolationError::Invalid {
            what: format!("port {port}"),
            reason: format!("the backend of sandbox {} cannot connect to its loopback — use the container backend", self.id()),
        })
    }
    /// Returns the capabilities that the sandbox's backend has proven on this host.
    ///
    /// # Errors
    /// Returns the errors of [`IsolationBackend::probe`].
    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError>;
    /// Runs a command until it ends and captures its output.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a request that the sandbox cannot satisfy, and [`IsolationError::Spawn`] for a command
    /// that cannot be started; otherwise the reason why the sandbox was lost.
    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError>;
    /// Starts a command and returns a handle through which the caller serves its streams.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a request that the sandbox cannot satisfy, and [`IsolationError::Spawn`] for a command
    /// that cannot be started; otherwise the reason why the sandbox was lost.
    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError>;
    /// Runs agentd's own program in the sandbox, as the process that carries out one operation on files (crate `agentd-tool`),
    /// until it ends. The sandbox needs no file for it. Of `command`, everything but `argv` applies.
    ///
    /// # Errors
    /// As [`Sandbox::exec`]. [`IsolationError::Unsupported`] if the backend cannot run agentd's program.
    async fn exec_tool(&self, _command: Command) -> Result<Outcome, IsolationError> {
        Err(IsolationError::Unsupported { backend: format!("of {}", self.id()), operation: "exec_tool" })
    }
    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`IsolationError::File`] if the file cannot be read or is larger than `limit`.
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError>;
    /// Writes a whole file, and creates it if needed.
    ///
    /// # Errors
    /// [`IsolationError::File`] if the file cannot be written.
    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError>;
    /// Copies a whole file of at most `limit` bytes to `to`, which may be a file, a pipe, a socket or a terminal. The file is
    /// copied in pieces, so that memory use does not depend on its size. Returns the number of bytes copied.
    ///
    /// # Errors
    /// [`IsolationError::File`] if the file cannot be read or is larger than `limit`, and [`IsolationError::Io`] if `to` cannot
    /// be written. In either case, `to` may have received a part of the file.
    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError>;
    /// Writes a whole file from `from`, which is read to its end, and creates the file if needed. The content is copied in
    /// pieces, so that memory use does not depend on its size. Returns the number of bytes written.
    ///
    /// # Errors
    /// [`IsolationError::File`] if the file cannot be written, and [`IsolationError::Io`] if `from` cannot be read. In either
    /// case, a part of the content may have been written.
    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError>;
    /// Returns whether the sandbox can run commands.
    async fn is_alive(&self) -> bool;
    /// Stops all processes of the sandbox until [`Sandbox::resume`]. On cgroup v1, a deadline that passes in the meantime may
    /// take effect only after that call.
    ///
    /// # Errors
    /// [`IsolationError::Unsupported`] if the backend cannot suspend sandboxes. Also fails if the processes cannot be stopped.
    async fn suspend(&self) -> Result<(), IsolationError>;
    /// Lets the processes that [`Sandbox::suspend`] stopped continue.
    ///
    /// # Errors
    /// [`IsolationError::Unsupported`] if the backend cannot suspend sandboxes.
    async fn resume(&self) -> Result<(), IsolationError>;
    /// Saves the state of the sandbox under `name`, and replaces an earlier state of that name. In `container` (with
    /// [`crate::Writable::TemporaryLayers`]) and in `gondolin`, the state is the sandbox's files; commands keep running and are
    /// not part of the state. In `firecracker` the state includes all running processes.
    ///
    /// # Errors
    /// [`IsolationError::Unsupported`] if the backend or this sandbox cannot save states.
    async fn snapshot(&self, name: &str) -> Result<(), IsolationError>;
    /// Restores a saved state. Running commands are killed, unless the state includes processes.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] if there is no state of this name; [`IsolationError::Unsupported`] if the backend or this
    /// sandbox cannot save states.
    async fn restore(&self, name: &str) -> Result<(), IsolationError>;
    /// Creates another sandbox with the same state. The two sandboxes share no file that either of them can write to.
    ///
    /// # Errors
    /// [`IsolationError::Unsupported`] if the backend or this sandbox cannot be forked.
    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError>;
    /// Returns the resources used so far: the wall-clock time since the sandbox was created, and the processor time of the execs
    /// that have ended.
    ///
    /// # Errors
    /// Returns the reason why the sandbox was lost.
    async fn resource_usage(&self) -> Result<Usage, IsolationError>;
    /// Destroys the sandbox. Waits until its processes, cgroups, files, ids, and its mounts of the caller's files and of kept
    /// data are released. The kernel may release mounts of the sandbox's private memory a moment later; no process can reach
    /// these mounts. Destroying a sandbox that no longer exists is not an error.
    ///
    /// # Errors
    /// Fails if a resource of the sandbox cannot be released.
    async fn destroy(&self) -> Result<(), IsolationError>;
}
