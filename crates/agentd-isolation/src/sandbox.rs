//! A sandbox over a channel to its supervisor, the same for every backend whose supervisor shares the kernel.

use crate::{
    exec::{self, Image, run_to_end},
    launcher::Ordered,
    outbox::Outbox,
    ready,
};
use agentd_core::{
    BackendCapabilities, Command, ExecHandle, IsolationBackend, IsolationError, Layer, LayerError, LayerReport, Limits, Outcome,
    Sandbox, SandboxId, Usage,
};
use agentd_kernel::cgroup::{GroupUsage, Watch, WatchKind};
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{self, Event, ExecUsage, Request, SpawnStep},
};
use async_trait::async_trait;
use rustix::io::Errno;
use std::{
    collections::HashMap,
    fs::File,
    future::pending,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc},
};

/// What a supervisor says of one exec.
#[derive(Debug)]
pub(crate) enum News {
    Terminal(OwnedFd),
    Ended { status: i32, usage: ExecUsage, process_limit: bool },
    SpawnFailed(IsolationError),
    Opened(Result<OwnedFd, i32>),
}

/// How much news of one exec may wait to be heard: a terminal and its end. A supervisor that says more is not ours any more.
const NEWS: usize = 4;

/// The connection to one supervisor, shared by the sandbox and its execs.
pub(crate) struct Link {
    outbox: Mutex<Outbox>,
    /// Tells the reading task that something waits to be sent.
    waiting: Notify,
    pidfd: OwnedFd,
    namespaced: bool,
    pub(crate) watches: Vec<Watch>,
    pub(crate) limits: Limits,
    pub(crate) counts_processes: bool,
    listeners: Mutex<HashMap<u32, mpsc::Sender<News>>>,
    next: AtomicU32,
    lost: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// A new exec's number and its news, which end when the sandbox is lost.
    pub(crate) fn listen(&self) -> (u32, mpsc::Receiver<News>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(NEWS);
        let lost = lock(&self.lost);
        if lost.is_none() {
            lock(&self.listeners).insert(id, sender);
        }
        (id, receiver)
    }

    pub(crate) fn forget(&self, id: u32) {
        lock(&self.listeners).remove(&id);
    }

    /// Sends a request, now or as soon as the supervisor reads. It never waits.
    pub(crate) fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), IsolationError> {
        match lock(&self.outbox).push(request, fds) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.waiting.notify_one();
                Ok(())
            }
            Err(ChannelError::Frame(e)) => Err(IsolationError::Invalid { what: "command".to_owned(), reason: e.to_string() }),
            Err(other) => Err(IsolationError::Lost(format!("supervisor: {other}"))),
        }
    }

    fn dispatch(&self, event: Event, mut fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        let (id, news) = match event {
            Event::Hello { .. } => return Err("a second greeting"),
            Event::Terminal { id } => (id, News::Terminal(fds.pop().ok_or("a terminal without a descriptor")?)),
            Event::Ended { id, status, usage, process_limit } => (id, News::Ended { status, usage, process_limit }),
            Event::SpawnFailed { id, errno, step } => (id, News::SpawnFailed(spawn_error(step, errno))),
            Event::Opened { id, errno } => (id, News::Opened(fds.pop().filter(|_| errno == 0).ok_or(errno))),
        };
        match lock(&self.listeners).get(&id).map(|listener| listener.try_send(news)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err("more news of one exec than there can be"),
            // An exec that nobody waits for has no listener.
            _ => Ok(()),
        }
    }

    fn lose(&self, why: &str) {
        let mut lost = lock(&self.lost);
        lost.get_or_insert_with(|| why.to_owned());
        // Whoever listens hears of it by the end of the news, and asks [`Link::why_lost`].
        lock(&self.listeners).clear();
    }

    /// Why there is no more news.
    pub(crate) fn why_lost(&self) -> IsolationError {
        IsolationError::Lost(lock(&self.lost).clone().unwrap_or_else(|| "supervisor".to_owned()))
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

/// Reads a supervisor's events, and sends what waits for it, until it is gone.
async fn serve(mut channel: AsyncFd<Channel>, link: Weak<Link>) {
    let why = loop {
        match channel.get_mut().buffered::<Event>() {
            Ok(Some((event, fds))) => match link.upgrade().map(|link| link.dispatch(event, fds)) {
                Some(Ok(())) => {}
                Some(Err(nonsense)) => break nonsense.to_owned(),
                None => return,
            },
            Ok(None) => {
                if let Err(error) = exchange(&mut channel, &link).await {
                    break error.to_string();
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    if let Some(link) = link.upgrade() {
        // One that speaks nonsense runs nothing any more either.
        link.kill();
        link.lose(&why);
    }
}

/// Waits until something could be read, and sends meanwhile.
async fn exchange(channel: &mut AsyncFd<Channel>, link: &Weak<Link>) -> Result<(), ChannelError> {
    let failed = |e: std::io::Error| ChannelError::Socket(Errno::from_io_error(&e).unwrap_or(Errno::IO));
    let Some(link) = link.upgrade() else { return Err(ChannelError::Closed) };
    let full = {
        let mut outbox = lock(&link.outbox);
        outbox.flush()?.then(|| outbox.socket())
    };
    let room = async {
        match &full {
            // Asked for only now: otherwise every request that is read at the other end would wake this one.
            Some(socket) => ready::once(socket.as_fd(), Interest::WRITABLE).await,
            None => pending().await,
        }
    };
    tokio::select! {
        readable = channel.readable_mut() => {
            let mut guard = readable.map_err(failed)?;
            if !guard.get_inner_mut().fill()? {
                guard.clear_ready();
            }
            Ok(())
        }
        writable = room => writable.map_err(failed),
        () = link.waiting.notified() => Ok(()),
    }
}

/// A live sandbox.
pub(crate) struct LinkedSandbox {
    id: SandboxId,
    ordered: Ordered,
    link: Arc<Link>,
    layers: Vec<LayerReport>,
    backend: Arc<dyn IsolationBackend>,
    reader: tokio::task::JoinHandle<()>,
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
                ordered.destroy().await.ok();
                Err(error)
            }
        }
    }

    async fn greet(
        ordered: &mut Ordered,
        limits: Limits,
    ) -> Result<(Arc<Link>, Vec<LayerReport>, tokio::task::JoinHandle<()>), IsolationError> {
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
        let Event::Hello { version: protocol::VERSION, layers, watches: kinds } = event else {
            return Err(IsolationError::Protocol(format!("unexpected greeting {event:?}")));
        };
        let layers = layers?;
        if fds.len() != kinds.len() + 1 {
            return Err(IsolationError::Protocol(format!("a greeting with {} descriptors", fds.len())));
        }
        let watches: Vec<Watch> = kinds.into_iter().zip(fds.drain(1..)).map(|(kind, fd)| Watch { kind, fd }).collect();
        let pidfd = fds.pop().ok_or_else(|| IsolationError::Protocol("a greeting without a pidfd".to_owned()))?;
        let link = Arc::new(Link {
            outbox: Mutex::new(Outbox::new(socket)),
            waiting: Notify::new(),
            pidfd,
            namespaced: ordered.namespaced,
            counts_processes: watches.iter().any(|w| matches!(w.kind, WatchKind::PidsEvents | WatchKind::SilentPidsEvents)),
            watches,
            limits,
            listeners: Mutex::new(HashMap::new()),
            next: AtomicU32::new(1),
            lost: Mutex::new(None),
        });
        let reader = tokio::spawn(serve(channel, Arc::downgrade(&link)));
        Ok((link, layers, reader))
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
            _ => Err(self.link.why_lost()),
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
        exec::stream(self.link.clone(), &command).await
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
        !self.ordered.is_destroyed() && lock(&self.link.lost).is_none()
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
        if self.link.namespaced && !self.ordered.is_destroyed() {
            // The launcher would do it first of all; this way it is under way when that wakes up.
            self.link.kill();
        }
        let result = self.ordered.destroy().await;
        self.link.lose("destroyed");
        result
    }
}

impl Drop for LinkedSandbox {
    fn drop(&mut self) {
        self.reader.abort();
        self.link.lose("nobody holds it any more");
        if self.link.namespaced && !self.ordered.is_destroyed() {
            self.link.kill();
        }
    }
}
