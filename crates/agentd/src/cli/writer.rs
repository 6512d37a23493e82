//! Writes output in a separate thread. If the reader does not read, only this thread blocks, and agentd can still handle signals
//! and deadlines.

use agentd_core::escape;
use agentd_isolation::HeadTail;
use agentd_log::LogFailure as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    fmt,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};

/// Number of pieces that may wait for the reader before the command is blocked.
const PIECES: usize = 4;

/// The maximum time for which a message waits for a reader of standard error.
const MESSAGE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A piece of output, with its stream.
pub(crate) enum OutputPiece {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// Resolves when all output is written and all senders are dropped, or when writing has failed.
pub(crate) type Written = oneshot::Receiver<std::io::Result<()>>;

/// The output of a command: a sender for its pieces, a receiver for the end of writing, and the streams that have lost their
/// reader.
pub(crate) type Output = (mpsc::Sender<OutputPiece>, Written, Arc<ClosedOutputs>);

/// The kept parts of standard output and standard error.
pub(crate) type KeptOutput = Arc<Mutex<[HeadTail; 2]>>;

/// Marks streams that have lost their reader. The sender then stops, so that the command sees a closed pipe, as without agentd.
#[derive(Default)]
pub(crate) struct ClosedOutputs {
    pub out: AtomicBool,
    pub err: AtomicBool,
}

/// Writes the pieces in a thread that starts with the first one: many commands print nothing. Call this function only after the
/// launcher was started: forking the launcher requires a process with a single thread.
pub(crate) fn start() -> Output {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let gone = Arc::new(ClosedOutputs::default());
    let shared = gone.clone();
    let (reply, written) = oneshot::channel();
    tokio::spawn(async move {
        let result = match pieces.recv().await {
            Some(first) => print_in_thread(first, pieces, shared).await,
            None => Ok(()),
        };
        // Sending fails if nothing waits for the end of the output any longer.
        reply.send(result).or_unreceived("end of the output");
    });
    (sender, written, gone)
}

async fn print_in_thread(
    first: OutputPiece,
    pieces: mpsc::Receiver<OutputPiece>,
    gone: Arc<ClosedOutputs>,
) -> std::io::Result<()> {
    let (reply, printed) = oneshot::channel();
    std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
        reply.send(print(first, pieces, &gone)).or_unreceived("end of the output");
    })?;
    printed.await.unwrap_or_else(|_| Err(std::io::Error::other("the writer thread has ended")))
}

/// Keeps the pieces instead of writing them: the first and last bytes of each stream, within a budget.
pub(crate) fn keep(budget: u64) -> (Output, KeptOutput) {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let (reply, written) = oneshot::channel();
    let kept = Arc::new(Mutex::new([HeadTail::new(budget), HeadTail::new(budget)]));
    let into = kept.clone();
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            add(&into, &piece);
        }
        // Sending fails if nothing waits for the end of the output any longer.
        reply.send(Ok(())).or_unreceived("end of the output");
    });
    ((sender, written, Arc::default()), kept)
}

/// Keeps the first and last bytes of each stream, within a budget, of the pieces on their way to `output`.
#[cfg(feature = "policy")]
pub(crate) fn keep_copy(budget: u64, (to, written, gone): Output) -> (Output, KeptOutput) {
    let (sender, mut pieces) = mpsc::channel(1);
    let kept = Arc::new(Mutex::new([HeadTail::new(budget), HeadTail::new(budget)]));
    let into = kept.clone();
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            add(&into, &piece);
            // Without a receiver, the senders of pieces get the error.
            if to.send(piece).await.is_err() {
                return;
            }
        }
    });
    ((sender, written, gone), kept)
}

fn add(kept: &KeptOutput, piece: &OutputPiece) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    match piece {
        OutputPiece::Out(bytes) => kept[0].push(bytes),
        OutputPiece::Err(bytes) => kept[1].push(bytes),
    }
}

fn print(first: OutputPiece, mut pieces: mpsc::Receiver<OutputPiece>, gone: &ClosedOutputs) -> std::io::Result<()> {
    let mut next = Some(first);
    while let Some(piece) = next {
        let (written, gone) = match &piece {
            OutputPiece::Out(bytes) => (write_all(rustix::stdio::stdout(), bytes), &gone.out),
            OutputPiece::Err(bytes) => (write_all(rustix::stdio::stderr(), bytes), &gone.err),
        };
        match written {
            Ok(()) => {}
            Err(Errno::PIPE) => gone.store(true, Ordering::Relaxed),
            Err(errno) => return Err(errno.into()),
        }
        next = pieces.blocking_recv();
    }
    Ok(())
}

/// Writes all bytes. The descriptor may be non-blocking: that is a property of the open file, which other processes may set.
pub(crate) fn write_all(to: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    let to = to.as_fd();
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads the available bytes; waits for input if the descriptor is non-blocking. Returns 0 at the end.
pub(crate) fn read(from: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let from = from.as_fd();
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
            other => return other,
        }
    }
}

fn wait(on: BorrowedFd<'_>, what: PollFlags) -> Result<(), Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(on, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Prints a message on one line of standard error.
pub(crate) fn message(what: fmt::Arguments<'_>) {
    // If printing fails, there is no other place to report the error.
    Stderr.write_all(format!("agentd: {}\n", escape::text(&what.to_string())).as_bytes()).ok();
}

/// Standard error for messages. A message that the reader does not accept in time is dropped, so that the reader cannot keep
/// agentd running.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, message: &[u8]) -> std::io::Result<usize> {
        let stderr = rustix::stdio::stderr();
        let ready = poll(&mut [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)], Some(&MESSAGE));
        if ready.is_ok_and(|ready| ready > 0) {
            write_all(stderr, message)?;
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
