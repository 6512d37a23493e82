//! The requests that the agent serves for its host: commands, files and usage.

use super::{
    frame::{CHUNK, MAX_FROM_GUEST, MAX_TO_GUEST, StreamId, StreamKind},
    freezer::{self, Freezer, ThawWaiter},
    inside::GuestRoot,
    mux::{Mux, ReadNext},
    network::SandboxNetwork,
    protocol::{End, ExecRequest, FromGuest, ToGuest, path},
    sanitize::Failure,
    stream::{RecvStream, SendStream, Stop},
};
use agentd_core::{EndReason, ExecHandle, ExecStreams, IsolationError, PtySize, Sandbox, StdinSource, Usage};
use agentd_isolation::{
    descriptor::Descriptor,
    sandbox::{NamespaceSockets, SharedKernelSandbox},
};
use agentd_kernel::machine_identity;
use agentd_log::LogFailure as _;
use std::{collections::HashMap, future::Future, os::fd::OwnedFd, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};

/// The way in which a connection ended on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// Quiesced; another connection follows.
    Quiesced,
    /// Shut down; the agent exits.
    ShutDown,
}

/// The sandbox and the requests in progress.
pub(super) struct ServedSandbox {
    pub(super) sandbox: Arc<SharedKernelSandbox>,
    /// The creator of the sandbox, which also holds the copies of granted files.
    guest_root: Arc<GuestRoot>,
    freezer: Freezer,
    mux: Arc<Mux>,
    execs: HashMap<u32, mpsc::UnboundedSender<ExecControl>>,
    /// The connections of the sandbox, if it has granted hosts.
    network: Option<Arc<SandboxNetwork>>,
}

/// A request of the host for a running exec.
enum ExecControl {
    Signal(i32),
    Resize(PtySize),
    End(EndReason),
}

impl ServedSandbox {
    /// Begins to serve a sandbox. The sockets of its gateway listen at these ports.
    pub(super) fn new(
        guest_root: Arc<GuestRoot>,
        sandbox: Arc<SharedKernelSandbox>,
        (sockets, ports): (NamespaceSockets, Vec<u16>),
    ) -> Result<Self, IsolationError> {
        let freezer = Freezer::new(&guest_root.root, sandbox.frozen_flag());
        let mux = Mux::new(MAX_FROM_GUEST, MAX_TO_GUEST);
        let network = SandboxNetwork::new(sockets, ports, mux.clone())?.map(Arc::new);
        Ok(Self { sandbox, guest_root, freezer, mux, execs: HashMap::new(), network })
    }

    /// Thaws the root's file system if it is frozen, because destroying the sandbox would otherwise block.
    pub(super) fn thaw(&self) {
        self.freezer.thaw().or_debug("thaw the root's file system", "guest");
    }

    /// Disconnects the commands from the previous host. The commands continue, and their output is discarded. Their connections
    /// to granted hosts end.
    pub(super) fn renew(&mut self) {
        self.mux.lose("another host has taken over the machine");
        self.mux = Mux::new(MAX_FROM_GUEST, MAX_TO_GUEST);
        if let Some(network) = &self.network {
            network.renew(self.mux.clone());
        }
        self.execs.clear();
    }

    /// Serves requests over a transport until the connection ends.
    pub(super) async fn serve(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<ConnectionEnd, String> {
        let mut ended = ConnectionEnd::Quiesced;
        let mux = self.mux.clone();
        mux.run(reader, writer, |message| match message {
            ToGuest::Shutdown => {
                ended = ConnectionEnd::ShutDown;
                Ok(ReadNext::Stop)
            }
            other => self.handle(other).map(|()| ReadNext::More).map_err(|e| e.to_string()),
        })
        .await?;
        Ok(ended)
    }

    fn handle(&mut self, message: ToGuest) -> Result<(), super::frame::FrameError> {
        let (mux, sandbox) = (self.mux.clone(), self.sandbox.clone());
        match message {
            ToGuest::Exec(exec) => {
                let id = exec.id;
                let ends = StreamEnds::open(&mux, &exec)?;
                let (control, controls) = mpsc::unbounded_channel();
                self.execs.retain(|_, running| !running.is_closed());
                self.execs.insert(id, control);
                answer(mux, id, async move { run(&sandbox, exec, ends, controls).await.map(|end| FromGuest::Ended { id, end }) });
            }
            ToGuest::Signal { id, signal } => self.control(id, ExecControl::Signal(signal)),
            ToGuest::Resize { id, size: (rows, cols) } => self.control(id, ExecControl::Resize(PtySize { rows, cols })),
            ToGuest::End { id, reason } => self.control(id, ExecControl::End(reason)),
            ToGuest::Read { id, path } => {
                let to = mux.send_stream(StreamId { operation: id, kind: StreamKind::Output })?;
                let waiter = self.freezer.thaw_waiter();
                answer(mux, id, async move { read(&sandbox, path, to, waiter).await.map(|bytes| FromGuest::Done { id, bytes }) });
            }
            ToGuest::Write { id, path } => {
                let from = mux.recv_stream(StreamId { operation: id, kind: StreamKind::Input })?;
                let waiter = self.freezer.thaw_waiter();
                answer(
                    mux,
                    id,
                    async move { write(&sandbox, path, from, waiter).await.map(|bytes| FromGuest::Done { id, bytes }) },
                );
            }
            ToGuest::Changes { id, number, taken } => {
                let to = mux.send_stream(StreamId { operation: id, kind: StreamKind::Output })?;
                let running = self.execs.values().any(|running| !running.is_closed());
                let guest_root = self.guest_root.clone();
                answer(mux, id, async move {
                    changes(&guest_root, (number, taken, running), to).await.map(|bytes| FromGuest::Done { id, bytes })
                });
            }
            ToGuest::Usage { id } => {
                answer(mux, id, async move { used(&sandbox).await.map(|usage| FromGuest::Used { id, usage }) });
            }
            // The agent continues with a wrong clock.
            ToGuest::Clock { realtime_ns } => {
                machine_identity::set_clock(realtime_ns).or_warn("set the machine's clock", realtime_ns);
            }
            ToGuest::Probe { id } => {
                let guest_root = self.guest_root.clone();
                answer(mux, id, async move { guest_root.probe().await.map(|evidence| FromGuest::Probed { id, evidence }) });
            }
            ToGuest::Freeze { id } => {
                let result = self.freezer.freeze();
                answer(mux, id, async move { freezer::recv_result(result?).await.map(|()| FromGuest::Done { id, bytes: 0 }) });
            }
            ToGuest::Thaw { id } => {
                let result = self.freezer.thaw();
                answer(mux, id, async move { freezer::recv_result(result?).await.map(|()| FromGuest::Done { id, bytes: 0 }) });
            }
            ToGuest::Connections(more) => {
                if let Some(network) = &self.network {
                    network.allow(more);
                }
            }
            ToGuest::Answer { query, bytes } => {
                if let Some(network) = &self.network {
                    network.answer(query, &bytes);
                }
            }
            ToGuest::Listen { id, ports } => {
                let network = self.network.clone();
                answer(mux, id, async move {
                    let network = network.ok_or_else(agentd_isolation::egress::no_hosts)?;
                    network.listen(&sandbox, ports).await.map(|()| FromGuest::Done { id, bytes: 0 })
                });
            }
            ToGuest::Drain { id } => {
                let network = self.network.clone();
                answer(mux, id, async move {
                    sandbox.destroy().await?;
                    if let Some(network) = network {
                        network.drained().await;
                    }
                    Ok(FromGuest::Done { id, bytes: 0 })
                });
            }
            ToGuest::Quiesce => mux.hold(&FromGuest::Quiesced, true)?,
            // A second attach is ignored. Shutdown is handled in `serve`.
            ToGuest::Attach(_) | ToGuest::Shutdown => {}
        }
        Ok(())
    }

    /// Sends a request to a running exec. Requests for an ended exec are ignored.
    fn control(&self, id: u32, control: ExecControl) {
        if let Some(running) = self.execs.get(&id) {
            running.send(control).or_unreceived("control of a command");
        }
    }
}

/// Spawns a task that does `work` and sends its result as the answer.
fn answer(mux: Arc<Mux>, id: u32, work: impl Future<Output = Result<FromGuest, IsolationError>> + Send + 'static) {
    tokio::spawn(async move {
        let message = work.await.unwrap_or_else(|error| FromGuest::Failed { id, failure: Failure::from(error) });
        if let Err(error) = mux.send(&message) {
            // A host that does not receive an answer would wait forever.
            mux.lose(&error.to_string());
        }
    });
}

/// The guest's ends of an exec's streams.
struct StreamEnds {
    input: Option<RecvStream>,
    output: SendStream,
    error: Option<SendStream>,
}

impl StreamEnds {
    fn open(mux: &Arc<Mux>, exec: &ExecRequest) -> Result<Self, super::frame::FrameError> {
        let stream = |kind| StreamId { operation: exec.id, kind };
        let terminal = exec.command.pty.is_some();
        let input = exec.command.stdin != StdinSource::Null;
        Ok(Self {
            input: input.then(|| mux.recv_stream(stream(StreamKind::Input))).transpose()?,
            output: mux.send_stream(stream(StreamKind::Output))?,
            error: (!terminal).then(|| mux.send_stream(stream(StreamKind::Error))).transpose()?,
        })
    }
}

async fn run(
    sandbox: &SharedKernelSandbox,
    exec: ExecRequest,
    ends: StreamEnds,
    mut controls: mpsc::UnboundedReceiver<ExecControl>,
) -> Result<End, IsolationError> {
    let mut handle = sandbox.stream(&exec.command, exec.executable).await?;
    let Copiers { input, outputs } = connect(ends, handle.take_streams())
        .map_err(|source| IsolationError::Io { context: "connect the streams of the command".to_owned(), source })?;
    let outcome = loop {
        let control = async { controls.recv().await };
        tokio::select! {
            outcome = handle.wait() => break outcome,
            control = control => match control {
                Some(control) => apply_control(&mut handle, control).await,
                // The host that started the exec has been replaced, so no more requests can come.
                None => break handle.wait().await,
            },
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    if exec.whole {
        for output in outputs {
            // The output has been sent, or its stream is closed.
            output.await.or_warn("send output of a command", "guest");
        }
    }
    let outcome = outcome?;
    Ok(End { reason: outcome.reason, exit_code: outcome.exit_code, signal: outcome.signal, usage: outcome.usage })
}

async fn apply_control(handle: &mut Box<dyn ExecHandle>, control: ExecControl) {
    let obeyed = match control {
        ExecControl::Signal(signal) => handle.signal(signal).await,
        ExecControl::Resize(size) => handle.resize(size).await,
        ExecControl::End(reason) => handle.end(reason).await,
    };
    // Errors mean that the exec has already ended.
    obeyed.or_debug("control a command", "guest");
}

/// The tasks that copy the bytes of an exec.
struct Copiers {
    input: Option<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
}

fn connect(ends: StreamEnds, streams: ExecStreams) -> std::io::Result<Copiers> {
    let (stdin, stdout) = match streams.pty {
        Some(master) => (Some(master.try_clone()?), Some(master)),
        None => (streams.stdin, streams.stdout),
    };
    let input = match (ends.input, stdin) {
        (Some(from), Some(to)) => Some(tokio::spawn(from.copy_to(Descriptor::writer(to)?))),
        _ => None,
    };
    let outputs = [(Some(ends.output), stdout), (ends.error, streams.stderr)].into_iter().filter_map(|(to, from)| {
        let (to, from): (SendStream, OwnedFd) = (to?, from?);
        Some(Descriptor::reader(from).map(|from| tokio::spawn(send(from, to))))
    });
    Ok(Copiers { input, outputs: outputs.collect::<Result<_, _>>()? })
}

/// Copies a command's output to the host. If the host has been replaced, the output is read and discarded, so that the command
/// does not block.
async fn send(mut from: Descriptor, mut to: SendStream) {
    match to.copy_from(&mut from).await {
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

/// Returns the resources used by the sandbox, and the memory used by the machine.
async fn used(sandbox: &SharedKernelSandbox) -> Result<Usage, IsolationError> {
    let failed = |source| IsolationError::Io { context: "read /proc/meminfo".to_owned(), source };
    let figures = tokio::fs::read_to_string("/proc/meminfo").await.map_err(failed)?;
    Ok(Usage { machine_memory: memory_in_use(&figures), ..sandbox.resource_usage().await? })
}

/// Returns the bytes of memory that are not available for new use, from `/proc/meminfo` (`proc_meminfo(5)`).
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

async fn read(
    sandbox: &SharedKernelSandbox,
    name: Vec<u8>,
    mut to: SendStream,
    mut waiter: ThawWaiter,
) -> Result<u64, IsolationError> {
    let mut file = tokio::fs::File::from_std(sandbox.open_file(&path(name), false).await?);
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    let sent = loop {
        match file.read(&mut buffer).await {
            Ok(0) => break Ok(total),
            Ok(read) if to.write(&buffer[..read]).await.is_ok() => total += read as u64,
            Ok(_) => break Ok(total),
            Err(error) => break Err(file_error(error)),
        }
    };
    waiter.wait().await;
    drop(file);
    if sent.is_ok() {
        to.finish().await;
    }
    sent
}

/// Sends the changes in a copy.
async fn changes(
    guest_root: &GuestRoot,
    (number, taken, running): (u32, bool, bool),
    mut to: SendStream,
) -> Result<u64, IsolationError> {
    let none = || IsolationError::Protocol(format!("send the changes of a grant: no copy has the number {number}"));
    let mut sender = guest_root.copies().await.get_mut(&number).ok_or_else(none)?.changes(taken, running)?;
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

async fn write(
    sandbox: &SharedKernelSandbox,
    name: Vec<u8>,
    mut from: RecvStream,
    mut waiter: ThawWaiter,
) -> Result<u64, IsolationError> {
    waiter.wait().await;
    let mut file = tokio::fs::File::from_std(sandbox.open_file(&path(name), true).await?);
    let mut total = 0;
    let written = loop {
        let bytes = from.read().await;
        waiter.wait().await;
        let Some(bytes) = bytes else { break Ok(total) };
        // Flushed, because `write_all` of a tokio file returns before its thread has written the bytes.
        let written = async { file.write_all(&bytes).await.and(file.flush().await) };
        match written.await {
            Ok(()) => total += bytes.len() as u64,
            Err(error) => break Err(file_error(error)),
        }
    };
    // Closing a file may also block on a frozen file system.
    waiter.wait().await;
    drop(file);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_total_minus_available() {
        let figures = "MemTotal:         640000 kB\nMemFree:           10000 kB\nMemAvailable:     600000 kB\n";
        assert_eq!(memory_in_use(figures), Some(40_000 << 10));
        assert_eq!(memory_in_use("MemTotal: 5 kB\n"), None);
        assert_eq!(memory_in_use("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }
}
