//! Execs in a guest. The host enforces their time limits as well, and kills the machine of a guest that does not end an exec in
//! time.

use super::{
    Guest,
    frame::{StreamId, StreamKind},
    protocol::{self, FromGuest, ToGuest},
    sanitize::plausible,
    session::{Operation, Session, refused},
    stream::{RecvStream, SendStream},
};
use agentd_core::{Command, EndReason, ExecHandle, ExecStreams, IsolationError, Outcome, PtySize, StdinSource, Usage};
use agentd_isolation::{
    descriptor::Descriptor,
    exec::{
        Exec, Executable, capture, effective, handle,
        transport::{Event, ExecControl, Input, LimitWatch, Output, Pipes, Timer, Transport},
    },
};
use agentd_log::LogFailure as _;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
};
use std::{future::pending, io, os::fd::OwnedFd, pin::pin, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// Time that a guest has to end an exec before its machine is killed. Emulated machines are slow.
const GRACE: Duration = Duration::from_secs(5);

/// The time for which the host waits, in total, for the rest of an ended command's output. This output has at most
/// [`MAX_LATE_OUTPUT`] bytes per stream. Time in which the host waits for its own readers does not count.
const LATE_OUTPUT_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of bytes of one output stream that a guest may send after the end of the command. A pipe holds at most a
/// megabyte (`/proc/sys/fs/pipe-max-size`, `pipe(7)`), and the agent and the connection together hold less than another megabyte.
const MAX_LATE_OUTPUT: u64 = 2 << 20;

/// Interval at which the rest of an ended command's output is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// An exec in a guest.
struct InGuest {
    guest: Arc<Guest>,
    operation: Operation,
    program: String,
}

/// The session and number by which an exec in a guest is controlled.
struct Remote {
    session: Arc<Session>,
    id: u32,
}

impl ExecControl for Remote {
    fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.session.request(&ToGuest::Signal { id: self.id, signal })
    }

    fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        self.session.request(&ToGuest::Resize { id: self.id, size: (size.rows, size.cols) })
    }
}

impl Input for SendStream {
    async fn write_all(&mut self, bytes: &[u8]) {
        self.write(bytes).await.or_unreceived("standard input of a command");
    }
}

impl Output for RecvStream {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> bool {
        match Self::read(self).await {
            Some(bytes) => *buffer = bytes,
            None => return false,
        }
        true
    }

    fn arrived(&self) -> usize {
        Self::arrived(self)
    }

    fn read_now(&mut self, buffer: &mut Vec<u8>) -> bool {
        *buffer = Self::read_now(self);
        !buffer.is_empty()
    }
}

impl Transport for InGuest {
    type Input = SendStream;
    type Output = RecvStream;
    type ExecControl = Remote;

    fn control(&mut self) -> Remote {
        Remote { session: self.operation.session.clone(), id: self.operation.id }
    }

    async fn event(&mut self) -> Event {
        match self.operation.next_event().await {
            Some(FromGuest::Ended { end, .. }) => Event::Ended(plausible(end)),
            Some(FromGuest::Failed { failure, .. }) => Event::NotStarted(failure.into_error(&self.program)),
            Some(_) => Event::Misplaced(Operation::out_of_order()),
            None => Event::Lost { error: self.operation.session.why_lost(), reason: None, usage: Usage::default() },
        }
    }

    /// The agent in the guest enforces the same deadline, and sends the signals.
    fn terminate(&self) {}

    fn end(&self, reason: EndReason) {
        if self.operation.session.request(&ToGuest::End { id: self.operation.id, reason }).is_err() {
            self.guest.end("the guest does not receive requests");
        }
    }

    fn kill(&self) {
        self.guest.end("the guest did not end a command when requested");
    }

    fn max_wait(&self) -> Timer {
        Box::pin(self.guest.running_for(GRACE))
    }

    /// The agent in the guest watches the counters.
    fn limits(&self) -> LimitWatch {
        Box::pin(pending())
    }

    async fn conclude(&self) -> Result<(), IsolationError> {
        self.guest.pull().await
    }
}

/// Waits until all output of an ended command has been copied to its readers, however slow a reader is. Kills the machine if the
/// readers have waited for the guest for [`LATE_OUTPUT_TIMEOUT`], or if the guest sends more than [`MAX_LATE_OUTPUT`].
async fn streams_closed(guest: Arc<Guest>, Remote { session, id }: Remote, copiers: Vec<JoinHandle<()>>) {
    let streams = [StreamKind::Output, StreamKind::Error].map(|kind| StreamId { operation: id, kind });
    let received = || streams.map(|stream| session.mux.received(stream));
    let mut done = pin!(async {
        for copier in copiers {
            copier.await.or_warn("copy output of a command", id);
        }
    });
    let at_end = received();
    let mut waited = Duration::ZERO;
    loop {
        tokio::select! {
            () = &mut done => return,
            () = guest.running_for(CHECK_INTERVAL) => {}
        }
        if session.mux.lost().is_some() {
            return;
        }
        if streams.iter().any(|stream| session.mux.is_awaited(*stream)) {
            waited += CHECK_INTERVAL;
        }
        let sent_too_much = received().iter().zip(at_end).any(|(now, then)| now.saturating_sub(then) > MAX_LATE_OUTPUT);
        if waited >= LATE_OUTPUT_TIMEOUT || sent_too_much {
            return guest.end("the guest did not end the output streams of an ended command");
        }
    }
}

/// Sends a command to the guest. With `whole`, the guest reports the end only after all output.
fn start(
    guest: Arc<Guest>,
    mut command: Command,
    executable: Executable,
    whole: bool,
) -> Result<(Exec<InGuest>, Pipes<InGuest>, Remote), IsolationError> {
    let limits = effective(&command.limits, &guest.limits)?;
    let operation = guest.session().begin()?;
    let (session, id) = (operation.session.clone(), operation.id);
    let stream = |kind| StreamId { operation: id, kind };
    if command.stdin != StdinSource::Null {
        command.stdin = StdinSource::Stream;
    }
    let terminal = command.pty.is_some();
    let input = command.stdin == StdinSource::Stream;
    let pipes = Pipes {
        input: input.then(|| session.mux.send_stream(stream(StreamKind::Input))).transpose().map_err(refused)?,
        outputs: [
            Some(session.mux.recv_stream(stream(StreamKind::Output)).map_err(refused)?),
            (!terminal).then(|| session.mux.recv_stream(stream(StreamKind::Error))).transpose().map_err(refused)?,
        ],
    };
    let program = command.argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    session.request(&ToGuest::Exec(protocol::ExecRequest { id, command, executable, whole }))?;
    Ok((Exec::new(InGuest { guest, operation, program }, &limits), pipes, Remote { session, id }))
}

/// Runs a command to its end, and captures its output.
pub(super) async fn run_to_end(
    guest: Arc<Guest>,
    mut command: Command,
    executable: Executable,
) -> Result<Outcome, IsolationError> {
    capture::check(&command)?;
    let capture = command.capture;
    let input = match &mut command.stdin {
        StdinSource::Bytes(bytes) => std::mem::take(bytes),
        StdinSource::Null | StdinSource::Stream => Vec::new(),
    };
    let (exec, pipes, _) = start(guest, command, executable, true)?;
    capture::run_to_end(exec, pipes, &input, capture).await
}

/// Starts a command whose streams the caller serves.
pub(super) fn stream(guest: Arc<Guest>, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
    let terminal = command.pty.is_some();
    let (exec, pipes, remote) = start(guest.clone(), command, Executable::FromPath, false)?;
    let connected = if terminal { connect_terminal(pipes) } else { connect(pipes) };
    let (streams, copiers) =
        connected.map_err(|source| IsolationError::Io { context: "connect the streams of the command".to_owned(), source })?;
    Ok(handle::spawn(exec, streams, streams_closed(guest, remote, copiers)))
}

/// Spawns a task that copies `from` to the guest, until its end.
fn feed(from: OwnedFd, mut to: SendStream) -> io::Result<()> {
    let mut from = Descriptor::reader(from)?;
    tokio::spawn(async move {
        // The copy stops early if the command closes its input, or the guest is lost; the outcome reports a lost guest.
        if let Ok(read) = to.copy_from(&mut from).await {
            read.or_warn("read the input of a command", "guest");
        }
    });
    Ok(())
}

/// Connects a socket to the terminal in the guest. The socket itself is not a terminal. Returns the caller's end and the tasks
/// that copy the output.
fn connect_terminal(Pipes { input, outputs: [output, _] }: Pipes<InGuest>) -> io::Result<(ExecStreams, Vec<JoinHandle<()>>)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if let Some(input) = input {
        feed(ours.try_clone()?, input)?;
    }
    let writer = Descriptor::writer(ours)?;
    let copiers = output.map(|output| tokio::spawn(output.copy_to(writer))).into_iter().collect();
    Ok((ExecStreams { pty: Some(theirs), ..ExecStreams::default() }, copiers))
}

/// Connects pipes to the streams in the guest. Returns the caller's ends and the tasks that copy the output.
fn connect(Pipes { input, outputs: [stdout, stderr] }: Pipes<InGuest>) -> io::Result<(ExecStreams, Vec<JoinHandle<()>>)> {
    let mut copiers = Vec::new();
    let mut drain = |from: RecvStream| {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        copiers.push(tokio::spawn(from.copy_to(Descriptor::writer(ours)?)));
        io::Result::Ok(theirs)
    };
    let stdin = match input {
        Some(input) => {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            feed(ours, input)?;
            Some(theirs)
        }
        None => None,
    };
    let (stdout, stderr) = (stdout.map(&mut drain).transpose()?, stderr.map(drain).transpose()?);
    Ok((ExecStreams { stdin, stdout, stderr, pty: None }, copiers))
}
