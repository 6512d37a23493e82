//! The host's side of freezing files: a guest's disk is copied while the file system on it is frozen.

use super::{
    Guest,
    protocol::{FromGuest, ToGuest},
    session::{Operation, Session},
};
use agentd_core::IsolationError;
use agentd_log::LogFailure as _;
use std::{io, sync::Arc, time::Duration};

/// Timeout of a guest that freezes or thaws its file system. Freezing first writes all dirty pages; an emulated guest writes a
/// few megabytes per second.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A guest whose file system is frozen: the disk holds the files of a single moment, and does not change. Commands continue, but
/// writes block. Dropping this value requests a thaw, which the guest also does by itself after 30 seconds.
pub struct Frozen<'a> {
    guest: &'a Guest,
    session: Arc<Session>,
    thaw_sent: bool,
}

impl Guest {
    /// Freezes the file system of the sandbox's root. A guest that does not answer within a minute is sent a request to thaw, in
    /// case the freeze completes later.
    ///
    /// # Errors
    /// Returns the guest's error if the file system cannot be frozen, [`IsolationError::Io`] with `TimedOut` if the guest does
    /// not answer, and [`IsolationError::MachineLost`].
    pub async fn freeze(&self) -> Result<Frozen<'_>, IsolationError> {
        let operation = self.session().begin()?;
        // From here on dropping `frozen` requests a thaw, whatever happens.
        let frozen = Frozen::new(self, operation.session.clone());
        done(operation, |id| ToGuest::Freeze { id }, "freeze the guest's file system").await?;
        Ok(frozen)
    }
}

impl<'a> Frozen<'a> {
    fn new(guest: &'a Guest, session: Arc<Session>) -> Self {
        guest.pauses.send_modify(|pauses| pauses.frozen = true);
        Self { guest, session, thaw_sent: false }
    }

    /// Thaws the file system.
    ///
    /// # Errors
    /// Returns an error if the guest had already thawed the file system, because the data read from the disk may then be
    /// inconsistent. Otherwise as [`Guest::freeze`].
    pub async fn thaw(mut self) -> Result<(), IsolationError> {
        let operation = self.session.begin()?;
        self.thaw_sent = true;
        done(operation, |id| ToGuest::Thaw { id }, "thaw the guest's file system").await
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // The answer is not awaited. A lost guest needs no request.
        if !self.thaw_sent
            && let Ok(operation) = self.session.begin()
        {
            self.session.request(&ToGuest::Thaw { id: operation.id }).or_warn("thaw the guest's file system", operation.id);
        }
        self.guest.pauses.send_modify(|pauses| pauses.frozen = false);
    }
}

/// Sends a request, and waits until the guest has carried it out.
async fn done(mut operation: Operation, ask: impl FnOnce(u32) -> ToGuest, what: &str) -> Result<(), IsolationError> {
    operation.session.request(&ask(operation.id))?;
    let late = |_| IsolationError::Io { context: what.to_owned(), source: io::Error::from(io::ErrorKind::TimedOut) };
    match tokio::time::timeout(TIMEOUT, operation.answer("the guest's root")).await.map_err(late)?? {
        FromGuest::Done { .. } => Ok(()),
        _ => Err(Operation::out_of_order()),
    }
}
