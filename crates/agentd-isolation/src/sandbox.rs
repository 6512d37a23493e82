//! A sandbox controlled over a channel to its supervisor. All backends whose supervisor shares the kernel use it.

mod network;

use crate::{
    blocking::blocking,
    connection::{ExecEvent, SupervisorConnection, Traits},
    descriptor::{self, Failed},
    egress::{EgressSettings, SandboxGateway},
    exec::{self, Executable, run_to_end},
    launcher::Ordered,
    probe::AttackedSandbox,
    ready,
};
use agentd_core::{
    BackendCapabilities, Command, ControlReport, ExecHandle, IsolationBackend, IsolationError, Limits, Network, NetworkApprovals,
    NetworkLog, Outcome, Sandbox, SandboxId, Usage,
};
use agentd_kernel::{cgroup::Watch, gateway::GatewaySocket};
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{self, Event, Request},
};
use async_trait::async_trait;
use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};

/// The sockets of a gateway in the network namespace of its sandbox.
pub type NamespaceSockets = Vec<(GatewaySocket, OwnedFd)>;

/// A live sandbox on the kernel of this process.
pub struct SharedKernelSandbox {
    id: SandboxId,
    ordered: Ordered,
    connection: Arc<SupervisorConnection>,
    controls: Vec<ControlReport>,
    backend: Arc<dyn IsolationBackend>,
    reader: JoinHandle<()>,
    /// The gateway, if the network is limited to granted hosts. Dropped last, so that no process outlives it.
    gateway: Option<SandboxGateway>,
}

/// The content of a supervisor's first message.
struct Greeted {
    connection: Arc<SupervisorConnection>,
    controls: Vec<ControlReport>,
    reader: JoinHandle<()>,
    sockets: NamespaceSockets,
}

impl SharedKernelSandbox {
    /// Waits until the supervisor has confined itself, then starts serving its channel, and the gateway if there are settings for
    /// one. Returns the sockets of a gateway that is elsewhere too. Destroys the sandbox if that fails.
    pub(crate) async fn open(
        mut ordered: Ordered,
        backend: Arc<dyn IsolationBackend>,
        limits: Limits,
        gateway: Option<EgressSettings>,
    ) -> Result<(Arc<Self>, NamespaceSockets), IsolationError> {
        let opened = match Self::greet(&mut ordered, limits).await {
            Ok(mut greeted) => {
                let started = match gateway {
                    Some(settings) => SandboxGateway::start(std::mem::take(&mut greeted.sockets), settings).await.map(Some),
                    None => Ok(None),
                };
                started.map(|gateway| (greeted, gateway))
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok((Greeted { connection, controls, reader, sockets }, gateway)) => {
                let id = SandboxId(format!("{}-{}-{}", backend.name(), std::process::id(), ordered.id));
                tracing::debug!(id = %id.0, "sandbox created");
                Ok((Arc::new(Self { id, ordered, connection, controls, backend, reader, gateway }), sockets))
            }
            Err(error) => {
                // The caller gets the first error.
                ordered.destroy(|| ()).await.or_warn("destroy sandbox that could not be started", ordered.id);
                Err(error)
            }
        }
    }

    async fn greet(ordered: &mut Ordered, limits: Limits) -> Result<Greeted, IsolationError> {
        let io = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let lost = |e: ChannelError| IsolationError::SupervisorDied(e.to_string());
        let ours = ordered.channel.take().ok_or_else(|| {
            IsolationError::Internal("open a sandbox: the channel to its supervisor is already in use".to_owned())
        })?;
        let socket = ours.try_clone().map_err(io("duplicate the channel to the supervisor"))?;
        let mut channel =
            ready::channel(Channel::new(ours, protocol::MAX_EVENT)).map_err(io("register the channel to the supervisor"))?;
        let (event, mut fds) = loop {
            if let Some(event) = channel.get_mut().buffered::<Event>().map_err(lost)? {
                break event;
            }
            let mut guard = channel.readable_mut().await.map_err(io("wait for the supervisor's greeting"))?;
            if !guard.get_inner_mut().fill().map_err(lost)? {
                guard.clear_ready();
            }
        };
        let Event::Hello { version: protocol::VERSION, controls, watches: kinds, sockets: purposes, owner } = event else {
            return Err(IsolationError::Protocol(
                "the supervisor sent another message instead of a greeting of this version".to_owned(),
            ));
        };
        let controls = controls?;
        if fds.len() != 1 + kinds.len() + purposes.len() {
            return Err(IsolationError::Protocol(format!(
                "the supervisor's greeting carries a wrong number of file descriptors: {}",
                fds.len()
            )));
        }
        let sockets = purposes.into_iter().zip(fds.drain(1 + kinds.len()..)).collect();
        let watches: Vec<Watch> = kinds.into_iter().zip(fds.drain(1..)).map(|(kind, fd)| Watch { kind, fd }).collect();
        let pidfd = fds.pop().ok_or_else(|| IsolationError::Protocol("the supervisor's greeting carries no pidfd".to_owned()))?;
        let (connection, reader) = SupervisorConnection::start(
            channel,
            socket,
            pidfd,
            Traits { namespaced: ordered.namespaced, owner, watches, limits },
        );
        Ok(Greeted { connection, controls, reader, sockets })
    }

    /// Starts a command, or agentd's own executable. The caller serves its streams.
    ///
    /// # Errors
    /// An invalid command or limit, a command that could not be started, or the loss of the sandbox.
    pub async fn stream(&self, command: &Command, executable: Executable) -> Result<Box<dyn ExecHandle>, IsolationError> {
        exec::stream(self.connection.clone(), command, executable).await
    }

    /// Returns the pidfd of the first process of the sandbox.
    pub fn pidfd(&self) -> &OwnedFd {
        self.connection.pidfd()
    }

    /// Starts a command whose standard input is `stdin`, which may be a socket. The caller serves the output streams.
    ///
    /// # Errors
    /// As [`SharedKernelSandbox::stream`].
    pub async fn stream_on(&self, command: &Command, stdin: OwnedFd) -> Result<Box<dyn ExecHandle>, IsolationError> {
        exec::stream_on(self.connection.clone(), command, stdin).await
    }

    /// Returns the flag that is true while the sandbox's root file system is frozen. The agent of a virtual machine sets it.
    pub fn frozen_flag(&self) -> Arc<watch::Sender<bool>> {
        self.connection.frozen_flag.clone()
    }

    /// Kills the sandbox without waiting.
    pub fn kill(&self) {
        self.connection.kill();
    }

    fn unsupported<T>(&self, operation: &'static str) -> Result<T, IsolationError> {
        Err(IsolationError::Unsupported { backend: self.backend.name().to_owned(), operation })
    }

    /// Freezes or thaws all processes. Unsupported without a PID namespace, where orphaned processes of the sandbox cannot be
    /// found.
    async fn freeze(&self, frozen: bool, operation: &'static str) -> Result<(), IsolationError> {
        if !self.connection.namespaced {
            return self.unsupported(operation);
        }
        if !self.is_alive().await {
            return Err(self.connection.why_lost());
        }
        self.ordered.freeze(frozen).await
    }

    /// Opens a regular file from inside the sandbox.
    ///
    /// # Errors
    /// [`IsolationError::File`] with the errno, `EISDIR` for anything but a regular file; otherwise the loss of the sandbox.
    pub async fn open_file(&self, path: &Path, write: bool) -> Result<File, IsolationError> {
        let request = |id| Request::Open { id, path: path.as_os_str().as_bytes().to_vec(), write };
        let failed = |errno| IsolationError::File { path: path.display().to_string(), errno };
        let file = File::from(self.opened(request).await?.map_err(failed)?);
        let regular = file.metadata().is_ok_and(|m| m.is_file());
        if regular { Ok(file) } else { Err(failed(libc::EISDIR)) }
    }

    /// Sends a request that is answered by a descriptor, and returns the descriptor or the errno.
    ///
    /// # Errors
    /// The loss of the sandbox.
    async fn opened(&self, request: impl Fn(u32) -> Request) -> Result<Result<OwnedFd, i32>, IsolationError> {
        let (id, mut events) = self.connection.listen();
        let answer = match self.connection.request(&request(id), &[]) {
            Ok(()) => events.recv().await,
            Err(error) => {
                self.connection.forget(id);
                return Err(error);
            }
        };
        self.connection.forget(id);
        match answer {
            Some(ExecEvent::Opened(opened)) => Ok(opened),
            _ => Err(self.connection.why_lost()),
        }
    }
}

/// Returns the error for a failed operation on a file of the sandbox.
fn inside(path: &Path, error: &std::io::Error) -> IsolationError {
    IsolationError::File { path: path.display().to_string(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// Returns the error for a file of the sandbox that exceeds the size limit of its reader.
pub fn too_large(path: &Path) -> IsolationError {
    IsolationError::File { path: path.display().to_string(), errno: libc::EFBIG }
}

/// Returns the error for a failure at the caller's end of a transfer from or to the file `path` of the sandbox.
pub fn outside(path: &Path, source: std::io::Error) -> IsolationError {
    IsolationError::Io { context: format!("transfer {} of the sandbox: caller's stream", path.display()), source }
}

#[async_trait]
impl AttackedSandbox for SharedKernelSandbox {
    async fn attack(&self, command: Command) -> Result<Outcome, IsolationError> {
        run_to_end(self.connection.clone(), command, Executable::Attack).await
    }
}

#[async_trait]
impl Sandbox for SharedKernelSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn controls(&self) -> &[ControlReport] {
        &self.controls
    }

    fn network_log(&self) -> Option<Arc<dyn NetworkLog>> {
        self.gateway.as_ref().map(SandboxGateway::log)
    }

    fn network_approvals(&self) -> Option<Arc<dyn NetworkApprovals>> {
        self.gateway.as_ref().map(SandboxGateway::approvals)
    }

    fn network_environment(&self) -> Vec<(OsString, OsString)> {
        self.gateway.as_ref().map(|gateway| gateway.environment().to_vec()).unwrap_or_default()
    }

    async fn set_network(&self, network: &Network) -> Result<(), IsolationError> {
        self.change_network(network).await
    }

    async fn connect(&self, port: u16) -> Result<OwnedFd, IsolationError> {
        self.connect_to_loopback(port).await
    }

    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError> {
        self.backend.probe().await
    }

    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError> {
        run_to_end(self.connection.clone(), command, Executable::FromPath).await
    }

    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
        self.stream(&command, Executable::FromPath).await
    }

    async fn exec_tool(&self, command: Command) -> Result<Outcome, IsolationError> {
        run_to_end(self.connection.clone(), exec::tool(command), Executable::Tool).await
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError> {
        let file = self.open_file(path, false).await?;
        let of = path.to_path_buf();
        let content = blocking(move || {
            let mut content = Vec::new();
            file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(|error| inside(&of, &error))?;
            Ok(content)
        })
        .await?;
        if content.len() as u64 > limit { Err(too_large(path)) } else { Ok(content) }
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError> {
        let mut file = self.open_file(path, true).await?;
        let (of, content) = (path.to_path_buf(), content.to_vec());
        blocking(move || file.write_all(&content).map_err(|error| inside(&of, &error))).await
    }

    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError> {
        let mut from = tokio::fs::File::from_std(self.open_file(path, false).await?);
        let mut to = descriptor::sink(to).map_err(|source| outside(path, source))?;
        descriptor::copy_up_to(&mut from, &mut to, limit).await.map_err(|failed| match failed {
            Failed::Reading(error) => inside(path, &error),
            Failed::Writing(source) => outside(path, source),
            Failed::TooLarge => too_large(path),
        })
    }

    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError> {
        let mut from = descriptor::source(from).map_err(|source| outside(path, source))?;
        let mut to = tokio::fs::File::from_std(self.open_file(path, true).await?);
        descriptor::copy_up_to(&mut from, &mut to, u64::MAX).await.map_err(|failed| match failed {
            Failed::Reading(source) => outside(path, source),
            Failed::Writing(error) => inside(path, &error),
            Failed::TooLarge => too_large(path),
        })
    }

    async fn is_alive(&self) -> bool {
        !self.ordered.is_gone() && self.connection.is_alive()
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        self.freeze(true, "suspend").await
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        self.freeze(false, "resume").await
    }

    async fn snapshot(&self, _name: &str) -> Result<(), IsolationError> {
        self.unsupported("snapshot")
    }

    async fn restore(&self, _name: &str) -> Result<(), IsolationError> {
        self.unsupported("restore")
    }

    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        self.unsupported("fork")
    }

    async fn resource_usage(&self) -> Result<Usage, IsolationError> {
        Ok(self.connection.usage())
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let kill = || {
            if self.connection.namespaced {
                // Further messages of the supervisor are not needed. If the end of the supervisor woke the reader, the two would
                // compete for the same processor and delay the end.
                self.reader.abort();
                self.connection.kill();
            }
        };
        let result = self.ordered.destroy(kill).await;
        self.connection.destroyed();
        if let Some(gateway) = &self.gateway {
            gateway.stop().await;
        }
        result
    }
}

impl Drop for SharedKernelSandbox {
    fn drop(&mut self) {
        self.reader.abort();
        self.connection.lose(IsolationError::SandboxGone, "dropped");
        if self.connection.namespaced && !self.ordered.is_gone() {
            self.connection.kill();
        }
    }
}
