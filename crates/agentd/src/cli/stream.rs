//! A command's streams, passed on as they come. Everything that may block — the reader of our output, the writer of our input — has a
//! thread of its own, so that the runtime goes on serving signals and deadlines.

use super::{
    CANNOT,
    args::CommandArgs,
    run::Stops,
    terminal,
    writer::{self, Piece, Written},
};
use agentd_core::{EndReason, ExecHandle, ExecStreams, IsolationError, Outcome};
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

/// How long the reader may take for what is left, when the command ended because the caller has no more time for it.
const DRAIN: Duration = Duration::from_secs(2);

/// Counts output, against its limit.
struct Meter {
    limit: u64,
    total: AtomicU64,
    over: Notify,
}

impl Meter {
    fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, total: AtomicU64::new(0), over: Notify::new() })
    }

    /// What of `bytes` is within the limit.
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

/// Serves the streams of a command with the caller's, to its end; gives the exit code.
pub(crate) async fn stream(mut handle: Box<dyn ExecHandle>, args: &CommandArgs, stops: &mut Stops) -> Result<u8, IsolationError> {
    let streams = handle.take_streams();
    let raw = if args.tty && args.interactive { terminal::Raw::enter() } else { None };
    let mut resized = signal(SignalKind::window_change()).map_err(io)?;
    let meter = Meter::new(args.max_output.map_or(u64::MAX, |b| b.0));
    let (sender, mut written, gone) = writer::start().map_err(io)?;
    connect(streams, args.interactive, &Sink { to: sender, meter: meter.clone(), gone }).map_err(io)?;
    let mut stopped = None;
    let mut all_written = false;
    let mut outcome = loop {
        tokio::select! {
            biased;
            () = meter.over.notified() => handle.end(EndReason::OutputLimit).await?,
            stop = stops.next() => {
                stopped = Some(stop);
                handle.end(EndReason::Cancelled).await?;
            }
            result = &mut written, if !all_written => {
                all_written = true;
                told(result)?;
            }
            Some(()) = resized.recv(), if args.tty => handle.resize(terminal::size()).await?,
            outcome = handle.wait() => break outcome?,
        }
    };
    // The tree is gone, so the streams end; what is in them is still printed.
    if !all_written {
        let hurried = matches!(outcome.reason, EndReason::WallDeadline | EndReason::Cancelled);
        if let Some(stop) = drain(&mut written, stops, hurried.then_some(DRAIN)).await? {
            stopped.get_or_insert(stop);
        }
    }
    drop(raw);
    if meter.exceeded() && outcome.reason == EndReason::Exited {
        // It ended while its last bytes were counted; they are missing all the same.
        outcome.reason = EndReason::OutputLimit;
    }
    Ok(report(&outcome, stopped))
}

/// Waits until all is written, or `limit` has passed, or agentd is asked to stop, which it then gives.
pub(crate) async fn drain(
    written: &mut Written,
    stops: &mut Stops,
    limit: Option<Duration>,
) -> Result<Option<i32>, IsolationError> {
    let patience = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = written => told(result).map(|()| None),
        stop = stops.next() => Ok(Some(stop)),
        () = patience => {
            writer::say(format_args!("nobody read the rest of the output: it is lost"));
            Ok(None)
        }
    }
}

fn io(source: std::io::Error) -> IsolationError {
    IsolationError::Io { context: "streams".to_owned(), source }
}

fn told(result: Result<std::io::Result<()>, tokio::sync::oneshot::error::RecvError>) -> Result<(), IsolationError> {
    let context = || "write the output".to_owned();
    match result {
        Ok(result) => result.map_err(|source| IsolationError::Io { context: context(), source }),
        Err(_) => Err(IsolationError::Io { context: context(), source: std::io::Error::other("the writer is gone") }),
    }
}

/// Where the command's output goes. Its end is reached when all copies are gone.
#[derive(Clone)]
struct Sink {
    to: mpsc::Sender<Piece>,
    meter: Arc<Meter>,
    gone: Arc<writer::Gone>,
}

/// Starts what carries the bytes of each stream.
fn connect(streams: ExecStreams, interactive: bool, sink: &Sink) -> std::io::Result<()> {
    if let Some(master) = streams.pty {
        if interactive {
            let input = master.try_clone()?;
            std::thread::Builder::new().spawn(move || copy_stdin(&input))?;
        }
        let sink = sink.clone();
        std::thread::Builder::new().spawn(move || read_terminal(&master, &sink))?;
    }
    if let Some(fd) = streams.stdout {
        tokio::spawn(forward(pipe::Receiver::from_owned_fd(fd)?, sink.clone(), Piece::Out, |gone| &gone.out));
    }
    if let Some(fd) = streams.stderr {
        tokio::spawn(forward(pipe::Receiver::from_owned_fd(fd)?, sink.clone(), Piece::Err, |gone| &gone.err));
    }
    if let Some(stdin) = streams.stdin {
        std::thread::Builder::new().spawn(move || copy_stdin(&stdin))?;
    }
    Ok(())
}

/// Says why a command did not end by itself, and gives the exit code.
fn report(outcome: &Outcome, stopped: Option<i32>) -> u8 {
    let said = match outcome.reason {
        EndReason::Exited | EndReason::Signalled => None,
        EndReason::WallDeadline => Some("ended at its deadline (--timeout)"),
        EndReason::CpuLimit => Some("ended at its processor time (--cpu-time)"),
        EndReason::OutOfMemory => Some("ended out of memory (--memory)"),
        EndReason::ProcessLimit => Some("ended at its number of processes (--pids)"),
        EndReason::DiskLimit => Some("ended at its file size (--file-size)"),
        EndReason::OutputLimit => Some("ended at its output (--max-output)"),
        EndReason::Cancelled => Some("cancelled"),
        _ => Some("ended by agentd"),
    };
    if let Some(said) = said {
        writer::say(format_args!("{said}"));
    }
    match stopped {
        Some(signal) => u8::try_from(128 + signal).unwrap_or(CANNOT),
        None => outcome.shell_code(),
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    sink: Sink,
    wrap: fn(Vec<u8>) -> Piece,
    gone: fn(&writer::Gone) -> &AtomicBool,
) {
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        let ended = read == 0 || gone(&sink.gone).load(Ordering::Relaxed);
        if ended || sink.to.send(wrap(sink.meter.admit(&buffer[..read]).to_vec())).await.is_err() {
            return;
        }
    }
}

/// Reads a terminal's master until its other side is closed, which reads as EIO.
fn read_terminal(master: &OwnedFd, sink: &Sink) {
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(read) = writer::read(master, &mut buffer) {
        if read == 0 || sink.to.blocking_send(Piece::Out(sink.meter.admit(&buffer[..read]).to_vec())).is_err() {
            return;
        }
    }
}

/// Copies standard input until either side ends. It runs in a thread of its own, because a terminal or file cannot be polled.
fn copy_stdin(to: &OwnedFd) {
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(read) = writer::read(rustix::stdio::stdin(), &mut buffer) {
        if read == 0 || writer::write_all(to, &buffer[..read]).is_err() {
            return;
        }
    }
}
