//! Execs that a supervisor on this kernel runs.
//!
//! Limits are enforced by this process or by the kernel, never by the supervisor alone. If a supervisor does not end an exec in
//! time, its sandbox is killed.

use super::{
    Executable, capture, effective, handle,
    limits::limit_exceeded,
    pipe,
    request::request,
    running::Exec,
    stdio::{self, Stdio},
    transport::{End, Event, ExecControl, LimitWatch, Pipes, Timer, Transport},
};
use crate::connection::{ExecEvent, SupervisorConnection};
use agentd_core::{Command, EndReason, ExecHandle, ExecStreams, IsolationError, Limits, Outcome, PtySize, StdinSource, Usage};
use agentd_kernel::cgroup::GroupUsage;
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    protocol::{ExecUsage, Request},
    role,
};
use std::{
    future::ready,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{net::unix, sync::mpsc};

/// The time limit for a supervisor to end an exec. When the limit has passed, the sandbox is killed, with all other execs in it.
/// A supervisor needs about a millisecond, but on a busy or emulated machine it may have to wait for a processor.
const GRACE: Duration = Duration::from_secs(2);

/// The transport of one exec at a supervisor.
pub(crate) struct Supervised {
    connection: Arc<SupervisorConnection>,
    id: u32,
    events: mpsc::Receiver<ExecEvent>,
    /// The master side of the command's terminal, if it has one.
    terminal: Option<OwnedFd>,
    program: String,
    cpu_time: Option<Duration>,
    /// The counters of the sandbox's cgroup before the exec.
    baseline: GroupUsage,
}

impl Supervised {
    fn new(connection: Arc<SupervisorConnection>, command: &Command, limits: &Limits) -> Self {
        let (id, events) = connection.listen();
        let baseline = GroupUsage::read(&connection.watches);
        let program = command.argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
        Self { connection, id, events, terminal: None, program, cpu_time: limits.cpu_time, baseline }
    }

    /// Translates an event of the supervisor; `None` means that the sandbox is lost.
    fn translate(&self, events: Option<ExecEvent>) -> Event {
        match events {
            Some(ExecEvent::Ended { status, usage, process_limit }) => Event::Ended(self.ended(status, usage, process_limit)),
            Some(ExecEvent::SpawnFailed(IsolationError::Spawn { errno, .. })) => {
                Event::NotStarted(IsolationError::Spawn { program: self.program.clone(), errno })
            }
            Some(ExecEvent::SpawnFailed(error)) => Event::NotStarted(error),
            Some(ExecEvent::Terminal(_) | ExecEvent::Opened(_)) => {
                Event::Misplaced(IsolationError::Protocol("the supervisor sent a message out of order".to_owned()))
            }
            None => {
                let group = GroupUsage::read(&self.connection.watches);
                Event::Lost {
                    error: self.connection.why_lost(),
                    // The kernel may have killed the supervisor itself, which would otherwise report this.
                    reason: (group.oom_kills > self.baseline.oom_kills).then_some(EndReason::OutOfMemory),
                    usage: usage(Duration::ZERO, ExecUsage::default(), group),
                }
            }
        }
    }

    /// Returns the end of an exec whose first process ended with `status` (`wait(2)`).
    fn ended(&self, status: i32, used: ExecUsage, process_limit: bool) -> End {
        let group = GroupUsage::read(&self.connection.watches);
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        let usage = usage(Duration::ZERO, used, group);
        let cpu = usage.cpu_user.saturating_add(usage.cpu_system);
        let reason = match signal {
            _ if process_limit || group.pids_hits > self.baseline.pids_hits => EndReason::ProcessLimit,
            _ if group.oom_kills > self.baseline.oom_kills => EndReason::OutOfMemory,
            // The kernel compares the limit with sampled CPU time but reports measured CPU time. The two differ on contended
            // processors, so SIGXCPU is trusted.
            Some(libc::SIGXCPU) if self.cpu_time.is_some() => EndReason::CpuLimit,
            Some(libc::SIGKILL) if self.cpu_time.is_some_and(|limit| cpu >= limit) => EndReason::CpuLimit,
            Some(libc::SIGXFSZ) => EndReason::FileSizeLimit,
            Some(_) => EndReason::Signalled,
            None => EndReason::Exited,
        };
        End { reason, exit_code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)), signal, usage }
    }
}

/// The part of the transport that the handle of an exec uses.
pub(crate) struct SupervisedControl {
    connection: Arc<SupervisorConnection>,
    id: u32,
    terminal: Option<OwnedFd>,
}

impl ExecControl for SupervisedControl {
    fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.connection.request(&Request::Signal { id: self.id, signal }, &[])
    }

    fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| IsolationError::Io { context: "set the size of the terminal".to_owned(), source: e.into() })
    }
}

impl Transport for Supervised {
    type Input = unix::pipe::Sender;
    type Output = unix::pipe::Receiver;
    type ExecControl = SupervisedControl;

    fn control(&mut self) -> SupervisedControl {
        SupervisedControl { connection: self.connection.clone(), id: self.id, terminal: self.terminal.take() }
    }

    async fn event(&mut self) -> Event {
        let events = self.events.recv().await;
        self.translate(events)
    }

    fn terminate(&self) {
        // A stopped process handles SIGTERM only after SIGCONT.
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            // The command is killed when its grace ends, whether or not it received the signal.
            let sent = self.connection.request(&Request::Signal { id: self.id, signal }, &[]);
            sent.or_debug("send a signal to a command", (self.id, signal));
        }
    }

    fn end(&self, _reason: EndReason) {
        if self.connection.request(&Request::End { id: self.id }, &[]).is_err() {
            self.connection.kill();
        }
    }

    fn kill(&self) {
        self.connection.kill();
    }

    fn max_wait(&self) -> Timer {
        Box::pin(self.connection.unfrozen_for(GRACE))
    }

    fn limits(&self) -> LimitWatch {
        Box::pin(limit_exceeded(self.connection.clone(), self.baseline, self.cpu_time))
    }

    async fn conclude(&self) -> Result<(), IsolationError> {
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.connection.forget(self.id);
    }
}

/// Combines the wall-clock time, the usage of the reaped processes and the counters of the cgroup.
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

/// Starts a command, with `given` as its standard input if present.
async fn start(
    connection: Arc<SupervisorConnection>,
    command: &Command,
    executable: Executable,
    given: Option<OwnedFd>,
) -> Result<(Exec<Supervised>, ExecStreams), IsolationError> {
    let limits = effective(&command.limits, &connection.limits)?;
    let transport = Supervised::new(connection.clone(), command, &limits);
    let mut request = request(transport.id, command, &limits)?;
    if let Some(role) = executable.role() {
        request.own_image = true;
        role.mark(&mut request.env);
    }
    let image = executable.role().map(|_| role::image()).transpose()?;
    let exec = Exec::new(transport, &limits);
    if command.pty.is_some() {
        let input = (command.stdin == StdinSource::Null).then(stdio::null).transpose()?;
        let fds: Vec<_> = input.into_iter().chain(image).collect();
        return start_on_terminal(exec, request, &fds).await;
    }
    let stdio = Stdio::open(&command.stdin, given, connection.owner)?;
    let fds: Vec<_> = stdio.theirs()?.into_iter().chain(image).collect();
    connection.request(&Request::Exec(request), &fds)?;
    Ok((exec, stdio.ours))
}

/// Starts a command on a new terminal. `fds` are the descriptors of the request.
async fn start_on_terminal(
    mut exec: Exec<Supervised>,
    request: agentd_supervisor::protocol::SpawnRequest,
    fds: &[BorrowedFd<'_>],
) -> Result<(Exec<Supervised>, ExecStreams), IsolationError> {
    exec.transport.connection.request(&Request::Exec(request), fds)?;
    match exec.transport.events.recv().await {
        Some(ExecEvent::Terminal(fd)) => {
            let copy = fd.try_clone().map_err(|source| IsolationError::Io {
                context: "duplicate the descriptor of the terminal".to_owned(),
                source,
            })?;
            exec.transport.terminal = Some(fd);
            Ok((exec, ExecStreams { pty: Some(copy), ..ExecStreams::default() }))
        }
        other => {
            let event = exec.transport.translate(other);
            exec.handle(event)?;
            Err(IsolationError::Protocol("the supervisor sent no terminal for a command that has one".to_owned()))
        }
    }
}

/// Runs a command to its end and captures its output.
pub(crate) async fn run_to_end(
    connection: Arc<SupervisorConnection>,
    command: Command,
    executable: Executable,
) -> Result<Outcome, IsolationError> {
    capture::check(&command)?;
    let (exec, streams) = start(connection, &command, executable, None).await?;
    let pipes = Pipes {
        input: streams.stdin.map(pipe::sender).transpose()?,
        outputs: [streams.stdout.map(pipe::receiver).transpose()?, streams.stderr.map(pipe::receiver).transpose()?],
    };
    let input = if let StdinSource::Bytes(bytes) = &command.stdin { bytes.as_slice() } else { &[] };
    capture::run_to_end(exec, pipes, input, command.capture).await
}

/// Starts a command whose streams the caller serves.
pub(crate) async fn stream(
    connection: Arc<SupervisorConnection>,
    command: &Command,
    executable: Executable,
) -> Result<Box<dyn ExecHandle>, IsolationError> {
    let (exec, streams) = start(connection, command, executable, None).await?;
    Ok(handle::spawn(exec, streams, ready(())))
}

/// Starts a command whose standard input is `stdin`, which may be a socket. The caller serves the output streams.
pub(crate) async fn stream_on(
    connection: Arc<SupervisorConnection>,
    command: &Command,
    stdin: OwnedFd,
) -> Result<Box<dyn ExecHandle>, IsolationError> {
    let (exec, streams) = start(connection, command, Executable::FromPath, Some(stdin)).await?;
    Ok(handle::spawn(exec, streams, ready(())))
}
