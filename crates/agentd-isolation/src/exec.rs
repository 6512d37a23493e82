//! One exec: starting it, watching its limits from outside, reading its output, and saying how it ended.
//!
//! Limits are enforced here or by the kernel, not by the goodwill of the supervisor: an exec that does not end when told to takes
//! its sandbox with it.

use crate::{
    output::Keeper,
    ready,
    sandbox::{Link, News},
};
use agentd_core::{Command, EndReason, ExecHandle, ExecStreams, IsolationError, Limits, Outcome, PtySize, StdinSource, Usage};
use agentd_kernel::{
    cgroup::{GroupUsage, WatchKind},
    rlimit::RlimitPlan,
};
use agentd_supervisor::{
    launcher::sealed_image,
    protocol::{Exec, ExecUsage, Request},
};
use async_trait::async_trait;
use rustix::pipe::PipeFlags;
use std::{
    future::pending,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

/// How long a supervisor may take to end an exec before its sandbox is killed.
const GRACE: Duration = Duration::from_millis(500);

/// How often counters are read after the kernel has told of memory running out: it tells before it kills.
const RECHECK: Duration = Duration::from_millis(5);

/// How often a counter is read whose changes the kernel does not tell of.
const LOOK: Duration = Duration::from_millis(50);

/// See [`Running::outcome`].
const TICKS: Duration = Duration::from_millis(100);

/// What is kept of each stream when a command does not say.
const DEFAULT_CAPTURE: u64 = 1 << 20;

/// Which program is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Image {
    /// The one that the command names.
    Named,
    /// agentd's own.
    Own,
}

/// A running exec.
pub(crate) struct Running {
    link: Arc<Link>,
    id: u32,
    news: mpsc::Receiver<News>,
    streams: ExecStreams,
    terminal: Option<OwnedFd>,
    program: String,
    limits: Limits,
    started: Instant,
    baseline: GroupUsage,
    reason: Option<EndReason>,
    asked: Option<Instant>,
    /// What a handle asks it to be ended for. A handle that is gone asks too.
    wishes: Option<mpsc::UnboundedReceiver<EndReason>>,
}

struct End {
    status: i32,
    usage: ExecUsage,
    process_limit: bool,
}

/// `command`'s own limits, and the sandbox's where it has none.
fn effective(command: &Limits, sandbox: &Limits) -> Limits {
    Limits {
        wall: command.wall.or(sandbox.wall),
        cpu_time: command.cpu_time.or(sandbox.cpu_time),
        memory: sandbox.memory,
        processes: sandbox.processes,
        open_files: command.open_files.or(sandbox.open_files),
        file_size: command.file_size.or(sandbox.file_size),
        output: command.output.or(sandbox.output),
        cpu_quota: sandbox.cpu_quota,
        cpu_weight: sandbox.cpu_weight,
    }
}

fn request(id: u32, command: &Command, limits: &Limits, counts_processes: bool) -> Result<Exec, IsolationError> {
    let invalid = |reason: &str| IsolationError::Invalid { what: "command".to_owned(), reason: reason.to_owned() };
    let mut env = Vec::with_capacity(command.env.len());
    for (name, value) in &command.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(invalid("an environment variable's name is empty or contains '='"));
        }
        env.push([name.as_bytes(), b"=", value.as_bytes()].concat());
    }
    let argv: Vec<Vec<u8>> = command.argv.iter().map(|a| a.as_bytes().to_vec()).collect();
    let cwd = command.cwd.as_ref().map_or_else(|| b"/".to_vec(), |c| c.as_os_str().as_bytes().to_vec());
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(invalid("there is no program"));
    }
    if argv.iter().chain(&env).chain([&cwd]).any(|s| s.contains(&0)) {
        return Err(invalid("an argument, a variable or the working directory contains a NUL byte"));
    }
    let pty = command.pty.map(|size| (size.rows, size.cols));
    let rlimits = RlimitPlan::from_limits(limits, counts_processes);
    Ok(Exec { id, argv, env, cwd, pty, rlimits, own_image: false })
}

/// The standard input of commands that have none; opened once.
fn null() -> std::io::Result<BorrowedFd<'static>> {
    static NULL: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(null) = NULL.get() {
        return Ok(null.as_fd());
    }
    let opened = std::fs::File::open("/dev/null")?;
    Ok(NULL.get_or_init(|| opened.into()).as_fd())
}

impl Running {
    /// Sends the command to the supervisor.
    pub(crate) async fn start(link: Arc<Link>, command: &Command, image: Image) -> Result<Self, IsolationError> {
        let io = |source: rustix::io::Errno| IsolationError::Io { context: "pipe".to_owned(), source: source.into() };
        let limits = effective(&command.limits, &link.limits);
        let (id, news) = link.listen();
        let mut running = Self {
            program: command.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default(),
            baseline: GroupUsage::read(&link.watches),
            started: Instant::now(),
            streams: ExecStreams::default(),
            terminal: None,
            reason: None,
            asked: None,
            wishes: None,
            link,
            id,
            news,
            limits,
        };
        let mut exec = request(id, command, &running.limits, running.link.counts_processes)?;
        exec.own_image = image == Image::Own;
        if command.pty.is_some() {
            running.link.request(&Request::Exec(exec), &[])?;
            running.take_terminal().await?;
            return Ok(running);
        }
        let (stdout, stdout_inner) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io)?;
        let (stderr, stderr_inner) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io)?;
        let stdin = match command.stdin {
            StdinSource::Null => None,
            StdinSource::Bytes(_) | StdinSource::Stream => Some(rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io)?),
        };
        let stdin_inner = match &stdin {
            Some((inner, _)) => inner.as_fd(),
            None => null().map_err(|source| IsolationError::Io { context: "open /dev/null".to_owned(), source })?,
        };
        let own = match image {
            Image::Named => None,
            Image::Own => {
                Some(sealed_image().map_err(|source| IsolationError::Io { context: "copy agentd's image".to_owned(), source })?)
            }
        };
        let mut fds = vec![stdin_inner, stdout_inner.as_fd(), stderr_inner.as_fd()];
        fds.extend(own.as_ref().map(AsFd::as_fd));
        running.link.request(&Request::Exec(exec), &fds)?;
        running.streams =
            ExecStreams { stdin: stdin.map(|(_, ours)| ours), stdout: Some(stdout), stderr: Some(stderr), pty: None };
        Ok(running)
    }

    async fn take_terminal(&mut self) -> Result<(), IsolationError> {
        match self.news.recv().await {
            Some(News::Terminal(fd)) => {
                let copy = fd.try_clone().map_err(|source| IsolationError::Io { context: "terminal".to_owned(), source })?;
                self.streams.pty = Some(copy);
                self.terminal = Some(fd);
                Ok(())
            }
            Some(News::SpawnFailed(error)) => Err(self.named(error)),
            None => Err(self.link.why_lost()),
            Some(_) => Err(IsolationError::Protocol("news out of order".to_owned())),
        }
    }

    fn end_for(&mut self, reason: EndReason) -> Result<(), IsolationError> {
        // The first reason is the one that ended it.
        self.reason.get_or_insert(reason);
        self.asked.get_or_insert_with(Instant::now);
        self.link.request(&Request::End { id: self.id }, &[])
    }

    /// Waits for the end or for a limit. `None` when a limit has been acted on and the wait goes on.
    async fn next(&mut self) -> Result<Option<End>, IsolationError> {
        let deadline = match (self.reason, self.limits.wall) {
            (None, Some(wall)) => Some(self.started + wall),
            _ => None,
        };
        let patience = self.asked.map(|at| at + GRACE);
        let at = |when: Option<Instant>| async move {
            match when {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => pending().await,
            }
        };
        let wish = async {
            match &mut self.wishes {
                Some(wishes) if self.asked.is_none() => wishes.recv().await.unwrap_or(EndReason::Cancelled),
                _ => pending().await,
            }
        };
        tokio::select! {
            biased;
            news = self.news.recv() => self.hear(news).map(Some),
            reason = wish => self.end_for(reason).map(|()| None),
            () = at(deadline) => self.end_for(EndReason::WallDeadline).map(|()| None),
            () = at(patience) => {
                self.asked = None;
                self.link.kill();
                Ok(None)
            }
            reason = limit_hit(&self.link, self.baseline, self.limits.cpu_time), if self.reason.is_none() => {
                self.end_for(reason).map(|()| None)
            }
        }
    }

    fn hear(&self, news: Option<News>) -> Result<End, IsolationError> {
        match news {
            Some(News::Ended { status, usage, process_limit }) => Ok(End { status, usage, process_limit }),
            Some(News::SpawnFailed(error)) => Err(self.named(error)),
            None if self.reason.is_some() => Ok(End { status: libc::SIGKILL, usage: ExecUsage::default(), process_limit: false }),
            None => Err(self.link.why_lost()),
            _ => Err(IsolationError::Protocol("news out of order".to_owned())),
        }
    }

    async fn ended(&mut self) -> Result<Outcome, IsolationError> {
        loop {
            if let Some(end) = self.next().await? {
                return Ok(self.outcome(&end));
            }
        }
    }

    fn named(&self, error: IsolationError) -> IsolationError {
        match error {
            IsolationError::Spawn { errno, .. } => IsolationError::Spawn { program: self.program.clone(), errno },
            other => other,
        }
    }

    fn outcome(&self, end: &End) -> Outcome {
        let group = GroupUsage::read(&self.link.watches);
        let exited = libc::WIFEXITED(end.status);
        let signal = libc::WIFSIGNALED(end.status).then(|| libc::WTERMSIG(end.status));
        let cpu = Duration::from_micros(end.usage.user_us + end.usage.system_us);
        // The kernel compares with time counted in ticks, and reports time counted exactly; the two differ by some of them.
        let cpu_over = self.limits.cpu_time.is_some_and(|limit| cpu + TICKS >= limit);
        let reason = match (self.reason, signal) {
            (Some(reason), _) => reason,
            _ if end.process_limit || group.pids_hits > self.baseline.pids_hits => EndReason::ProcessLimit,
            _ if group.oom_kills > self.baseline.oom_kills => EndReason::OutOfMemory,
            (None, Some(libc::SIGXCPU | libc::SIGKILL)) if cpu_over => EndReason::CpuLimit,
            (None, Some(libc::SIGXFSZ)) => EndReason::DiskLimit,
            (None, Some(_)) => EndReason::Signalled,
            (None, None) => EndReason::Exited,
        };
        Outcome {
            reason,
            exit_code: exited.then(|| libc::WEXITSTATUS(end.status)),
            signal,
            usage: Usage {
                wall: self.started.elapsed(),
                cpu_user: Duration::from_micros(end.usage.user_us),
                cpu_system: Duration::from_micros(end.usage.system_us),
                peak_memory: group.peak_memory.unwrap_or(end.usage.max_rss_kib * 1024),
                peak_memory_is_group: group.peak_memory.is_some(),
            },
            stdout: agentd_core::Captured::default(),
            stderr: agentd_core::Captured::default(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody waits any more, so nothing of it may go on. Without effect on one that has ended.
        self.link.request(&Request::End { id: self.id }, &[]).ok();
        self.link.forget(self.id);
    }
}

/// Waits until a counter of the sandbox's cgroup is over a limit.
async fn limit_hit(link: &Link, baseline: GroupUsage, cpu_time: Option<Duration>) -> EndReason {
    let cpu = async {
        match cpu_time {
            Some(limit) => cpu_time_over(link, baseline, limit).await,
            None => pending().await,
        }
    };
    tokio::select! {
        reason = counter_moved(link, baseline) => reason,
        reason = cpu => reason,
    }
}

/// Waits until the group has used `limit` of processor time. It cannot have before all processors together could have.
async fn cpu_time_over(link: &Link, baseline: GroupUsage, limit: Duration) -> EndReason {
    let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    loop {
        let (Some(now), Some(before)) = (GroupUsage::read(&link.watches).cpu, baseline.cpu) else { return pending().await };
        let left = limit.saturating_sub(now.saturating_sub(before));
        if left.is_zero() {
            return EndReason::CpuLimit;
        }
        tokio::time::sleep((left / processors).max(RECHECK)).await;
    }
}

async fn counter_moved(link: &Link, baseline: GroupUsage) -> EndReason {
    let over = || {
        let now = GroupUsage::read(&link.watches);
        if now.oom_kills > baseline.oom_kills {
            Some(EndReason::OutOfMemory)
        } else if now.pids_hits > baseline.pids_hits {
            Some(EndReason::ProcessLimit)
        } else {
            None
        }
    };
    let source = |wanted: WatchKind, interest: Interest| {
        let watch = link.watches.iter().find(|watch| watch.kind == wanted)?;
        // Each exec registers a copy: one descriptor can be registered once.
        Some((watch.fd.try_clone().and_then(|fd| ready::owned(fd, interest)).ok()?, interest))
    };
    let memory = source(WatchKind::OomEvent, Interest::READABLE).or_else(|| source(WatchKind::MemoryEvents, Interest::PRIORITY));
    let processes = source(WatchKind::PidsEvents, Interest::PRIORITY);
    let silent = link.watches.iter().any(|watch| watch.kind == WatchKind::SilentPidsEvents);
    if memory.is_none() && processes.is_none() && !silent {
        return pending().await;
    }
    let mut recheck = silent.then_some(LOOK);
    loop {
        if let Some(reason) = over() {
            return reason;
        }
        tokio::select! {
            () = moved(memory.as_ref()) => recheck = Some(RECHECK),
            () = moved(processes.as_ref()) => recheck = Some(RECHECK),
            () = tokio::time::sleep(recheck.unwrap_or(LOOK)), if recheck.is_some() => {}
        }
    }
}

/// Waits until the kernel tells of a change; for ever where there is nothing to tell.
async fn moved(source: Option<&(AsyncFd<OwnedFd>, Interest)>) {
    if let Some((fd, interest)) = source
        && let Ok(mut guard) = fd.ready(*interest).await
    {
        guard.clear_ready();
        return;
    }
    pending().await
}

/// A running exec in the caller's hands. Its limits are watched whether it is waited for or not.
struct Handle {
    link: Arc<Link>,
    id: u32,
    streams: ExecStreams,
    terminal: Option<OwnedFd>,
    wishes: mpsc::UnboundedSender<EndReason>,
    outcome: oneshot::Receiver<Result<Outcome, IsolationError>>,
}

/// Starts a command whose streams the caller serves.
pub(crate) async fn stream(link: Arc<Link>, command: &Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
    let mut running = Running::start(link.clone(), command, Image::Named).await?;
    let (wishes, wanted) = mpsc::unbounded_channel();
    let (teller, outcome) = oneshot::channel();
    running.wishes = Some(wanted);
    let (id, streams, terminal) = (running.id, std::mem::take(&mut running.streams), running.terminal.take());
    tokio::spawn(async move {
        let outcome = running.ended().await;
        // Nobody need be waiting.
        teller.send(outcome).ok();
    });
    Ok(Box::new(Handle { link, id, streams, terminal, wishes, outcome }))
}

#[async_trait]
impl ExecHandle for Handle {
    fn take_streams(&mut self) -> ExecStreams {
        std::mem::take(&mut self.streams)
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.link.request(&Request::Signal { id: self.id, signal }, &[])
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        let Some(terminal) = &self.terminal else {
            return Err(IsolationError::Invalid { what: "resize".to_owned(), reason: "the command has no terminal".to_owned() });
        };
        let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| IsolationError::Io { context: "resize the terminal".to_owned(), source: e.into() })
    }

    async fn end(&self, reason: EndReason) -> Result<(), IsolationError> {
        // One that has ended already needs no ending.
        self.wishes.send(reason).ok();
        Ok(())
    }

    async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        (&mut self.outcome).await.unwrap_or_else(|_| Err(IsolationError::Lost("the outcome was told before".to_owned())))
    }
}

/// Runs a command to its end, keeping its output.
pub(crate) async fn run_to_end(link: Arc<Link>, command: Command, image: Image) -> Result<Outcome, IsolationError> {
    if command.pty.is_some() {
        return Err(IsolationError::Invalid { what: "command".to_owned(), reason: "a terminal needs exec_streaming".to_owned() });
    }
    let io = |source| IsolationError::Io { context: "pipe".to_owned(), source };
    let mut running = Running::start(link, &command, image).await?;
    let streams = std::mem::take(&mut running.streams);
    let receiver = |fd: Option<OwnedFd>| fd.map(pipe::Receiver::from_owned_fd).transpose().map_err(io);
    let (mut stdout, mut stderr) = (receiver(streams.stdout)?, receiver(streams.stderr)?);
    let mut stdin = streams.stdin.map(pipe::Sender::from_owned_fd).transpose().map_err(io)?;
    let StdinSource::Bytes(input) = command.stdin else {
        return collect(&mut running, &mut stdout, &mut stderr, command.capture).await;
    };
    let feed = async {
        if let Some(mut pipe) = stdin.take() {
            // A command that does not read its input is no error.
            pipe.write_all(&input).await.ok();
        }
        pending::<()>().await;
    };
    tokio::select! {
        outcome = collect(&mut running, &mut stdout, &mut stderr, command.capture) => outcome,
        () = feed => Err(IsolationError::Lost("input".to_owned())),
    }
}

async fn collect(
    running: &mut Running,
    stdout: &mut Option<pipe::Receiver>,
    stderr: &mut Option<pipe::Receiver>,
    capture: u64,
) -> Result<Outcome, IsolationError> {
    let budget = if capture == 0 { DEFAULT_CAPTURE } else { capture };
    let mut kept = [Keeper::new(budget), Keeper::new(budget)];
    let mut buffers = (vec![0u8; 16 << 10], vec![0u8; 16 << 10]);
    let mut total = 0u64;
    let limit = running.limits.output.map_or(u64::MAX, |b| b.0);
    let end = loop {
        let (stream, bytes) = tokio::select! {
            biased;
            read = read_some(stdout, &mut buffers.0) => (0, &buffers.0[..read]),
            read = read_some(stderr, &mut buffers.1) => (1, &buffers.1[..read]),
            end = running.next() => match end? {
                Some(end) => break end,
                None => continue,
            },
        };
        total += bytes.len() as u64;
        kept[stream].push(bytes);
        if total > limit && running.reason.is_none() {
            running.end_for(EndReason::OutputLimit)?;
        }
    };
    // The tree is gone: what it wrote is in the pipes, and nothing is added any more.
    for (stream, pipe) in [(0, stdout), (1, stderr)] {
        while let Some(pipe) = pipe {
            match pipe.try_read(&mut buffers.0) {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    total += read as u64;
                    kept[stream].push(&buffers.0[..read]);
                }
            }
        }
    }
    if total > limit {
        running.reason.get_or_insert(EndReason::OutputLimit);
    }
    let mut outcome = running.outcome(&end);
    [outcome.stdout, outcome.stderr] = kept.map(Keeper::finish);
    Ok(outcome)
}

/// Reads what there is; waits for ever at the end of a stream.
async fn read_some(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    if let Some(open) = pipe {
        match open.read(buffer).await {
            Ok(read) if read > 0 => return read,
            _ => *pipe = None,
        }
    }
    pending().await
}
