//! One exec: starting it, watching its limits from outside, reading its output, and saying how it ended.
//!
//! Limits are enforced here or by the kernel, not by the goodwill of the supervisor: an exec that does not end when told to takes
//! its sandbox with it.

mod capture;
mod handle;
mod limits;

pub(crate) use capture::{DEFAULT_CAPTURE, run_to_end};
pub(crate) use handle::{stream, stream_on};

use crate::link::{Link, News};
use agentd_core::{Command, EndReason, ExecStreams, IsolationError, Limits, Outcome, StdinSource, Usage};
use agentd_kernel::{cgroup::GroupUsage, rlimit::RlimitPlan};
use agentd_supervisor::{
    launcher::sealed_image,
    protocol::{Exec, ExecUsage, Request},
};
use rustix::pipe::PipeFlags;
use std::{
    future::pending,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How long a supervisor may take to end an exec before its sandbox is killed, and every other exec in it. It needs a millisecond; on a
/// busy or an emulated machine it may have to wait for a processor.
const GRACE: Duration = Duration::from_secs(2);

/// How much later the supervisor itself ends an exec, should this process be stopped when its deadline comes.
const BEHIND: Duration = Duration::from_secs(1);

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
    /// When it is not waited for any longer, once it was told to end.
    patience: Option<Patience>,
    /// What a handle asks it to be ended for. A handle that is gone asks too.
    wishes: Option<mpsc::UnboundedReceiver<EndReason>>,
    /// Whether it has ended: then there is nothing to be ended.
    over: bool,
}

/// Waits until so much patience was enough. It is kept while other things happen: what an exec still says gains it no time.
pub(crate) type Patience = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Waits for the end of patience, where it has begun.
pub(crate) async fn lost(patience: &mut Option<Patience>) {
    match patience {
        Some(patience) => patience.await,
        None => pending().await,
    }
}

struct End {
    status: i32,
    usage: ExecUsage,
    process_limit: bool,
}

/// The tighter of two limits.
fn tighter<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// What holds for a command: its own limits and the sandbox's. One of its own that only a whole sandbox can hold is refused, unless
/// that holds as much.
pub(crate) fn effective(command: &Limits, sandbox: &Limits) -> Result<Limits, IsolationError> {
    let whole = [
        ("memory", beyond(command.memory, sandbox.memory)),
        ("processes", beyond(command.processes, sandbox.processes)),
        ("cpu_quota", beyond(command.cpu_quota, sandbox.cpu_quota)),
        ("cpu_weight", command.cpu_weight.is_some() && command.cpu_weight != sandbox.cpu_weight),
    ];
    if let Some((limit, _)) = whole.into_iter().find(|(_, beyond)| *beyond) {
        let reason = "it holds for a sandbox as a whole: ask for it in the sandbox's spec".to_owned();
        return Err(IsolationError::Invalid { what: format!("command limit {limit}"), reason });
    }
    Ok(Limits {
        wall: tighter(command.wall, sandbox.wall),
        cpu_time: tighter(command.cpu_time, sandbox.cpu_time),
        open_files: tighter(command.open_files, sandbox.open_files),
        file_size: tighter(command.file_size, sandbox.file_size),
        output: tighter(command.output, sandbox.output),
        ..sandbox.clone()
    })
}

/// Whether a command asks for a tighter limit than its sandbox holds.
fn beyond<T: Ord>(command: Option<T>, sandbox: Option<T>) -> bool {
    command.is_some_and(|command| sandbox.is_none_or(|sandbox| command < sandbox))
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
    // Later than the deadline that is held here, so that this one is met first.
    let wall = limits.wall.and_then(|wall| wall.checked_add(BEHIND));
    let wall_ms = wall.and_then(|wall| u64::try_from(wall.as_millis()).ok());
    Ok(Exec { id, argv, env, cwd, pty, rlimits, wall_ms, own_image: false })
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
        Self::start_on(link, command, image, None).await
    }

    /// Sends the command to the supervisor, with `given` as its standard input instead of what it says itself.
    async fn start_on(link: Arc<Link>, command: &Command, image: Image, given: Option<OwnedFd>) -> Result<Self, IsolationError> {
        let io = |source: rustix::io::Errno| IsolationError::Io { context: "pipe".to_owned(), source: source.into() };
        let limits = effective(&command.limits, &link.limits)?;
        let (id, news) = link.listen();
        let mut running = Self {
            program: command.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default(),
            baseline: GroupUsage::read(&link.watches),
            started: Instant::now(),
            streams: ExecStreams::default(),
            terminal: None,
            reason: None,
            patience: None,
            wishes: None,
            over: false,
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
        if let Some((user, group)) = running.link.owner {
            let own = |fd: &OwnedFd| {
                // A pipe's two ends are one file, which its owner may open by name (/dev/stdout).
                rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(user)), Some(rustix::fs::Gid::from_raw(group))).map_err(io)
            };
            own(&stdout_inner)?;
            own(&stderr_inner)?;
            if let Some((inner, _)) = &stdin {
                own(inner)?;
            }
        }
        let stdin_inner = match (&given, &stdin) {
            (Some(given), _) => given.as_fd(),
            (None, Some((inner, _))) => inner.as_fd(),
            (None, None) => null().map_err(|source| IsolationError::Io { context: "open /dev/null".to_owned(), source })?,
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
            Some(News::SpawnFailed(error)) => {
                self.over = true;
                Err(self.named(error))
            }
            None => Err(self.link.why_lost()),
            Some(_) => Err(IsolationError::Protocol("news out of order".to_owned())),
        }
    }

    fn end_for(&mut self, reason: EndReason) -> Result<(), IsolationError> {
        // The first reason is the one that ended it.
        self.reason.get_or_insert(reason);
        self.patience.get_or_insert_with(|| Box::pin(self.link.awake_for(GRACE)));
        self.link.request(&Request::End { id: self.id }, &[])
    }

    /// Waits for the end or for a limit. `None` when a limit has been acted on and the wait goes on.
    async fn next(&mut self) -> Result<Option<End>, IsolationError> {
        let deadline = match (self.reason, self.limits.wall) {
            // One that is past the end of time never comes.
            (None, Some(wall)) => self.started.checked_add(wall),
            _ => None,
        };
        let at = |when: Option<Instant>| async move {
            match when {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => pending().await,
            }
        };
        let asked = self.patience.is_some();
        let wish = async {
            match &mut self.wishes {
                Some(wishes) if !asked => wishes.recv().await.unwrap_or(EndReason::Cancelled),
                _ => pending().await,
            }
        };
        tokio::select! {
            biased;
            news = self.news.recv() => self.hear(news).map(Some),
            reason = wish => self.end_for(reason).map(|()| None),
            () = at(deadline) => self.end_for(EndReason::WallDeadline).map(|()| None),
            () = lost(&mut self.patience) => {
                self.patience = None;
                self.link.kill();
                Ok(None)
            }
            reason = limits::limit_hit(&self.link, self.baseline, self.limits.cpu_time), if self.reason.is_none() => {
                self.end_for(reason).map(|()| None)
            }
        }
    }

    fn hear(&mut self, news: Option<News>) -> Result<End, IsolationError> {
        self.over = matches!(news, Some(News::Ended { .. } | News::SpawnFailed(_)));
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
        let usage = usage(self.started.elapsed(), end.usage, group);
        let cpu = usage.cpu_user.saturating_add(usage.cpu_system);
        // The kernel compares with time that it samples by ticks, and reports time that it measures: when processors are contended the
        // two differ, so its signal is believed.
        let limited = self.limits.cpu_time.is_some();
        let cpu_over = self.limits.cpu_time.is_some_and(|limit| cpu >= limit);
        let reason = match (self.reason, signal) {
            (Some(reason), _) => reason,
            _ if end.process_limit || group.pids_hits > self.baseline.pids_hits => EndReason::ProcessLimit,
            _ if group.oom_kills > self.baseline.oom_kills => EndReason::OutOfMemory,
            (None, Some(libc::SIGXCPU)) if limited => EndReason::CpuLimit,
            (None, Some(libc::SIGKILL)) if cpu_over => EndReason::CpuLimit,
            // The supervisor held the deadline, because this process was stopped.
            (None, Some(libc::SIGKILL)) if self.limits.wall.is_some_and(|wall| self.started.elapsed() > wall) => {
                EndReason::WallDeadline
            }
            (None, Some(libc::SIGXFSZ)) => EndReason::DiskLimit,
            (None, Some(_)) => EndReason::Signalled,
            (None, None) => EndReason::Exited,
        };
        Outcome {
            reason,
            exit_code: exited.then(|| libc::WEXITSTATUS(end.status)),
            signal,
            usage,
            stdout: agentd_core::Captured::default(),
            stderr: agentd_core::Captured::default(),
        }
    }
}

/// What was used within `wall`, by the processes that were reaped and by the group.
pub(crate) fn usage(wall: Duration, reaped: ExecUsage, group: GroupUsage) -> Usage {
    Usage {
        wall,
        cpu_user: Duration::from_micros(reaped.user_us),
        cpu_system: Duration::from_micros(reaped.system_us),
        peak_memory: group.peak_memory.unwrap_or(reaped.max_rss_kib.saturating_mul(1024)),
        peak_memory_is_group: group.peak_memory.is_some(),
        machine_memory: None,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            // Nobody waits any more, so nothing of it may go on.
            self.link.request(&Request::End { id: self.id }, &[]).ok();
        }
        self.link.forget(self.id);
    }
}
