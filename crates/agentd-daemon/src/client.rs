//! The client of the daemon.

use crate::{
    connection::Connection,
    error::DaemonError,
    folder, key,
    protocol::{ExecMessage, Hello, Reply, Request, Status, Stream, VERSION},
    report::{self, Finding},
};
use agentd_core::{Command, ControlReport, EndReason, ExecHandle, ExecStreams, Grant, IsolationError, Outcome, PtySize};
use agentd_isolation::{grants, layered::LayeredError, protect::Report};
use agentd_kernel::{
    peer::{self, Peer, PeerError},
    privileges,
};
use agentd_sandboxes::{Change, Name, SandboxSettings};
use agentd_supervisor::channel::ChannelError;
use async_trait::async_trait;
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time limit for the daemon to start.
const START: Duration = Duration::from_secs(10);

/// Client of one user's daemon. Starts the daemon if none answers.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) place: PathBuf,
    daemon: Vec<std::ffi::OsString>,
}

/// A command that was started through the daemon. Dropping the handle before the command has ended kills the command.
pub struct Started {
    connection: Connection,
    streams: ExecStreams,
    controls: Vec<ControlReport>,
    before: Report,
    after: Arc<Mutex<Report>>,
    /// True once the outcome was received.
    waited: bool,
}

/// The report on protected paths at the end of a command, which outlives the command's handle.
pub struct After(Arc<Mutex<Report>>);

impl After {
    /// Returns the report; it is empty until the outcome was received.
    pub fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Client {
    /// Creates a client for the sandboxes below `place`, which must exist. `daemon` is the command that calls [`crate::run`].
    pub fn new(place: &Path, daemon: Vec<std::ffi::OsString>) -> Self {
        Self { place: place.to_path_buf(), daemon }
    }

    /// Returns true if a daemon runs in other user or PID namespaces than this process. A sandbox that this process creates then
    /// proves nothing about the sandboxes of that daemon, which proves their boundary itself.
    ///
    /// # Errors
    /// [`DaemonError::Unreachable`] if the folder of the daemon cannot be opened.
    pub fn is_elsewhere(&self) -> Result<bool, DaemonError> {
        let Some(folder) = self.folder()? else { return Ok(false) };
        let connected = folder::connect(&folder);
        Ok(connected
            .is_ok_and(|socket| matches!(peer::verify(socket.as_fd()), Ok(Peer::Elsewhere(_)) | Err(PeerError::Invisible))))
    }

    /// Resolves the grants of a sandbox, creates the sandbox, and returns the report of each control. The daemon may be in
    /// another mount namespace, so it resolves no path.
    ///
    /// # Errors
    /// The reason why the daemon could not be reached or refused; this holds for all methods that send a request. The errors of
    /// [`grants::pin`].
    pub async fn create(&self, name: &Name, mut about: SandboxSettings) -> Result<Vec<ControlReport>, DaemonError> {
        grants::pin(&mut about.spec)?;
        Ok(self.request_controls(Request::Create { name: name.clone(), about: Box::new(about) }).await?.0)
    }

    /// Starts a command in a sandbox.
    ///
    /// # Errors
    /// As for [`Client::create`]. [`IsolationError::Spawn`] if the program cannot be executed.
    pub async fn exec(&self, name: &Name, command: Command) -> Result<Started, DaemonError> {
        let request = Request::Exec { name: name.clone(), command: Box::new(command), detach: false };
        let mut connection = self.ask(request, None).await?;
        let (streams, controls, before, fds) = match connection.receive::<Reply>().await? {
            (Reply::Started { streams, controls, report }, fds) => (streams, controls, report, fds),
            (other, _) => return Err(unexpected(other)),
        };
        let mut all = ExecStreams::default();
        for (stream, fd) in streams.into_iter().zip(fds) {
            let place = match stream {
                Stream::Stdin => &mut all.stdin,
                Stream::Stdout => &mut all.stdout,
                Stream::Stderr => &mut all.stderr,
                Stream::Pty => &mut all.pty,
            };
            *place = Some(fd);
        }
        Ok(Started { connection, streams: all, controls, before, after: Arc::default(), waited: false })
    }

    /// Starts a command in a sandbox and leaves the command to the daemon. Its output goes to the sandbox's log. Returns the
    /// report of each control, and the changes of protected paths since the last report.
    ///
    /// # Errors
    /// As for [`Client::exec`].
    pub async fn detach(&self, name: &Name, command: Command) -> Result<(Vec<ControlReport>, Report), DaemonError> {
        self.request_controls(Request::Exec { name: name.clone(), command: Box::new(command), detach: true }).await
    }

    /// Returns the state of every sandbox that has processes.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn status(&self) -> Result<Vec<Status>, DaemonError> {
        // Without a daemon, no sandbox has processes, so none is started for this request.
        match self.ask_running(Request::Status).await? {
            None => Ok(Vec::new()),
            Some(Reply::Status(all)) => Ok(all),
            Some(other) => Err(unexpected(other)),
        }
    }

    /// Pauses all processes of a sandbox.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn pause(&self, name: &Name) -> Result<(), DaemonError> {
        self.done(Request::Pause { name: name.clone() }).await
    }

    /// Resumes all processes of a sandbox.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn resume(&self, name: &Name) -> Result<(), DaemonError> {
        self.done(Request::Resume { name: name.clone() }).await
    }

    /// Saves the state of a sandbox under a name.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn snapshot(&self, name: &Name, snapshot: &Name) -> Result<(), DaemonError> {
        self.done(Request::Snapshot { name: name.clone(), snapshot: snapshot.clone() }).await
    }

    /// Creates new sandboxes from the current state of a sandbox, or from one of its snapshots.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn fork(&self, name: &Name, snapshot: Option<&Name>, new: &[Name]) -> Result<(), DaemonError> {
        self.done(Request::Fork { name: name.clone(), snapshot: snapshot.cloned(), new: new.to_vec() }).await
    }

    /// Ends the processes of a sandbox and restores a snapshot.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn restore(&self, name: &Name, snapshot: &Name) -> Result<(), DaemonError> {
        self.done(Request::Restore { name: name.clone(), snapshot: snapshot.clone() }).await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn forget(&self, name: &Name, snapshot: &Name) -> Result<(), DaemonError> {
        self.done(Request::Forget { name: name.clone(), snapshot: snapshot.clone() }).await
    }

    /// Replaces the grants of a sandbox in which no command runs. The caller must have resolved the grants. Returns the changes
    /// of protected paths since the last report.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn regrant(&self, name: &Name, grants: Vec<Grant>) -> Result<Report, DaemonError> {
        self.compared(Request::Regrant { name: name.clone(), grants }).await
    }

    /// Ends the processes of a sandbox and removes the sandbox with all its data. Returns the changes of protected paths since
    /// the last report.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn remove(&self, name: &Name) -> Result<Report, DaemonError> {
        self.compared(Request::Remove { name: name.clone() }).await
    }

    /// Returns the paths that a sandbox changed, sorted: since a snapshot, or compared with the given layers of its image.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn diff(&self, name: &Name, since: Option<&Name>, image: &[PathBuf]) -> Result<Vec<Change>, DaemonError> {
        let request = Request::Diff { name: name.clone(), since: since.cloned(), image: image.to_vec() };
        report::read_changes(self.file(request).await?)
    }

    /// Checks the data on disk and returns the problems found. The daemon performs the check, because only the daemon has access
    /// to the disks of sandboxes with a limit.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn check(&self) -> Result<Vec<Finding>, DaemonError> {
        report::read_findings(self.file(Request::Check).await?)
    }

    /// Returns a descriptor with the content of a file in a sandbox.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn read(&self, name: &Name, path: &Path) -> Result<OwnedFd, DaemonError> {
        self.file(Request::Read { name: name.clone(), path: path.to_path_buf() }).await
    }

    /// Sends a request that changes nothing. If the daemon ended during the request, the request is sent again: the daemon may
    /// already have been ending when the client connected.
    async fn file(&self, request: Request) -> Result<OwnedFd, DaemonError> {
        let reply = match self.answer(request.clone()).await {
            Err(DaemonError::Lost(_)) => self.answer(request).await,
            reply => reply,
        };
        match reply? {
            (Reply::Done, fds) => fds.into_iter().next().ok_or_else(|| {
                DaemonError::Refused(
                    "receive the daemon's reply: it has no file descriptor — run `agentd daemon stop`, which ends all \
                     running commands and keeps all files, then try again"
                        .to_owned(),
                )
            }),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Writes a file in a sandbox.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn write(&self, name: &Name, path: &Path, content: BorrowedFd<'_>) -> Result<(), DaemonError> {
        let request = Request::Write { name: name.clone(), path: path.to_path_buf() };
        finished(self.ask(request, Some(content)).await?.receive::<Reply>().await?.0)
    }

    async fn answer(&self, request: Request) -> Result<(Reply, Vec<OwnedFd>), DaemonError> {
        Ok(self.ask(request, None).await?.receive::<Reply>().await?)
    }

    async fn request_controls(&self, request: Request) -> Result<(Vec<ControlReport>, Report), DaemonError> {
        match self.ask(request, None).await?.receive::<Reply>().await?.0 {
            Reply::Made(controls, report) => Ok((controls, report)),
            other => Err(unexpected(other)),
        }
    }

    async fn compared(&self, request: Request) -> Result<Report, DaemonError> {
        match self.ask(request, None).await?.receive::<Reply>().await?.0 {
            Reply::Compared(report) => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    async fn done(&self, request: Request) -> Result<(), DaemonError> {
        finished(self.ask(request, None).await?.receive::<Reply>().await?.0)
    }

    /// Sends a request to the daemon if one is running, and returns its reply.
    pub(crate) async fn ask_running(&self, request: Request) -> Result<Option<Reply>, DaemonError> {
        let Some(folder) = self.folder()? else { return Ok(None) };
        let Ok(socket) = folder::connect(&folder) else { return Ok(None) };
        Ok(Some(self.send(socket, &request, &[])?.receive().await?.0))
    }

    async fn ask(&self, request: Request, fd: Option<BorrowedFd<'_>>) -> Result<Connection, DaemonError> {
        let socket = self.connect().await?;
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        self.send(socket, &request, &fds)
    }

    fn send(&self, socket: UnixStream, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Connection, DaemonError> {
        let key = key::of_client(socket.as_fd());
        let connection = Connection::new(socket).map_err(|source| self.unreachable("connect to the daemon's socket", source))?;
        connection.send(&Hello { version: VERSION, key }, &[])?;
        match connection.send(request, fds) {
            // The daemon has refused this client, and its reply says why.
            Err(ChannelError::Closed) => {}
            sent => sent?,
        }
        Ok(connection)
    }

    /// Opens the folder of the daemon; returns `None` if this user has no named sandboxes yet.
    pub(crate) fn folder(&self) -> Result<Option<OwnedFd>, DaemonError> {
        match folder::open(&self.place) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreachable("open the daemon's folder", error)),
        }
    }

    /// Connects to the daemon, and starts a daemon if none is running.
    async fn connect(&self) -> Result<UnixStream, DaemonError> {
        let folder = folder::open(&self.place).map_err(|source| self.unreachable("open the daemon's folder", source))?;
        let began = Instant::now();
        let mut started: Option<Instant> = None;
        loop {
            let error = match folder::connect(&folder) {
                Ok(socket) => return Ok(socket),
                Err(error) => error,
            };
            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) || began.elapsed() > START {
                return Err(self.unreachable("connect to the daemon's socket", error));
            }
            // A daemon that is just ending still holds the lock. The new daemon may find the lock taken and end as well; then
            // start another.
            if started.is_none_or(|at| at.elapsed() > Duration::from_millis(500)) {
                self.start()?;
                started = Some(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn start(&self) -> Result<(), DaemonError> {
        let failed = |source| self.unreachable("start the daemon's process", source);
        let (program, arguments) = self.daemon.split_first().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        privileges::bequeath_nothing().map_err(IsolationError::from)?;
        let mut command = process::Command::new(program);
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The daemon outlives this process, which never waits for it.
        command.spawn().map(drop).map_err(failed)
    }

    pub(crate) fn unreachable(&self, context: &'static str, source: io::Error) -> DaemonError {
        DaemonError::Unreachable { place: self.place.clone(), context, source }
    }
}

fn finished(reply: Reply) -> Result<(), DaemonError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

pub(crate) fn unexpected(reply: Reply) -> DaemonError {
    match reply {
        Reply::Failed(failure) => failure.into(),
        other => DaemonError::Refused(format!("receive the daemon's reply: unexpected message: {other:?}")),
    }
}

impl Started {
    /// Returns the report of each control of the sandbox.
    pub fn controls(&self) -> &[ControlReport] {
        &self.controls
    }

    /// Returns the changes of protected paths between the last report and the start of the command.
    pub fn before(&self) -> &Report {
        &self.before
    }

    /// Returns a handle to the report on protected paths that is filled when the command has ended.
    pub fn after(&self) -> After {
        After(self.after.clone())
    }

    fn send(&self, during: &ExecMessage) -> Result<(), IsolationError> {
        self.connection.send(during, &[]).map_err(|error| IsolationError::DaemonLost(error.to_string()))
    }
}

#[async_trait]
impl ExecHandle for Started {
    fn take_streams(&mut self) -> ExecStreams {
        std::mem::take(&mut self.streams)
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.send(&ExecMessage::Signal(signal))
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        self.send(&ExecMessage::Resize(size))
    }

    async fn end(&self, reason: EndReason) -> Result<(), IsolationError> {
        self.send(&ExecMessage::End(reason))
    }

    async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        if self.waited {
            return Err(IsolationError::AlreadyWaited);
        }
        let reply = self.connection.receive::<Reply>().await;
        self.waited = true;
        match reply {
            Ok((Reply::Ended(outcome, report), _)) => {
                *self.after.lock().unwrap_or_else(PoisonError::into_inner) = report;
                Ok(*outcome)
            }
            Ok((other, _)) => Err(match unexpected(other) {
                DaemonError::Layered(LayeredError::Isolation(error)) => error,
                other => IsolationError::other(other),
            }),
            Err(error) => Err(IsolationError::DaemonLost(error.to_string())),
        }
    }
}
