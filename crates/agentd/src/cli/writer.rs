//! What is printed while signals and deadlines must go on being served: a thread of its own writes it, because a reader that stands
//! still blocks whoever writes.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    fmt,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};

/// How many pieces wait for the reader before the command is held up.
const PIECES: usize = 4;

/// How long a message at the end waits for a reader of standard error.
const MESSAGE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// One piece of output.
pub(crate) enum Piece {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// Resolves when all was written and nobody can send more, or when writing failed.
pub(crate) type Written = oneshot::Receiver<std::io::Result<()>>;

/// Which streams have lost their reader. Who feeds them stops, so that the command meets a closed pipe, as it would without agentd.
#[derive(Default)]
pub(crate) struct Gone {
    pub out: AtomicBool,
    pub err: AtomicBool,
}

/// Starts the thread. To be called when the launcher was started: that is a fork, which wants a process of one thread.
pub(crate) fn start() -> std::io::Result<(mpsc::Sender<Piece>, Written, Arc<Gone>)> {
    let (sender, pieces) = mpsc::channel(PIECES);
    let gone = Arc::new(Gone::default());
    let told = gone.clone();
    let (teller, written) = oneshot::channel();
    std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
        // Nobody need be waiting any more.
        teller.send(print(pieces, &told)).ok();
    })?;
    Ok((sender, written, gone))
}

fn print(mut pieces: mpsc::Receiver<Piece>, gone: &Gone) -> std::io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        let (written, gone) = match &piece {
            Piece::Out(bytes) => (write_all(rustix::stdio::stdout(), bytes), &gone.out),
            Piece::Err(bytes) => (write_all(rustix::stdio::stderr(), bytes), &gone.err),
        };
        match written {
            Ok(()) => {}
            Err(Errno::PIPE) => gone.store(true, Ordering::Relaxed),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Writes all of it. The descriptor may be non-blocking: that is a property of the open file, which its other owners set as they like.
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

/// Reads what there is, and waits for it where the descriptor is non-blocking; 0 is the end.
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

/// Says something on standard error, unless nobody takes it: a reader that stands still must not keep agentd alive.
pub(crate) fn say(what: fmt::Arguments<'_>) {
    let stderr = rustix::stdio::stderr();
    let ready = poll(&mut [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)], Some(&MESSAGE));
    if ready.is_ok_and(|ready| ready > 0) {
        // Nobody is left to be told when this fails.
        writeln!(std::io::stderr(), "agentd: {what}").ok();
    }
}
