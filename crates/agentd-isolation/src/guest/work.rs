//! What the agent does for its host: commands, files, figures.

use super::{
    frame::{CHUNK, MAX_FROM_GUEST, MAX_TO_GUEST, StreamId, Which},
    freezer::{self, Freezer, Rest},
    inside::Inside,
    mux::{Mux, Next},
    protocol::{End, Exec, FromGuest, ToGuest, path},
    stream::{Inlet, Outlet, Stop},
    told::Failure,
};
use crate::{descriptor::Descriptor, exec::Image, sandbox::LinkedSandbox};
use agentd_core::{Command, EndReason, ExecHandle, ExecStreams, IsolationError, PtySize, Sandbox, StdinSource, Usage};
use agentd_kernel::individual;
use std::{
    collections::HashMap,
    ffi::OsString,
    future::Future,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
    task::JoinHandle,
};

/// How a connection ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Another one comes.
    ToRest,
    /// And everything with it.
    ForEver,
}

/// The sandbox, and what is done in it.
pub(super) struct Work {
    pub(super) sandbox: Arc<LinkedSandbox>,
    /// What made it.
    around: Arc<Inside>,
    freezer: Freezer,
    mux: Arc<Mux>,
    execs: HashMap<u32, mpsc::UnboundedSender<Control>>,
}

/// What a host wants of a running exec.
enum Control {
    Signal(i32),
    Resize(PtySize),
    End(EndReason),
}

impl Work {
    pub(super) fn new(around: Arc<Inside>, sandbox: Arc<LinkedSandbox>) -> Self {
        let freezer = Freezer::new(&around.root, sandbox.at_rest());
        Self { sandbox, around, freezer, mux: Mux::new(MAX_FROM_GUEST, MAX_TO_GUEST), execs: HashMap::new() }
    }

    /// Lets the root's file system go on, should it rest: the end of the sandbox would wait for it.
    pub(super) fn thaw(&self) {
        self.freezer.thaw().ok();
    }

    /// Forgets the host of before: what it had started goes on, and its streams lead nowhere.
    pub(super) fn renew(&mut self) {
        self.mux.lose("the machine is another one now");
        self.mux = Mux::new(MAX_FROM_GUEST, MAX_TO_GUEST);
        self.execs.clear();
    }

    /// Does what is asked for over a carrier, until that ends.
    pub(super) async fn serve(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Ended, String> {
        let mut ended = Ended::ToRest;
        let mux = self.mux.clone();
        mux.run(reader, writer, |message| match message {
            ToGuest::Shutdown => {
                ended = Ended::ForEver;
                Ok(Next::Stop)
            }
            other => self.hear(other).map(|()| Next::More).map_err(|e| e.to_string()),
        })
        .await?;
        Ok(ended)
    }

    fn hear(&mut self, message: ToGuest) -> Result<(), super::frame::FrameError> {
        let (mux, sandbox) = (self.mux.clone(), self.sandbox.clone());
        match message {
            ToGuest::Exec(exec) => {
                let id = exec.id;
                let ends = Ends::open(&mux, &exec)?;
                let (control, controls) = mpsc::unbounded_channel();
                self.execs.retain(|_, running| !running.is_closed());
                self.execs.insert(id, control);
                answer(mux, id, async move { run(&sandbox, exec, ends, controls).await.map(|end| FromGuest::Ended { id, end }) });
            }
            ToGuest::Signal { id, signal } => self.control(id, Control::Signal(signal)),
            ToGuest::Resize { id, size: (rows, cols) } => self.control(id, Control::Resize(PtySize { rows, cols })),
            ToGuest::End { id, reason } => self.control(id, Control::End(reason)),
            ToGuest::Read { id, path } => {
                let to = mux.outlet(StreamId { of: id, which: Which::Output })?;
                let rest = self.freezer.rest();
                answer(mux, id, async move { read(&sandbox, path, to, rest).await.map(|bytes| FromGuest::Done { id, bytes }) });
            }
            ToGuest::Write { id, path } => {
                let from = mux.inlet(StreamId { of: id, which: Which::Input })?;
                let rest = self.freezer.rest();
                answer(
                    mux,
                    id,
                    async move { write(&sandbox, path, from, rest).await.map(|bytes| FromGuest::Done { id, bytes }) },
                );
            }
            ToGuest::Changes { id, number, taken } => {
                let to = mux.outlet(StreamId { of: id, which: Which::Output })?;
                let running = self.execs.values().any(|running| !running.is_closed());
                let around = self.around.clone();
                answer(mux, id, async move {
                    changes(&around, (number, taken, running), to).await.map(|bytes| FromGuest::Done { id, bytes })
                });
            }
            ToGuest::Usage { id } => {
                answer(mux, id, async move { used(&sandbox).await.map(|usage| FromGuest::Used { id, usage }) });
            }
            // One that cannot be set is wrong, and hinders nothing.
            ToGuest::Clock { realtime_ns } => drop(individual::set_clock(realtime_ns)),
            ToGuest::Probe { id } => {
                let around = self.around.clone();
                answer(mux, id, async move { around.probe().await.map(|evidence| FromGuest::Probed { id, evidence }) });
            }
            ToGuest::Freeze { id } => {
                let word = self.freezer.freeze();
                answer(mux, id, async move { freezer::heard(word?).await.map(|()| FromGuest::Done { id, bytes: 0 }) });
            }
            ToGuest::Thaw { id } => {
                let word = self.freezer.thaw();
                answer(mux, id, async move { freezer::heard(word?).await.map(|()| FromGuest::Done { id, bytes: 0 }) });
            }
            ToGuest::Quiesce => mux.hold(&FromGuest::Quiesced, true)?,
            // A second one changes nothing, and the end is not heard here.
            ToGuest::Attach(_) | ToGuest::Shutdown => {}
        }
        Ok(())
    }

    /// One that has ended needs no control.
    fn control(&self, id: u32, control: Control) {
        if let Some(running) = self.execs.get(&id) {
            running.send(control).ok();
        }
    }
}

/// Does something beside all else, and says what came of it.
fn answer(mux: Arc<Mux>, id: u32, work: impl Future<Output = Result<FromGuest, IsolationError>> + Send + 'static) {
    tokio::spawn(async move {
        let said = work.await.unwrap_or_else(|error| FromGuest::Failed { id, failure: Failure::from(error) });
        if let Err(error) = mux.say(&said) {
            // A host that does not hear an answer waits for it for ever.
            mux.lose(&error.to_string());
        }
    });
}

/// The guest's ends of an exec's streams.
struct Ends {
    input: Option<Inlet>,
    output: Outlet,
    error: Option<Outlet>,
}

impl Ends {
    fn open(mux: &Arc<Mux>, exec: &Exec) -> Result<Self, super::frame::FrameError> {
        let stream = |which| StreamId { of: exec.id, which };
        let terminal = exec.pty.is_some();
        Ok(Self {
            input: (exec.input || terminal).then(|| mux.inlet(stream(Which::Input))).transpose()?,
            output: mux.outlet(stream(Which::Output))?,
            error: (!terminal).then(|| mux.outlet(stream(Which::Error))).transpose()?,
        })
    }
}

fn command(exec: &mut Exec) -> Command {
    let text = OsString::from_vec;
    Command {
        argv: std::mem::take(&mut exec.argv).into_iter().map(text).collect(),
        env: std::mem::take(&mut exec.env).into_iter().map(|(name, value)| (text(name), text(value))).collect(),
        cwd: exec.cwd.take().map(path),
        stdin: if exec.input { StdinSource::Stream } else { StdinSource::Null },
        pty: exec.pty.map(|(rows, cols)| PtySize { rows, cols }),
        limits: exec.limits.clone(),
        capture: 0,
    }
}

async fn run(
    sandbox: &LinkedSandbox,
    mut exec: Exec,
    ends: Ends,
    mut controls: mpsc::UnboundedReceiver<Control>,
) -> Result<End, IsolationError> {
    let image = if exec.own_image { Image::Own } else { Image::Named };
    let mut handle = sandbox.stream(&command(&mut exec), image).await?;
    let Carriers { input, outputs } = connect(ends, handle.take_streams())
        .map_err(|source| IsolationError::Io { context: "streams of a command".to_owned(), source })?;
    let outcome = loop {
        let control = async { controls.recv().await };
        tokio::select! {
            outcome = handle.wait() => break outcome,
            control = control => match control {
                Some(control) => obey(&mut handle, control).await,
                // The host that had it is gone: nobody controls it any more.
                None => break handle.wait().await,
            },
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    if exec.whole {
        for output in outputs {
            // It has been sent, or cannot be any more.
            output.await.ok();
        }
    }
    let outcome = outcome?;
    Ok(End { reason: outcome.reason, exit_code: outcome.exit_code, signal: outcome.signal, usage: outcome.usage })
}

async fn obey(handle: &mut Box<dyn ExecHandle>, control: Control) {
    let obeyed = match control {
        Control::Signal(signal) => handle.signal(signal).await,
        Control::Resize(size) => handle.resize(size).await,
        Control::End(reason) => handle.end(reason).await,
    };
    // What cannot be done to it is that it has ended.
    obeyed.ok();
}

/// What carries the bytes of an exec.
struct Carriers {
    input: Option<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
}

fn connect(ends: Ends, streams: ExecStreams) -> std::io::Result<Carriers> {
    let (stdin, stdout) = match streams.pty {
        Some(master) => (Some(master.try_clone()?), Some(master)),
        None => (streams.stdin, streams.stdout),
    };
    let input = match (ends.input, stdin) {
        (Some(from), Some(to)) => Some(tokio::spawn(from.pour(Descriptor::writer(to)?))),
        _ => None,
    };
    let outputs = [(Some(ends.output), stdout), (ends.error, streams.stderr)].into_iter().filter_map(|(to, from)| {
        let (to, from): (Outlet, OwnedFd) = (to?, from?);
        Some(Descriptor::reader(from).map(|from| tokio::spawn(send(from, to))))
    });
    Ok(Carriers { input, outputs: outputs.collect::<Result<_, _>>()? })
}

/// Carries a command's output to the host. Where that is another one now, what is written is read all the same: it holds nobody up.
async fn send(mut from: Descriptor, mut to: Outlet) {
    match to.carry(&mut from).await {
        Err(Stop::Lost) => {
            let mut nowhere = vec![0; 16 << 10];
            while let Ok(1..) = from.read(&mut nowhere).await {}
        }
        Ok(_) | Err(Stop::Closed) => {
            drop(from);
            to.finish().await;
        }
    }
}

/// What the sandbox has used, and its machine uses.
async fn used(sandbox: &LinkedSandbox) -> Result<Usage, IsolationError> {
    let failed = |source| IsolationError::Io { context: "read /proc/meminfo".to_owned(), source };
    let figures = std::fs::read_to_string("/proc/meminfo").map_err(failed)?;
    Ok(Usage { machine_memory: memory_in_use(&figures), ..sandbox.resource_usage().await? })
}

/// Bytes of memory that could not be had by somebody else, by what the kernel says (`proc_meminfo(5)`).
fn memory_in_use(figures: &str) -> Option<u64> {
    let figure = |name: &str| -> Option<u64> {
        let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(figure("MemTotal")?.saturating_sub(figure("MemAvailable")?))
}

fn file_error(error: std::io::Error) -> IsolationError {
    IsolationError::File { path: String::new(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

async fn read(sandbox: &LinkedSandbox, name: Vec<u8>, mut to: Outlet, mut rest: Rest) -> Result<u64, IsolationError> {
    let mut file = sandbox.open_file(&path(name), false).await?;
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    let sent = loop {
        match file.read(&mut buffer) {
            Ok(0) => break Ok(total),
            Ok(read) if to.write(&buffer[..read]).await.is_ok() => total += read as u64,
            Ok(_) => break Ok(total),
            Err(error) => break Err(file_error(error)),
        }
    };
    rest.over().await;
    drop(file);
    if sent.is_ok() {
        to.finish().await;
    }
    sent
}

/// Sends what was changed in a copy.
async fn changes(around: &Inside, (number, taken, running): (u32, bool, bool), mut to: Outlet) -> Result<u64, IsolationError> {
    let none = || IsolationError::Invalid { what: "copy".to_owned(), reason: format!("there is none of the number {number}") };
    let mut sender = around.copies().await.get_mut(&number).ok_or_else(none)?.changes(taken, running)?;
    let mut total = 0;
    while let Some(piece) = sender.next_piece()? {
        if to.write(&piece).await.is_err() {
            break;
        }
        total += piece.len() as u64;
    }
    to.finish().await;
    Ok(total)
}

async fn write(sandbox: &LinkedSandbox, name: Vec<u8>, mut from: Inlet, mut rest: Rest) -> Result<u64, IsolationError> {
    rest.over().await;
    let mut file = sandbox.open_file(&path(name), true).await?;
    let mut total = 0;
    let written = loop {
        let bytes = from.read().await;
        rest.over().await;
        let Some(bytes) = bytes else { break Ok(total) };
        match file.write_all(&bytes) {
            Ok(()) => total += bytes.len() as u64,
            Err(error) => break Err(file_error(error)),
        }
    };
    // At the end, too, it does not rest.
    drop(file);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        let figures = "MemTotal:         640000 kB\nMemFree:           10000 kB\nMemAvailable:     600000 kB\n";
        assert_eq!(memory_in_use(figures), Some(40_000 << 10));
        assert_eq!(memory_in_use("MemTotal: 5 kB\n"), None);
        assert_eq!(memory_in_use("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }
}
