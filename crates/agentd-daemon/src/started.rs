//! A command that was started through the daemon, as its client sees it.

use crate::{
    client::unexpected,
    connection::Connection,
    error::DaemonError,
    host_approver::{Announce, WaitingHost},
    protocol::{ExecMessage, Reply, Stream},
};
use agentd_core::{ControlReport, EndReason, ExecHandle, ExecStreams, IsolationError, Outcome, PtySize};
use agentd_isolation::{layered::LayeredError, protect::Report};
use agentd_supervisor::channel::ChannelError;
use async_trait::async_trait;
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

/// The handle of a command that was started through the daemon. Dropping the handle before the command has ended kills the
/// command.
pub struct Started {
    connection: Connection,
    streams: ExecStreams,
    controls: Vec<ControlReport>,
    before: Report,
    after: Arc<Mutex<Report>>,
    announce: Option<Announce>,
    /// True once the outcome has been received.
    waited: bool,
}

/// The final report of a command: the changes of protected paths that were found after its end. This value outlives the handle of
/// the command ([`Started`]).
pub struct After(Arc<Mutex<Report>>);

impl After {
    /// Returns the report; it is empty until the outcome has been received.
    pub fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Started {
    pub(crate) fn new(
        connection: Connection,
        received: impl Iterator<Item = (Stream, OwnedFd)>,
        controls: Vec<ControlReport>,
        before: Report,
    ) -> Self {
        let mut streams = ExecStreams::default();
        for (stream, fd) in received {
            let place = match stream {
                Stream::Stdin => &mut streams.stdin,
                Stream::Stdout => &mut streams.stdout,
                Stream::Stderr => &mut streams.stderr,
                Stream::Pty => &mut streams.pty,
            };
            *place = Some(fd);
        }
        Self { connection, streams, controls, before, after: Arc::default(), announce: None, waited: false }
    }

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

    /// Ends the use of an interpreter, which continues to run. Returns the changes of protected paths since the last report.
    ///
    /// # Errors
    /// [`DaemonError::Lost`] if the daemon has ended, and the interpreter with it.
    pub async fn release(mut self) -> Result<Report, DaemonError> {
        self.connection.send(&ExecMessage::Release, &[])?;
        match self.reply().await?.0 {
            // If the interpreter ended at this moment, the next use reports that.
            Reply::Compared(report) | Reply::Ended(_, report) => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// Has `announce` called for each connection of the sandbox that waits for an approval, while the command is waited for.
    pub fn announce_waiting_hosts(&mut self, announce: impl Fn(WaitingHost<'_>) + Send + Sync + 'static) {
        self.announce = Some(Box::new(announce));
    }

    /// Waits for the next reply that is not about a connection. Dropping the future loses no reply.
    async fn reply(&mut self) -> Result<(Reply, Vec<OwnedFd>), ChannelError> {
        loop {
            let (to, intent, wait) = match self.connection.receive::<Reply>().await? {
                (Reply::HostWaits { to, intent, wait }, _) => (to, intent, wait),
                reply => return Ok(reply),
            };
            if let (Some(announce), Ok(intent)) = (&self.announce, intent.parse()) {
                announce(WaitingHost { to: &to, intent, wait });
            }
        }
    }

    fn send(&self, message: &ExecMessage) -> Result<(), IsolationError> {
        self.connection.send(message, &[]).map_err(|error| IsolationError::DaemonLost(error.to_string()))
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
        let reply = self.reply().await;
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
