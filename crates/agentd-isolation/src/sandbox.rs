//! A sandbox over a channel to its supervisor, the same for every backend whose supervisor shares the kernel.

use crate::{
    exec::{Image, Running, run_to_end},
    launcher::{Launcher, Made},
    ready,
};
use agentd_core::{
    BackendCapabilities, Command, ExecHandle, IsolationBackend, IsolationError, Layer, LayerError, LayerReport, Limits, Outcome,
    Sandbox, SandboxId, Usage,
};
use agentd_kernel::cgroup::{GroupUsage, Watch};
use agentd_supervisor::{
    channel::{Channel, ChannelError, send},
    protocol::{self, Event, ExecUsage, Request, SpawnStep},
};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

/// What a supervisor says of one exec.
#[derive(Debug)]
pub(crate) enum News {
    Terminal(OwnedFd),
    Ended { status: i32, usage: ExecUsage, process_limit: bool },
    SpawnFailed(IsolationError),
    Opened(Result<OwnedFd, i32>),
    Lost(String),
}

/// The connection to one supervisor, shared by the sandbox and its execs.
pub(crate) struct Link {
    socket: OwnedFd,
    pub(crate) pidfd: OwnedFd,
    pub(crate) watches: Vec<Watch>,
    pub(crate) limits: Limits,
    pub(crate) counts_processes: bool,
    listeners: Mutex<HashMap<u32, mpsc::UnboundedSender<News>>>,
    next: AtomicU32,
    lost: Mutex<Option<String>>,
    pub(crate) null: OwnedFd,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// A new exec's number and its news.
    pub(crate) fn listen(&self) -> (u32, mpsc::UnboundedReceiver<News>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(why) = &*lock(&self.lost) {
            // The receiver is right here.
            sender.send(News::Lost(why.clone())).ok();
        }
        lock(&self.listeners).insert(id, sender);
        (id, receiver)
    }

    pub(crate) fn forget(&self, id: u32) {
        lock(&self.listeners).remove(&id);
    }

    pub(crate) fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), IsolationError> {
        send(self.socket.as_fd(), request, fds).map_err(|error| match error {
            ChannelError::Frame(e) => IsolationError::Invalid { what: "command".to_owned(), reason: e.to_string() },
            other => IsolationError::Lost(format!("supervisor: {other}")),
        })
    }

    fn dispatch(&self, event: Event, mut fds: Vec<OwnedFd>) {
        let (id, news) = match event {
            Event::Hello { .. } => return,
            Event::Terminal { id } => match fds.pop() {
                Some(fd) => (id, News::Terminal(fd)),
                None => return,
            },
            Event::Ended { id, status, usage, process_limit } => (id, News::Ended { status, usage, process_limit }),
            Event::SpawnFailed { id, errno, step } => (id, News::SpawnFailed(spawn_error(step, errno))),
            Event::Opened { id, errno } => (id, News::Opened(fds.pop().filter(|_| errno == 0).ok_or(errno))),
        };
        if let Some(listener) = lock(&self.listeners).get(&id) {
            // An exec that nobody waits for has no listener.
            listener.send(news).ok();
        }
    }

    fn lose(&self, why: &str) {
        *lock(&self.lost) = Some(why.to_owned());
        for (_, listener) in lock(&self.listeners).drain() {
            // As above.
            listener.send(News::Lost(why.to_owned())).ok();
        }
    }

    /// Kills the whole sandbox at once.
    pub(crate) fn kill(&self) {
        // It may be gone already, which is what is wanted.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).ok();
    }
}

/// What a step between fork and exec failed with. The program itself is named by whoever asked for it.
fn spawn_error(step: SpawnStep, errno: i32) -> IsolationError {
    let (layer, call, remedy) = match step {
        SpawnStep::Exec => return IsolationError::Spawn { program: String::new(), errno },
        SpawnStep::Chdir => (Layer::Exec, "chdir to the working directory", "name one that exists in the sandbox, in a grant"),
        SpawnStep::Rlimits => {
            (Layer::Rlimits, "set the limits of the command", "ask for no more than the caller's own hard limits")
        }
        SpawnStep::Fork => (Layer::Exec, "start a process", "raise the limit of processes"),
    };
    LayerError::new(layer, call, Some(errno)).remedy(remedy).into()
}

/// Reads a supervisor's events until it is gone.
async fn read_events(channel: AsyncFd<Channel>, link: Weak<Link>) {
    let mut channel = channel;
    let why = loop {
        let event = channel.get_mut().buffered::<Event>();
        match event {
            Ok(Some((event, fds))) => match link.upgrade() {
                Some(link) => link.dispatch(event, fds),
                None => return,
            },
            Ok(None) => match channel.readable_mut().await {
                Ok(mut guard) => match guard.get_inner_mut().fill() {
                    Ok(true) => {}
                    Ok(false) => guard.clear_ready(),
                    Err(error) => break error.to_string(),
                },
                Err(error) => break error.to_string(),
            },
            Err(error) => break error.to_string(),
        }
    };
    if let Some(link) = link.upgrade() {
        link.lose(&why);
    }
}

/// A live sandbox.
pub(crate) struct LinkedSandbox {
    id: SandboxId,
    number: u32,
    link: Arc<Link>,
    launcher: Arc<Launcher>,
    layers: Vec<LayerReport>,
    backend: Arc<dyn IsolationBackend>,
    destroyed: AtomicBool,
    reader: tokio::task::JoinHandle<()>,
}

impl LinkedSandbox {
    /// Waits until the supervisor has sealed itself, and takes over.
    pub(crate) async fn open(
        made: Made,
        launcher: Arc<Launcher>,
        backend: Arc<dyn IsolationBackend>,
        limits: Limits,
    ) -> Result<Arc<Self>, IsolationError> {
        let number = made.id;
        match Self::greet(made, launcher.clone(), backend, limits).await {
            Ok(sandbox) => Ok(Arc::new(sandbox)),
            Err(error) => {
                // The first error is the one to tell.
                launcher.destroy(number).await.ok();
                Err(error)
            }
        }
    }

    async fn greet(
        made: Made,
        launcher: Arc<Launcher>,
        backend: Arc<dyn IsolationBackend>,
        limits: Limits,
    ) -> Result<Self, IsolationError> {
        let io = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        rustix::io::ioctl_fionbio(&made.channel, true).map_err(|e| io("channel")(e.into()))?;
        let socket = made.channel.try_clone().map_err(io("channel"))?;
        let channel = Channel::new(made.channel, protocol::MAX_EVENT);
        let mut channel = ready::channel(channel).map_err(io("channel"))?;
        let lost = |e: ChannelError| IsolationError::Lost(format!("supervisor: {e}"));
        let layers = loop {
            match channel.get_mut().buffered::<Event>().map_err(lost)? {
                Some((Event::Hello { version, layers }, _)) if version == protocol::VERSION => break layers?,
                Some((other, _)) => return Err(IsolationError::Protocol(format!("unexpected greeting {other:?}"))),
                None => {
                    let mut guard = channel.readable_mut().await.map_err(io("channel"))?;
                    if !guard.get_inner_mut().fill().map_err(lost)? {
                        guard.clear_ready();
                    }
                }
            }
        };
        let null = File::options().read(true).write(true).open("/dev/null").map_err(io("open /dev/null"))?;
        let layers: Vec<_> = layers.into_iter().chain(made.cgroup).collect();
        let counts_processes = made.watches.iter().any(|w| w.kind == agentd_kernel::cgroup::WatchKind::PidsEvents);
        let link = Arc::new(Link {
            socket,
            pidfd: made.pidfd,
            watches: made.watches,
            limits,
            counts_processes,
            listeners: Mutex::new(HashMap::new()),
            next: AtomicU32::new(1),
            lost: Mutex::new(None),
            null: null.into(),
        });
        let reader = tokio::spawn(read_events(channel, Arc::downgrade(&link)));
        let id = SandboxId(format!("{}-{}-{}", backend.name(), std::process::id(), made.id));
        Ok(Self { id, number: made.id, link, launcher, layers, backend, destroyed: AtomicBool::new(false), reader })
    }

    /// Runs agentd's own image in the sandbox.
    pub(crate) async fn attack(&self, command: Command) -> Result<Outcome, IsolationError> {
        run_to_end(self.link.clone(), command, Image::Own).await
    }

    fn unsupported<T>(&self, operation: &'static str) -> Result<T, IsolationError> {
        Err(IsolationError::Unsupported { backend: self.backend.name().to_owned(), operation })
    }

    async fn open_file(&self, path: &Path, write: bool) -> Result<File, IsolationError> {
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
            _ => Err(IsolationError::Lost("supervisor".to_owned())),
        }
    }
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
        Ok(Box::new(Running::start(self.link.clone(), &command, Image::Named).await?))
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError> {
        let failed = |errno| IsolationError::File { path: path.display().to_string(), errno };
        let file = self.open_file(path, false).await?;
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(|e| failed(e.raw_os_error().unwrap_or(libc::EIO)))?;
        if content.len() as u64 > limit { Err(failed(libc::EFBIG)) } else { Ok(content) }
    }

    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError> {
        let failed = |errno| IsolationError::File { path: path.display().to_string(), errno };
        let mut file = self.open_file(path, true).await?;
        file.write_all(content).map_err(|e| failed(e.raw_os_error().unwrap_or(libc::EIO)))
    }

    async fn is_alive(&self) -> bool {
        !self.destroyed.load(Ordering::Relaxed) && lock(&self.link.lost).is_none()
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        self.unsupported("suspend")
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        self.unsupported("resume")
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
        let group = GroupUsage::read(&self.link.watches);
        match group.peak_memory {
            Some(peak) => Ok(Usage { peak_memory: peak, peak_memory_is_group: true, ..Usage::default() }),
            None => self.unsupported("usage of a sandbox without a memory cgroup"),
        }
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        if self.destroyed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let result = self.launcher.destroy(self.number).await;
        self.link.lose("destroyed");
        result
    }
}

impl Drop for LinkedSandbox {
    fn drop(&mut self) {
        self.reader.abort();
        if !self.destroyed.load(Ordering::Relaxed) {
            self.link.kill();
            self.launcher.abandon(self.number);
        }
    }
}
