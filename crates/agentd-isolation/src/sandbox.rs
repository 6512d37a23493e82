//! A sandbox over a channel to its supervisor, the same for every backend whose supervisor shares the kernel.

use crate::{
    descriptor::{self, Failed},
    exec::{self, Image, run_to_end},
    launcher::Ordered,
    link::{Link, News, Traits},
    ready,
};
use agentd_core::{
    BackendCapabilities, Command, ExecHandle, IsolationBackend, IsolationError, LayerReport, Limits, Outcome, Sandbox, SandboxId,
    Usage,
};
use agentd_kernel::cgroup::Watch;
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{self, Event, Request},
};
use async_trait::async_trait;
use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};

/// A live sandbox.
pub(crate) struct LinkedSandbox {
    id: SandboxId,
    ordered: Ordered,
    link: Arc<Link>,
    layers: Vec<LayerReport>,
    backend: Arc<dyn IsolationBackend>,
    reader: JoinHandle<()>,
}

impl LinkedSandbox {
    /// Waits until the supervisor has sealed itself, and takes over.
    pub(crate) async fn open(
        mut ordered: Ordered,
        backend: Arc<dyn IsolationBackend>,
        limits: Limits,
    ) -> Result<Arc<Self>, IsolationError> {
        match Self::greet(&mut ordered, limits).await {
            Ok((link, layers, reader)) => {
                let id = SandboxId(format!("{}-{}-{}", backend.name(), std::process::id(), ordered.id));
                Ok(Arc::new(Self { id, ordered, link, layers, backend, reader }))
            }
            Err(error) => {
                // The first error is the one to tell.
                ordered.destroy(|| ()).await.ok();
                Err(error)
            }
        }
    }

    async fn greet(
        ordered: &mut Ordered,
        limits: Limits,
    ) -> Result<(Arc<Link>, Vec<LayerReport>, JoinHandle<()>), IsolationError> {
        let io = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let lost = |e: ChannelError| IsolationError::Lost(format!("supervisor: {e}"));
        let ours = ordered.channel.take().ok_or_else(|| IsolationError::Lost("channel".to_owned()))?;
        let socket = ours.try_clone().map_err(io("channel"))?;
        let mut channel = ready::channel(Channel::new(ours, protocol::MAX_EVENT)).map_err(io("channel"))?;
        let (event, mut fds) = loop {
            if let Some(event) = channel.get_mut().buffered::<Event>().map_err(lost)? {
                break event;
            }
            let mut guard = channel.readable_mut().await.map_err(io("channel"))?;
            if !guard.get_inner_mut().fill().map_err(lost)? {
                guard.clear_ready();
            }
        };
        let Event::Hello { version: protocol::VERSION, layers, watches: kinds, owner } = event else {
            return Err(IsolationError::Protocol(format!("unexpected greeting {event:?}")));
        };
        let layers = layers?;
        if fds.len() != kinds.len() + 1 {
            return Err(IsolationError::Protocol(format!("a greeting with {} descriptors", fds.len())));
        }
        let watches: Vec<Watch> = kinds.into_iter().zip(fds.drain(1..)).map(|(kind, fd)| Watch { kind, fd }).collect();
        let pidfd = fds.pop().ok_or_else(|| IsolationError::Protocol("a greeting without a pidfd".to_owned()))?;
        let (link, reader) =
            Link::start(channel, socket, pidfd, Traits { namespaced: ordered.namespaced, owner, watches, limits });
        Ok((link, layers, reader))
    }

    /// Runs agentd's own image in the sandbox.
    pub(crate) async fn attack(&self, command: Command) -> Result<Outcome, IsolationError> {
        run_to_end(self.link.clone(), command, Image::Own).await
    }

    /// Starts a command, or agentd's own image, whose streams the caller serves.
    pub(crate) async fn stream(&self, command: &Command, image: Image) -> Result<Box<dyn ExecHandle>, IsolationError> {
        exec::stream(self.link.clone(), command, image).await
    }

    /// Its first process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        self.link.pidfd()
    }

    /// Starts a command whose standard input is `stdin`, which may be a socket, and whose output the caller serves.
    pub(crate) async fn stream_on(&self, command: &Command, stdin: OwnedFd) -> Result<Box<dyn ExecHandle>, IsolationError> {
        exec::stream_on(self.link.clone(), command, stdin).await
    }

    /// To tell whether the files of its root rest.
    pub(crate) fn at_rest(&self) -> Arc<watch::Sender<bool>> {
        self.link.at_rest.clone()
    }

    /// Ends it at once; never waits.
    pub(crate) fn kill(&self) {
        self.link.kill();
    }

    fn unsupported<T>(&self, operation: &'static str) -> Result<T, IsolationError> {
        Err(IsolationError::Unsupported { backend: self.backend.name().to_owned(), operation })
    }

    /// Without a namespace a sandbox's processes cannot be told from those they left.
    async fn freeze(&self, frozen: bool, operation: &'static str) -> Result<(), IsolationError> {
        if !self.link.namespaced {
            return self.unsupported(operation);
        }
        if !self.is_alive().await {
            return Err(self.link.why_lost());
        }
        self.ordered.freeze(frozen).await
    }

    /// Opens a regular file, from inside.
    pub(crate) async fn open_file(&self, path: &Path, write: bool) -> Result<File, IsolationError> {
        let (id, mut news) = self.link.listen();
        let request = Request::Open { id, path: path.as_os_str().as_bytes().to_vec(), write };
        let answer = match self.link.request(&request, &[]) {
            Ok(()) => news.recv().await,
            Err(error) => {
                self.link.forget(id);
                return Err(error);
            }
        };
        self.link.forget(id);
        let failed = |errno| IsolationError::File { path: path.display().to_string(), errno };
        match answer {
            Some(News::Opened(Ok(fd))) => {
                let file = File::from(fd);
                let regular = file.metadata().is_ok_and(|m| m.is_file());
                if regular { Ok(file) } else { Err(failed(libc::EISDIR)) }
            }
            Some(News::Opened(Err(errno))) => Err(failed(errno)),
            _ => Err(self.link.why_lost()),
        }
    }
}

/// What failed with a file of the sandbox's.
fn inside(path: &Path, error: &std::io::Error) -> IsolationError {
    IsolationError::File { path: path.display().to_string(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// A file of the sandbox's that is larger than its reader wants.
pub(crate) fn too_large(path: &Path) -> IsolationError {
    IsolationError::File { path: path.display().to_string(), errno: libc::EFBIG }
}

/// What failed with the caller's end of what is carried from or to such a file.
pub(crate) fn outside(path: &Path, source: std::io::Error) -> IsolationError {
    IsolationError::Io { context: format!("the caller's end of {}", path.display()), source }
}

#[async_trait]
impl Sandbox for LinkedSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn layers(&self) -> &[LayerReport] {
        &self.layers
    }

    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError> {
        self.backend.probe().await
    }

    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError> {
        run_to_end(self.link.clone(), command, Image::Named).await
    }

    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
        self.stream(&command, Image::Named).await
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError> {
        let file = self.open_file(path, false).await?;
        let mut content = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(|error| inside(path, &error))?;
        if content.len() as u64 > limit { Err(too_large(path)) } else { Ok(content) }
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError> {
        let mut file = self.open_file(path, true).await?;
        file.write_all(content).map_err(|error| inside(path, &error))
    }

    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError> {
        let mut from = tokio::fs::File::from_std(self.open_file(path, false).await?);
        let mut to = descriptor::sink(to).map_err(|source| outside(path, source))?;
        descriptor::carry(&mut from, &mut to, limit).await.map_err(|failed| match failed {
            Failed::Reading(error) => inside(path, &error),
            Failed::Writing(source) => outside(path, source),
            Failed::TooLarge => too_large(path),
        })
    }

    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError> {
        let mut from = descriptor::source(from).map_err(|source| outside(path, source))?;
        let mut to = tokio::fs::File::from_std(self.open_file(path, true).await?);
        descriptor::carry(&mut from, &mut to, u64::MAX).await.map_err(|failed| match failed {
            Failed::Reading(source) => outside(path, source),
            Failed::Writing(error) => inside(path, &error),
            Failed::TooLarge => too_large(path),
        })
    }

    async fn is_alive(&self) -> bool {
        !self.ordered.is_gone() && self.link.is_alive()
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
        Ok(self.link.usage())
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        let kill = || {
            if self.link.namespaced {
                // What its supervisor might still say is of no interest: to be woken by its end would only hold that end up, where both
                // share a processor.
                self.reader.abort();
                self.link.kill();
            }
        };
        let result = self.ordered.destroy(kill).await;
        self.link.lose("destroyed");
        result
    }
}

impl Drop for LinkedSandbox {
    fn drop(&mut self) {
        self.reader.abort();
        self.link.lose("nobody holds it any more");
        if self.link.namespaced && !self.ordered.is_gone() {
            self.link.kill();
        }
    }
}
