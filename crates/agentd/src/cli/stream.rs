//! Forwards the streams of a command. Reading standard input and writing output may block, so each has its own thread. The
//! runtime can then continue to handle signals and deadlines.

#[cfg(feature = "policy")]
use super::caller_input;
use super::{
    args::CommandArgs,
    failure::CANNOT,
    stops::Stops,
    terminal,
    writer::{self, OutputPiece, Written},
};
use agentd_core::{EndReason, ExecHandle, ExecStreams, IsolationError, Outcome, PtySize};
use agentd_log::LogFailure as _;
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
};

/// The time limit for writing the remaining output, if a deadline or a signal ended the command.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// The standard input of a command.
pub(crate) enum CommandInput {
    /// The standard input of agentd.
    OfAgentd,
    /// These bytes.
    #[cfg(feature = "policy")]
    Bytes(Vec<u8>),
    /// What a caller of the daemon sends.
    #[cfg(feature = "policy")]
    OfCaller(caller_input::CallerInput),
}

/// A change of a running command that its caller requests together with its input.
#[cfg_attr(not(feature = "policy"), expect(dead_code, reason = "only a caller of the daemon changes a running command"))]
pub(crate) enum CommandChange {
    /// The terminal has this size.
    Resize(PtySize),
    /// The process group of the command gets this signal.
    Signal(i32),
}

/// Counts output bytes against a limit.
struct Meter {
    limit: u64,
    total: AtomicU64,
    over: Notify,
}

impl Meter {
    fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, total: AtomicU64::new(0), over: Notify::new() })
    }

    /// Counts `bytes`, and returns the part within the limit.
    fn admit<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let before = self.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.exceeded() && before <= self.limit {
            self.over.notify_one();
        }
        let room = usize::try_from(self.limit.saturating_sub(before)).unwrap_or(usize::MAX);
        &bytes[..bytes.len().min(room)]
    }

    fn exceeded(&self) -> bool {
        self.total.load(Ordering::Relaxed) > self.limit
    }
}

/// Connects the streams of a command with the caller's and waits for the end of the command. Returns the outcome and the exit
/// code.
pub(crate) async fn stream(
    handle: Box<dyn ExecHandle>,
    args: &CommandArgs,
    stops: &mut Stops,
    output: writer::Output,
) -> Result<(Outcome, u8), IsolationError> {
    let raw = if args.tty && args.interactive { terminal::RawMode::enter() } else { None };
    let (outcome, stopped) = serve(handle, args, CommandInput::OfAgentd, stops, output).await?;
    drop(raw);
    let code = report(&outcome, stopped);
    Ok((outcome, code))
}

/// Forwards the streams of a command until it ends. Returns its outcome, and the first signal that asked agentd to stop, if any.
/// A signal that asks agentd to stop is first sent to the command's process group. A command that has not ended after `--grace`
/// is killed; a second signal kills the command immediately.
pub(crate) async fn serve(
    mut handle: Box<dyn ExecHandle>,
    args: &CommandArgs,
    input: CommandInput,
    stops: &mut Stops,
    (sender, mut written, gone): writer::Output,
) -> Result<(Outcome, Option<i32>), IsolationError> {
    let streams = handle.take_streams();
    let mut resized = signal(SignalKind::window_change()).map_err(io_error)?;
    let follows_terminal = args.tty && matches!(input, CommandInput::OfAgentd);
    let meter = Meter::new(args.max_output.map_or(u64::MAX, |b| b.0));
    let sink = Sink { to: sender, meter: meter.clone(), gone };
    let mut changes = connect(streams, args.interactive, input, sink).map_err(io_error)?;
    let mut stopped = None;
    let mut kill_at = None;
    let mut all_written = false;
    let mut outcome = loop {
        tokio::select! {
            biased;
            () = meter.over.notified() => handle.end(EndReason::OutputLimit).await?,
            stop = stops.next() => {
                if stopped.replace(stop).is_some() || args.grace.is_zero() {
                    handle.end(EndReason::Cancelled).await?;
                } else {
                    // If the signal cannot be delivered, the sandbox is lost, and waiting for the command reports that.
                    handle.signal(stop).await.or_debug("forward signal", stop);
                    kill_at = tokio::time::Instant::now().checked_add(args.grace);
                }
            }
            () = sleep_until(kill_at), if kill_at.is_some() => {
                kill_at = None;
                handle.end(EndReason::Cancelled).await?;
            }
            result = &mut written, if !all_written => {
                all_written = true;
                write_result(result)?;
            }
            Some(()) = resized.recv(), if follows_terminal => handle.resize(terminal::size()).await?,
            Some(change) = next_change(&mut changes) => match change {
                CommandChange::Resize(size) => handle.resize(size).await?,
                // A command that has ended in the meantime gets no signal.
                CommandChange::Signal(number) => drop(handle.signal(number).await.or_debug("send signal", number)),
            },
            outcome = handle.wait() => break outcome?,
        }
    };
    // The process tree has ended, so the streams end as well. Print what they still contain.
    if !all_written {
        let hurried = stopped.is_some() || matches!(outcome.reason, EndReason::WallDeadline | EndReason::Cancelled);
        if let Some(stop) = drain(&mut written, stops, hurried.then_some(DRAIN)).await? {
            stopped.get_or_insert(stop);
        }
    }
    if stopped.is_some() && matches!(outcome.reason, EndReason::Exited | EndReason::Signalled) {
        outcome.reason = EndReason::Cancelled;
    }
    if meter.exceeded() && outcome.reason == EndReason::Exited {
        // The limit was exceeded by the last bytes, after the command had ended by itself. Those bytes are missing from the
        // output.
        outcome.reason = EndReason::OutputLimit;
    }
    Ok((outcome, stopped))
}

async fn next_change(changes: &mut Option<mpsc::Receiver<CommandChange>>) -> Option<CommandChange> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Waits until all output is written, until `limit` has passed, or until a signal asks agentd to stop. Returns that signal.
pub(crate) async fn drain(
    written: &mut Written,
    stops: &mut Stops,
    limit: Option<Duration>,
) -> Result<Option<i32>, IsolationError> {
    let max_wait = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = written => write_result(result).map(|()| None),
        stop = stops.next() => Ok(Some(stop)),
        () = max_wait => {
            writer::message(format_args!("write output: the rest of the output is lost: the reader did not accept it in time"));
            Ok(None)
        }
    }
}

fn io_error(source: std::io::Error) -> IsolationError {
    IsolationError::Io { context: "connect the streams of the command".to_owned(), source }
}

fn write_result(result: Result<std::io::Result<()>, tokio::sync::oneshot::error::RecvError>) -> Result<(), IsolationError> {
    let context = || "write the output".to_owned();
    match result {
        Ok(result) => result.map_err(|source| IsolationError::Io { context: context(), source }),
        Err(_) => Err(IsolationError::Io { context: context(), source: std::io::Error::other("the writer thread has ended") }),
    }
}

/// The destination of the command's output. The output ends when all clones are dropped.
#[derive(Clone)]
struct Sink {
    to: mpsc::Sender<OutputPiece>,
    meter: Arc<Meter>,
    gone: Arc<writer::ClosedOutputs>,
}

/// Starts the tasks and threads that copy the streams. Returns the changes that a caller of the daemon requests.
fn connect(
    streams: ExecStreams,
    interactive: bool,
    input: CommandInput,
    sink: Sink,
) -> std::io::Result<Option<mpsc::Receiver<CommandChange>>> {
    let to = match (streams.stdin, &streams.pty) {
        (Some(stdin), _) => Some(stdin),
        (None, Some(master)) if interactive => Some(master.try_clone()?),
        (None, _) => None,
    };
    let changes = match (input, to) {
        #[cfg(feature = "policy")]
        (CommandInput::OfCaller(input), to) => Some(caller_input::feed(input, to, streams.pty.is_some())?),
        #[cfg(feature = "policy")]
        (CommandInput::Bytes(bytes), Some(to)) if streams.pty.is_none() => {
            // An error means that the command has closed its standard input.
            std::thread::Builder::new().spawn(move || writer::write_all(&to, &bytes))?;
            None
        }
        (_, Some(to)) => {
            std::thread::Builder::new().spawn(move || copy_stdin(&to))?;
            None
        }
        (_, None) => None,
    };
    if let Some(master) = streams.pty {
        let sink = sink.clone();
        std::thread::Builder::new().spawn(move || read_terminal(&master, &sink))?;
    }
    if let Some(fd) = streams.stdout {
        tokio::spawn(forward(pipe::Receiver::from_owned_fd(fd)?, sink.clone(), OutputPiece::Out, |gone| &gone.out));
    }
    if let Some(fd) = streams.stderr {
        tokio::spawn(forward(pipe::Receiver::from_owned_fd(fd)?, sink.clone(), OutputPiece::Err, |gone| &gone.err));
    }
    Ok(changes)
}

/// Returns the message about a command that did not end by itself.
pub(crate) fn end_message(reason: EndReason) -> Option<&'static str> {
    match reason {
        EndReason::Exited | EndReason::Signalled => None,
        EndReason::BackendLost => Some(
            "command lost: the supervisor or the virtual machine of its sandbox ended — run the command again; with \
             AGENTD_LOG=debug, agentd prints the cause",
        ),
        EndReason::WallDeadline => Some("command stopped: time limit exceeded (--timeout)"),
        EndReason::CpuLimit => Some("command stopped: CPU time limit exceeded (--cpu-time)"),
        EndReason::OutOfMemory => Some("command stopped: out of memory (--memory)"),
        EndReason::ProcessLimit => Some("command stopped: process limit exceeded (--pids)"),
        EndReason::FileSizeLimit => Some("command stopped: file size limit exceeded (--file-size)"),
        EndReason::OutputLimit => Some("command stopped: output limit exceeded (--max-output)"),
        EndReason::Cancelled => None,
        _ => Some("command stopped by agentd"),
    }
}

/// Prints why a command did not end by itself; returns the exit code.
fn report(outcome: &Outcome, stopped: Option<i32>) -> u8 {
    match (end_message(outcome.reason), stopped) {
        (Some(message), _) => writer::message(format_args!("{message}")),
        (None, Some(signal)) if outcome.reason == EndReason::Cancelled => {
            writer::message(format_args!("command stopped: agentd received signal {signal}"));
        }
        (None, _) if outcome.reason == EndReason::Cancelled => writer::message(format_args!("command stopped by agentd")),
        _ => {}
    }
    match stopped {
        Some(signal) => u8::try_from(128 + signal).unwrap_or(CANNOT),
        None => outcome.shell_code(),
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    sink: Sink,
    wrap: fn(Vec<u8>) -> OutputPiece,
    gone: fn(&writer::ClosedOutputs) -> &AtomicBool,
) {
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        let ended = read == 0 || gone(&sink.gone).load(Ordering::Relaxed);
        if ended || sink.to.send(wrap(sink.meter.admit(&buffer[..read]).to_vec())).await.is_err() {
            return;
        }
    }
}

/// Reads the master of a terminal until its other side is closed, which the kernel reports as EIO.
fn read_terminal(master: &OwnedFd, sink: &Sink) {
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(read) = writer::read(master, &mut buffer) {
        if read == 0 || sink.to.blocking_send(OutputPiece::Out(sink.meter.admit(&buffer[..read]).to_vec())).is_err() {
            return;
        }
    }
}

/// Copies standard input until either side ends. Runs in its own thread, because a terminal or file cannot be polled.
fn copy_stdin(to: &OwnedFd) {
    let mut buffer = vec![0u8; 64 << 10];
    while let Some(read) = writer::read(rustix::stdio::stdin(), &mut buffer).or_debug("read", "standard input") {
        if read == 0 || writer::write_all(to, &buffer[..read]).is_err() {
            return;
        }
    }
}
