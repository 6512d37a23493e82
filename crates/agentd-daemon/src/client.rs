//! The client of the daemon.

use crate::{
    error::DaemonError,
    protocol::{Reply, Request, Status},
    report::{self, Finding},
    started::Started,
};
use agentd_core::{Command, ControlReport, Grant};
use agentd_isolation::{egress, grants, protect::Report};
use agentd_sandboxes::{Change, Name, SandboxSettings};
use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Client of one user's daemon. Starts the daemon if none answers.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) place: PathBuf,
    pub(crate) daemon: Vec<std::ffi::OsString>,
}

impl Client {
    /// Creates a client for the sandboxes below `place`, which must exist. `daemon` is the command that calls [`crate::run`].
    pub fn new(place: &Path, daemon: Vec<std::ffi::OsString>) -> Self {
        Self { place: place.to_path_buf(), daemon }
    }

    /// Resolves the grants of a sandbox, creates the sandbox, and returns the report of each control. The daemon may be in
    /// another mount namespace, so it resolves no path.
    ///
    /// `proven` is true if the caller has proven the boundary in its own namespaces. Otherwise, and if the daemon is in other
    /// namespaces, the daemon proves it.
    ///
    /// # Errors
    /// The reason why the daemon could not be reached or refused; this applies to all methods that send a request. The errors of
    /// [`grants::pin`] and [`egress::check_layered`].
    pub async fn create(&self, name: &Name, mut about: SandboxSettings, proven: bool) -> Result<Vec<ControlReport>, DaemonError> {
        egress::check_layered(&about.spec)?;
        grants::pin(&mut about.spec)?;
        Ok(self.request_controls(Request::Create { name: name.clone(), about: Box::new(about), proven }).await?.0)
    }

    /// Starts a command in a sandbox. `proven` as for [`Client::create`].
    ///
    /// # Errors
    /// As for [`Client::create`]. [`agentd_core::IsolationError::Spawn`] if the program cannot be executed.
    pub async fn exec(&self, name: &Name, command: Command, proven: bool) -> Result<Started, DaemonError> {
        self.started(Request::Exec { name: name.clone(), command: Box::new(command), detach: false, proven }).await
    }

    /// Starts an interpreter in a sandbox: a command that outlives its clients. Its standard input is a socket, through which
    /// both sides send. The caller ends the use with [`Started::release`]. If the value is dropped before, the interpreter is
    /// killed. `proven` as for [`Client::create`].
    ///
    /// # Errors
    /// As for [`Client::exec`]. An error if an interpreter runs in the sandbox.
    pub async fn start_interpreter(&self, name: &Name, command: Command, proven: bool) -> Result<Started, DaemonError> {
        self.started(Request::Interpreter { name: name.clone(), start: Some(Box::new(command)), proven }).await
    }

    /// Uses the interpreter of a sandbox, as [`Client::start_interpreter`] does. Waits until no other client uses it.
    ///
    /// # Errors
    /// As for [`Client::exec`]. [`DaemonError::NoInterpreter`] if no interpreter runs in the sandbox.
    pub async fn use_interpreter(&self, name: &Name, proven: bool) -> Result<Started, DaemonError> {
        self.started(Request::Interpreter { name: name.clone(), start: None, proven }).await
    }

    async fn started(&self, request: Request) -> Result<Started, DaemonError> {
        let mut connection = self.ask(request, None).await?;
        let (streams, controls, before, fds) = match connection.receive::<Reply>().await? {
            (Reply::Started { streams, controls, report }, fds) => (streams, controls, report, fds),
            (other, _) => return Err(unexpected(other)),
        };
        Ok(Started::new(connection, streams.into_iter().zip(fds), controls, before))
    }

    /// Starts a command in a sandbox and leaves the command to the daemon. Its output goes to the sandbox's log. Returns the
    /// report of each control, and the changes of protected paths since the last report. `proven` as for [`Client::create`].
    ///
    /// # Errors
    /// As for [`Client::exec`].
    pub async fn detach(&self, name: &Name, command: Command, proven: bool) -> Result<(Vec<ControlReport>, Report), DaemonError> {
        self.request_controls(Request::Exec { name: name.clone(), command: Box::new(command), detach: true, proven }).await
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

    /// Sends a request that changes nothing, and returns the descriptor of the reply. If the daemon ends during the request, the
    /// request is sent again: the daemon may already have been ending when the client connected.
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

    /// Changes the network grants of a sandbox: removes the network grants in `revoke`, ends their connections, and adds the
    /// network grants in `allow`. When this function returns, the change is in effect and on disk. An error changes nothing.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn change_network(&self, name: &Name, allow: Vec<String>, revoke: Vec<String>) -> Result<(), DaemonError> {
        self.done(Request::Network { name: name.clone(), allow, revoke }).await
    }

    /// Returns a non-blocking socket that is connected to a TCP port of the loopback of a running sandbox.
    ///
    /// # Errors
    /// As for [`Client::create`], and an error if no program in the sandbox accepts the connection.
    pub async fn connect_to(&self, name: &Name, port: u16) -> Result<OwnedFd, DaemonError> {
        self.file(Request::Connect { name: name.clone(), port }).await
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
        other => DaemonError::Unexpected(other.kind()),
    }
}
