//! A client of the keeper.

use crate::{
    connection::Connection,
    error::KeeperError,
    keeper,
    protocol::{During, Failure, Hello, Reply, Request, Status, Stream, VERSION},
    report::{self, Finding},
};
use agentd_core::{Command, EndReason, ExecHandle, ExecStreams, IsolationError, LayerReport, Outcome, PtySize};
use agentd_kernel::privileges;
use agentd_sandboxes::{About, Change, Name};
use async_trait::async_trait;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::{Duration, Instant},
};

/// How long a keeper may take to start.
const START: Duration = Duration::from_secs(10);

/// Where one is asked, and how one is started when nobody answers.
#[derive(Debug, Clone)]
pub struct Client {
    place: PathBuf,
    keeper: Vec<std::ffi::OsString>,
}

/// A command that was started through the keeper. Dropped before its end, it is ended.
pub struct Started {
    connection: Connection,
    streams: ExecStreams,
    layers: Vec<LayerReport>,
}

impl Client {
    /// For the sandboxes below `place`, which is there. `keeper` is the command that calls [`crate::keep`].
    pub fn new(place: &Path, keeper: Vec<std::ffi::OsString>) -> Self {
        Self { place: place.to_path_buf(), keeper }
    }

    /// Makes a sandbox; gives what became of each layer.
    pub async fn create(&self, name: &Name, about: About) -> Result<Vec<LayerReport>, KeeperError> {
        self.made(Request::Create { name: name.clone(), about: Box::new(about) }).await
    }

    /// Starts a command in one.
    pub async fn exec(&self, name: &Name, command: Command) -> Result<Started, KeeperError> {
        let request = Request::Exec { name: name.clone(), command: Box::new(command), detach: false };
        let mut connection = self.ask(request, None).await?;
        let (streams, layers, fds) = match connection.receive::<Reply>().await? {
            (Reply::Started { streams, layers }, fds) => (streams, layers, fds),
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
        Ok(Started { connection, streams: all, layers })
    }

    /// Starts a command in one, and leaves it to the keeper. Its output goes to the sandbox's log. Gives what became
    /// of each layer.
    pub async fn detach(&self, name: &Name, command: Command) -> Result<Vec<LayerReport>, KeeperError> {
        self.made(Request::Exec { name: name.clone(), command: Box::new(command), detach: true }).await
    }

    /// How those are whose processes live.
    pub async fn status(&self) -> Result<Vec<Status>, KeeperError> {
        // Where no keeper is, nothing lives; none is started for that.
        let Ok(folder) = keeper::open_folder(&self.place) else { return Ok(Vec::new()) };
        if keeper::connect(&folder).is_err() {
            return Ok(Vec::new());
        }
        match self.ask(Request::Status, None).await?.receive::<Reply>().await? {
            (Reply::Status(all), _) => Ok(all),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Stops all processes of one.
    pub async fn pause(&self, name: &Name) -> Result<(), KeeperError> {
        self.done(Request::Pause { name: name.clone() }).await
    }

    /// Lets them go on.
    pub async fn resume(&self, name: &Name) -> Result<(), KeeperError> {
        self.done(Request::Resume { name: name.clone() }).await
    }

    /// Keeps the state of one under a name.
    pub async fn snapshot(&self, name: &Name, snapshot: &Name) -> Result<(), KeeperError> {
        self.done(Request::Snapshot { name: name.clone(), snapshot: snapshot.clone() }).await
    }

    /// Makes others of its state, or of one that was kept.
    pub async fn fork(&self, name: &Name, snapshot: Option<&Name>, new: &[Name]) -> Result<(), KeeperError> {
        self.done(Request::Fork { name: name.clone(), snapshot: snapshot.cloned(), new: new.to_vec() }).await
    }

    /// Ends what runs in one and goes back to a state.
    pub async fn restore(&self, name: &Name, snapshot: &Name) -> Result<(), KeeperError> {
        self.done(Request::Restore { name: name.clone(), snapshot: snapshot.clone() }).await
    }

    /// Forgets a state.
    pub async fn forget(&self, name: &Name, snapshot: &Name) -> Result<(), KeeperError> {
        self.done(Request::Forget { name: name.clone(), snapshot: snapshot.clone() }).await
    }

    /// Ends what runs in one and removes it with all it has.
    pub async fn remove(&self, name: &Name) -> Result<(), KeeperError> {
        self.done(Request::Remove { name: name.clone() }).await
    }

    /// What one changed since a state, or of these layers of its image: the paths, sorted.
    pub async fn diff(&self, name: &Name, since: Option<&Name>, image: &[PathBuf]) -> Result<Vec<Change>, KeeperError> {
        let request = Request::Diff { name: name.clone(), since: since.cloned(), image: image.to_vec() };
        report::read_changes(self.file(request).await?)
    }

    /// What is not as it should be in what is kept on disk. By the keeper, which alone sees into the disks of sandboxes that have a limit.
    pub async fn check(&self) -> Result<Vec<Finding>, KeeperError> {
        report::read_findings(self.file(Request::Check).await?)
    }

    /// A descriptor of the content of a file in one.
    pub async fn read(&self, name: &Name, path: &Path) -> Result<OwnedFd, KeeperError> {
        self.file(Request::Read { name: name.clone(), path: path.to_path_buf() }).await
    }

    /// What changes nothing is asked again where the keeper ended over it: it may have been ending when it was found.
    async fn file(&self, request: Request) -> Result<OwnedFd, KeeperError> {
        let reply = match self.answer(request.clone()).await {
            Err(KeeperError::Lost(_)) => self.answer(request).await,
            reply => reply,
        };
        match reply? {
            (Reply::Done, fds) => {
                fds.into_iter().next().ok_or_else(|| KeeperError::Refused("the keeper sent no file".to_owned()))
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Writes a file in one.
    pub async fn write(&self, name: &Name, path: &Path, content: BorrowedFd<'_>) -> Result<(), KeeperError> {
        let request = Request::Write { name: name.clone(), path: path.to_path_buf() };
        finished(self.ask(request, Some(content)).await?.receive::<Reply>().await?.0)
    }

    async fn answer(&self, request: Request) -> Result<(Reply, Vec<OwnedFd>), KeeperError> {
        Ok(self.ask(request, None).await?.receive::<Reply>().await?)
    }

    async fn made(&self, request: Request) -> Result<Vec<LayerReport>, KeeperError> {
        match self.ask(request, None).await?.receive::<Reply>().await?.0 {
            Reply::Made(layers) => Ok(layers),
            other => Err(unexpected(other)),
        }
    }

    async fn done(&self, request: Request) -> Result<(), KeeperError> {
        finished(self.ask(request, None).await?.receive::<Reply>().await?.0)
    }

    async fn ask(&self, request: Request, fd: Option<BorrowedFd<'_>>) -> Result<Connection, KeeperError> {
        let connection = self.connect().await?;
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        connection.send(&Hello { version: VERSION, request }, &fds)?;
        Ok(connection)
    }

    /// A connection to the keeper, which is started where there is none.
    async fn connect(&self) -> Result<Connection, KeeperError> {
        let folder = keeper::open_folder(&self.place).map_err(|source| self.unreachable("open", source))?;
        let began = Instant::now();
        let mut started: Option<Instant> = None;
        loop {
            let error = match keeper::connect(&folder) {
                Ok(socket) => return Connection::new(socket).map_err(|source| self.unreachable("connect", source)),
                Err(error) => error,
            };
            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) || began.elapsed() > START {
                return Err(self.unreachable("connect", error));
            }
            // One that ends just now has the lock still, so that the next may find it taken and end too: then another is started.
            if started.is_none_or(|at| at.elapsed() > Duration::from_millis(500)) {
                self.start()?;
                started = Some(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn start(&self) -> Result<(), KeeperError> {
        let failed = |source| self.unreachable("start it", source);
        let (program, arguments) = self.keeper.split_first().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        privileges::bequeath_nothing().map_err(|error| KeeperError::Isolation(error.into()))?;
        let mut command = process::Command::new(program);
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It outlives this process; until then nobody waits for it.
        command.spawn().map(drop).map_err(failed)
    }

    fn unreachable(&self, context: &'static str, source: io::Error) -> KeeperError {
        KeeperError::Unreachable { place: self.place.clone(), context, source }
    }
}

fn finished(reply: Reply) -> Result<(), KeeperError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: Reply) -> KeeperError {
    match reply {
        Reply::Failed(failure) => failure.into(),
        other => KeeperError::Refused(format!("the keeper answered {other:?}")),
    }
}

impl Started {
    /// What became of each layer of its sandbox.
    pub fn layers(&self) -> &[LayerReport] {
        &self.layers
    }

    fn say(&self, during: &During) -> Result<(), IsolationError> {
        self.connection.send(during, &[]).map_err(|error| IsolationError::Lost(format!("keeper: {error}")))
    }
}

#[async_trait]
impl ExecHandle for Started {
    fn take_streams(&mut self) -> ExecStreams {
        std::mem::take(&mut self.streams)
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.say(&During::Signal(signal))
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        self.say(&During::Resize(size))
    }

    async fn end(&self, reason: EndReason) -> Result<(), IsolationError> {
        self.say(&During::End(reason))
    }

    async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        let lost = |error: String| IsolationError::Lost(format!("keeper: {error}"));
        match self.connection.receive::<Reply>().await {
            Ok((Reply::Ended(outcome), _)) => Ok(*outcome),
            Ok((Reply::Failed(Failure::Spawn { program, errno }), _)) => Err(IsolationError::Spawn { program, errno }),
            Ok((other, _)) => Err(lost(unexpected(other).to_string())),
            Err(error) => Err(lost(error.to_string())),
        }
    }
}
