//! Connects a client to the daemon, and makes sure that the daemon belongs to the user before a request is sent.
//!
//! A payload with the uid of the user could listen in place of the daemon. The client therefore sends its request only to a
//! process of its user. That process must be in the client's user and PID namespaces, or prove that it has the key of the user.

use crate::{
    admission::PROOF_TIMEOUT,
    client::{Client, unexpected},
    connection::Connection,
    error::{DaemonError, KeyRefusal},
    folder,
    handshake::{Nonce, Nonces, Side},
    key,
    protocol::{Answer, Hello, Reply, Request, VERSION},
};
use agentd_core::IsolationError;
use agentd_kernel::{
    peer::{self, OtherNamespaces, Peer, PeerError},
    privileges,
};
use agentd_supervisor::channel::ChannelError;
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{self, Stdio},
    time::{Duration, Instant},
};

/// The time limit for the daemon to start.
const START: Duration = Duration::from_secs(10);

/// A process that listens on the daemon's socket, and runs as the user of this process.
struct Listening {
    socket: UnixStream,
    peer: Peer,
}

impl Client {
    /// Returns true if a daemon runs in user or PID namespaces other than those of this process. A sandbox that this process
    /// creates then proves nothing about the sandboxes of that daemon, which proves their boundary itself.
    ///
    /// # Errors
    /// [`DaemonError::Unreachable`] if the folder of the daemon cannot be opened, or the process that listens there cannot be
    /// verified; [`DaemonError::OtherUser`] if it belongs to another user.
    pub fn is_elsewhere(&self) -> Result<bool, DaemonError> {
        let Some(folder) = self.folder()? else { return Ok(false) };
        Ok(self.find(&folder)?.is_some_and(|daemon| matches!(daemon.peer, Peer::OtherNamespaces(_))))
    }

    /// Sends a request to the daemon if one is running, and returns its reply.
    pub(crate) async fn ask_running(&self, request: Request) -> Result<Option<Reply>, DaemonError> {
        let Some(folder) = self.folder()? else { return Ok(None) };
        let Some(daemon) = self.find(&folder)? else { return Ok(None) };
        Ok(Some(self.send(daemon, &request, &[]).await?.receive().await?.0))
    }

    /// Sends a request to the daemon, and starts a daemon if none is running.
    pub(crate) async fn ask(&self, request: Request, fd: Option<BorrowedFd<'_>>) -> Result<Connection, DaemonError> {
        let daemon = self.connect().await?;
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        self.send(daemon, &request, &fds).await
    }

    /// Opens the folder of the daemon; returns `None` if this user has no named sandboxes yet.
    pub(crate) fn folder(&self) -> Result<Option<OwnedFd>, DaemonError> {
        match folder::open(&self.place) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreachable("open the daemon's folder", error)),
        }
    }

    pub(crate) fn unreachable(&self, context: &'static str, source: io::Error) -> DaemonError {
        DaemonError::Unreachable { place: self.place.clone(), context, source }
    }

    /// Connects to the process that listens in the folder of the daemon, and verifies it; returns `None` if none listens.
    fn find(&self, folder: &OwnedFd) -> Result<Option<Listening>, DaemonError> {
        let socket = match folder::connect(folder) {
            Ok(socket) => socket,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
            Err(error) => return Err(self.unreachable("connect to the daemon's socket", error)),
        };
        let peer = match peer::verify(socket.as_fd(), None) {
            Ok(peer) => peer,
            // The daemon has ended since it listened, and nothing was sent to it.
            Err(PeerError::Ended) => return Ok(None),
            Err(PeerError::Invisible) => Peer::OtherNamespaces(OtherNamespaces { namespace: "pid", origin: None }),
            Err(PeerError::Uid(uid)) => {
                return Err(DaemonError::OtherUser { place: folder::path_of(&self.place), uid });
            }
            Err(error) => return Err(self.unreachable("verify the daemon", io::Error::other(error))),
        };
        Ok(Some(Listening { socket, peer }))
    }

    /// Connects to the daemon, and starts a daemon if none is running.
    async fn connect(&self) -> Result<Listening, DaemonError> {
        let folder = folder::open(&self.place).map_err(|source| self.unreachable("open the daemon's folder", source))?;
        let began = Instant::now();
        let mut started: Option<Instant> = None;
        loop {
            if let Some(daemon) = self.find(&folder)? {
                return Ok(daemon);
            }
            if began.elapsed() > START {
                return Err(self.unreachable("connect to the daemon's socket", io::ErrorKind::TimedOut.into()));
            }
            // A daemon that is ending still holds the lock. The new daemon may find the lock taken and end as well; then
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

    async fn send(&self, daemon: Listening, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Connection, DaemonError> {
        let failed = |source| self.unreachable("connect to the daemon's socket", source);
        let mut connection = Connection::new(daemon.socket).map_err(failed)?;
        match daemon.peer {
            Peer::SameNamespaces | Peer::DiffersIn(_) => {
                unless_refused(connection.send(&Hello { version: VERSION, nonce: Nonce::NONE }, &[]))?;
            }
            Peer::OtherNamespaces(place) => {
                let nonce = Nonce::random().map_err(failed)?;
                authenticate(&mut connection, nonce, place.namespace).await?;
            }
        }
        unless_refused(connection.send(request, fds))?;
        Ok(connection)
    }
}

/// Ignores that the daemon has closed the connection. A daemon that refuses a client sends the reason before it closes the
/// connection, so the reason can still be received.
fn unless_refused(sent: Result<(), ChannelError>) -> Result<(), ChannelError> {
    match sent {
        Err(ChannelError::Closed) => Ok(()),
        sent => sent,
    }
}

/// Lets a daemon in other namespaces prove that it has the key, and then proves the same to it.
async fn authenticate(connection: &mut Connection, nonce: Nonce, namespace: &'static str) -> Result<(), DaemonError> {
    let refused = |reason| DaemonError::Key { namespace, reason };
    let (path, key) = key::of_client().ok_or_else(|| refused(KeyRefusal::Missing(key::paths_of_client())))?;
    unless_refused(connection.send(&Hello { version: VERSION, nonce }, &[]))?;
    let reply = tokio::time::timeout(PROOF_TIMEOUT, connection.receive::<Reply>()).await;
    match reply.map_err(|_| refused(KeyRefusal::Silent))??.0 {
        Reply::Challenge { nonce: daemon, tag } => {
            let nonces = Nonces { client: nonce, daemon };
            if !tag.is(&nonces.tag(&key, Side::Daemon)) {
                return Err(refused(KeyRefusal::Impostor(path)));
            }
            Ok(connection.send(&Answer(nonces.tag(&key, Side::Client)), &[])?)
        }
        other => Err(unexpected(other)),
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
