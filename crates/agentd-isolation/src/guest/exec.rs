//! An exec in a guest, as its host sees it: its deadline is held here too, and a guest that does not end it ends itself.

use super::{
    Guest,
    frame::{StreamId, Which},
    protocol::{self, End, FromGuest, ToGuest},
    session::{Operation, refused},
    stream::{Inlet, Outlet},
};
use crate::{
    descriptor::Descriptor,
    exec::{DEFAULT_CAPTURE, Image, Patience, effective, lost},
    output::Keeper,
};
use agentd_core::{Captured, Command, EndReason, ExecHandle, ExecStreams, IsolationError, Limits, Outcome, PtySize, StdinSource};
use async_trait::async_trait;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
};
use std::{
    future::pending,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// How long a guest may take to end an exec before its machine is ended: an emulated one is slow.
const GRACE: Duration = Duration::from_secs(5);

/// A running exec.
struct Running {
    guest: Arc<Guest>,
    operation: Operation,
    program: String,
    limits: Limits,
    started: Instant,
    reason: Option<EndReason>,
    /// Whether the guest has been asked to end it.
    asked: bool,
    /// When it is not waited for any longer, once it has been.
    patience: Option<Patience>,
    /// Whether it has told the end.
    told: bool,
    /// What a handle asks it to be ended for. A handle that is gone asks too.
    wishes: Option<mpsc::UnboundedReceiver<EndReason>>,
}

/// The host's ends of its streams.
struct Ends {
    input: Option<Outlet>,
    output: Inlet,
    error: Option<Inlet>,
}

fn io_error(source: io::Error) -> IsolationError {
    IsolationError::Io { context: "streams of a command".to_owned(), source }
}

fn exec(id: u32, command: &Command, image: Image, whole: bool) -> protocol::Exec {
    let bytes = |text: &std::ffi::OsString| text.as_bytes().to_vec();
    protocol::Exec {
        id,
        argv: command.argv.iter().map(bytes).collect(),
        env: command.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        cwd: command.cwd.as_deref().map(protocol::bytes),
        input: command.stdin != StdinSource::Null,
        pty: command.pty.map(|size| (size.rows, size.cols)),
        limits: command.limits.clone(),
        own_image: image == Image::Own,
        whole,
    }
}

impl Running {
    fn start(guest: Arc<Guest>, command: &Command, image: Image, whole: bool) -> Result<(Self, Ends), IsolationError> {
        let limits = effective(&command.limits, &guest.limits)?;
        let operation = guest.session().begin()?;
        let mux = &operation.session.mux;
        let stream = |which| StreamId { of: operation.id, which };
        let terminal = command.pty.is_some();
        let input = terminal || command.stdin != StdinSource::Null;
        let ends = Ends {
            input: input.then(|| mux.outlet(stream(Which::Input))).transpose().map_err(refused)?,
            output: mux.inlet(stream(Which::Output)).map_err(refused)?,
            error: (!terminal).then(|| mux.inlet(stream(Which::Error))).transpose().map_err(refused)?,
        };
        operation.session.request(&ToGuest::Exec(exec(operation.id, command, image, whole)))?;
        let running = Self {
            program: command.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default(),
            started: Instant::now(),
            reason: None,
            asked: false,
            patience: None,
            told: false,
            wishes: None,
            guest,
            operation,
            limits,
        };
        Ok((running, ends))
    }

    fn end_for(&mut self, reason: EndReason) -> Result<(), IsolationError> {
        // The first reason is the one that ended it.
        self.reason.get_or_insert(reason);
        self.asked = true;
        self.patience.get_or_insert_with(|| Box::pin(self.guest.running_for(GRACE)));
        self.operation.session.request(&ToGuest::End { id: self.operation.id, reason })
    }

    /// Waits for the end or for a limit. `None` when a limit has been acted on and the wait goes on.
    async fn next(&mut self) -> Result<Option<End>, IsolationError> {
        let deadline = match (self.asked, self.limits.wall) {
            // One that is past the end of time never comes.
            (false, Some(wall)) => self.started.checked_add(wall),
            _ => None,
        };
        let over = async {
            match deadline {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => pending().await,
            }
        };
        let wish = async {
            match &mut self.wishes {
                Some(wishes) if !self.asked => wishes.recv().await.unwrap_or(EndReason::Cancelled),
                _ => pending().await,
            }
        };
        tokio::select! {
            biased;
            news = self.operation.news() => self.hear(news).map(Some),
            reason = wish => self.end_for(reason).map(|()| None),
            () = over => self.end_for(EndReason::WallDeadline).map(|()| None),
            () = lost(&mut self.patience) => {
                self.patience = None;
                self.guest.end("it did not end a command when told to");
                Ok(None)
            }
        }
    }

    fn hear(&mut self, news: Option<FromGuest>) -> Result<End, IsolationError> {
        self.told = news.is_some();
        match news {
            Some(FromGuest::Ended { end, .. }) => Ok(end.within_reason()),
            Some(FromGuest::Failed { failure, .. }) => Err(failure.into_error(&self.program)),
            None => match self.reason {
                Some(reason) if self.asked => {
                    Ok(End { reason, exit_code: None, signal: Some(libc::SIGKILL), usage: agentd_core::Usage::default() })
                }
                _ => Err(self.operation.session.why_lost()),
            },
            Some(_) => Err(Operation::out_of_order()),
        }
    }

    /// Waits until what carries its output is done, and sees to it that no reader waits for ever: nothing of an exec that has ended holds its
    /// streams open.
    async fn streams_ended(&self, carriers: Vec<JoinHandle<()>>) {
        let streams = [Which::Output, Which::Error].map(|which| StreamId { of: self.operation.id, which });
        let owed = || streams.map(|stream| self.operation.session.mux.owes(stream));
        let mut done = pin!(async {
            for carrier in carriers {
                carrier.await.ok();
            }
        });
        let mut before = owed();
        loop {
            tokio::select! {
                () = &mut done => return,
                () = self.guest.running_for(GRACE) => {}
            }
            if self.operation.session.mux.lost().is_some() {
                return;
            }
            let now = owed();
            if now == before && now.iter().any(Option::is_some) {
                return self.guest.end("it did not end the streams of a command that has ended");
            }
            before = now;
        }
    }

    async fn ended(&mut self) -> Result<Outcome, IsolationError> {
        loop {
            if let Some(end) = self.next().await? {
                return Ok(self.outcome(&end));
            }
        }
    }

    fn outcome(&self, end: &End) -> Outcome {
        let mut usage = end.usage;
        usage.wall = self.started.elapsed();
        Outcome {
            reason: self.reason.unwrap_or(end.reason),
            exit_code: end.exit_code,
            signal: end.signal,
            usage,
            stdout: Captured::default(),
            stderr: Captured::default(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        // Nobody waits any more, so nothing of it may go on.
        let end = ToGuest::End { id: self.operation.id, reason: EndReason::Cancelled };
        self.operation.session.request(&end).ok();
    }
}

/// Runs a command to its end, keeping its output.
pub(super) async fn run_to_end(guest: Arc<Guest>, command: Command, image: Image) -> Result<Outcome, IsolationError> {
    if command.pty.is_some() {
        return Err(IsolationError::Invalid { what: "command".to_owned(), reason: "a terminal needs exec_streaming".to_owned() });
    }
    let (mut running, ends) = Running::start(guest, &command, image, true)?;
    let feed = async {
        if let (Some(mut input), StdinSource::Bytes(bytes)) = (ends.input, &command.stdin) {
            // A command that does not read its input is no error.
            input.write(bytes).await.ok();
        }
        pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = collect(&mut running, [Some(ends.output), ends.error], command.capture) => outcome,
        () = feed => Err(running.operation.session.why_lost()),
    }?;
    running.guest.bring_back().await.map(|()| outcome)
}

async fn collect(running: &mut Running, mut pipes: [Option<Inlet>; 2], capture: u64) -> Result<Outcome, IsolationError> {
    let budget = if capture == 0 { DEFAULT_CAPTURE } else { capture };
    let mut kept = [Keeper::new(budget), Keeper::new(budget)];
    let limit = running.limits.output.map_or(u64::MAX, |b| b.0);
    let mut total = 0u64;
    let end = loop {
        let [stdout, stderr] = &mut pipes;
        // Not biased: a command that writes without end must not keep its end from being heard.
        let (stream, bytes) = tokio::select! {
            bytes = read_some(stdout) => (0, bytes),
            bytes = read_some(stderr) => (1, bytes),
            end = running.next() => match end? {
                Some(end) => break end,
                None => continue,
            },
        };
        total += bytes.len() as u64;
        kept[stream].push(&bytes);
        if total > limit && running.reason.is_none() {
            running.end_for(EndReason::OutputLimit)?;
        }
    };
    // All of it came before the end was told.
    for (kept, pipe) in kept.iter_mut().zip(pipes.iter_mut().map(Option::as_mut)) {
        let bytes = pipe.map(Inlet::read_now).unwrap_or_default();
        total += bytes.len() as u64;
        kept.push(&bytes);
    }
    if total > limit {
        running.reason.get_or_insert(EndReason::OutputLimit);
    }
    let mut outcome = running.outcome(&end);
    [outcome.stdout, outcome.stderr] = kept.map(Keeper::finish);
    Ok(outcome)
}

/// Reads what there is; waits for ever at the end of a stream.
async fn read_some(pipe: &mut Option<Inlet>) -> Vec<u8> {
    if let Some(open) = pipe {
        match open.read().await {
            Some(bytes) => return bytes,
            None => *pipe = None,
        }
    }
    pending().await
}

/// A running exec in the caller's hands. Its limits are watched whether it is waited for or not.
struct Handle {
    session: Arc<super::session::Session>,
    id: u32,
    terminal: bool,
    streams: ExecStreams,
    wishes: mpsc::UnboundedSender<EndReason>,
    outcome: oneshot::Receiver<Result<Outcome, IsolationError>>,
}

/// Starts a command whose streams the caller serves.
pub(super) fn stream(guest: Arc<Guest>, command: &Command) -> Result<Box<dyn ExecHandle>, IsolationError> {
    let (mut running, ends) = Running::start(guest, command, Image::Named, false)?;
    let terminal = command.pty.is_some();
    let (streams, carriers) = connect(ends, terminal).map_err(io_error)?;
    let (wishes, wanted) = mpsc::unbounded_channel();
    let (teller, outcome) = oneshot::channel();
    running.wishes = Some(wanted);
    let (session, id) = (running.operation.session.clone(), running.operation.id);
    tokio::spawn(async move {
        let mut outcome = running.ended().await;
        if outcome.is_ok()
            && let Err(error) = running.guest.bring_back().await
        {
            outcome = Err(error);
        }
        // Nobody need be waiting.
        teller.send(outcome).ok();
        running.streams_ended(carriers).await;
    });
    Ok(Box::new(Handle { session, id, terminal, streams, wishes, outcome }))
}

/// Gives the caller descriptors, and carries their bytes; also what carries those of the output.
fn connect(ends: Ends, terminal: bool) -> io::Result<(ExecStreams, Vec<JoinHandle<()>>)> {
    let feed = |from: OwnedFd, mut to: Outlet| {
        Descriptor::reader(from).map(|mut from| {
            tokio::spawn(async move { to.carry(&mut from).await.ok() });
        })
    };
    if terminal {
        // Not a terminal on this side: what is one is in the guest.
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if let Some(input) = ends.input {
            feed(ours.try_clone()?, input)?;
        }
        let carrier = tokio::spawn(ends.output.pour(Descriptor::writer(ours)?));
        return Ok((ExecStreams { pty: Some(theirs), ..ExecStreams::default() }, vec![carrier]));
    }
    let mut carriers = Vec::new();
    let mut drain = |from: Inlet| {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        carriers.push(tokio::spawn(from.pour(Descriptor::writer(ours)?)));
        io::Result::Ok(theirs)
    };
    let stdin = match ends.input {
        Some(input) => {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            feed(ours, input)?;
            Some(theirs)
        }
        None => None,
    };
    let (stdout, stderr) = (Some(drain(ends.output)?), ends.error.map(drain).transpose()?);
    Ok((ExecStreams { stdin, stdout, stderr, pty: None }, carriers))
}

#[async_trait]
impl ExecHandle for Handle {
    fn take_streams(&mut self) -> ExecStreams {
        std::mem::take(&mut self.streams)
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.session.request(&ToGuest::Signal { id: self.id, signal })
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        if !self.terminal {
            return Err(IsolationError::Invalid { what: "resize".to_owned(), reason: "the command has no terminal".to_owned() });
        }
        self.session.request(&ToGuest::Resize { id: self.id, size: (size.rows, size.cols) })
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
