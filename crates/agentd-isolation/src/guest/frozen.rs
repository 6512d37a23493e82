//! The host's side of saving files: a guest's disk is copied while the file system on it rests.

use super::{
    Guest,
    protocol::{FromGuest, ToGuest},
    session::{Operation, Session},
};
use agentd_core::IsolationError;
use std::{io, sync::Arc, time::Duration};

/// How long a guest may take to bring its files to rest, or to let them go on. What it has in memory only is written first; an emulated one
/// writes some megabytes in a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest whose files rest: they are on its disk, all of one moment, and the disk is not changed. Commands go on, but those that write
/// wait. Dropped, the guest is told to let them go on, which it also does by itself when this lasts half a minute.
pub struct Frozen<'a> {
    guest: &'a Guest,
    session: Arc<Session>,
    told: bool,
}

impl Guest {
    /// Has the files of its sandbox's root brought to rest. A guest that does not answer is given up after a minute, and told to let them go
    /// on, if ever they rest.
    ///
    /// # Errors
    /// What hinders them from coming to rest; [`IsolationError::Io`] with `TimedOut`; [`IsolationError::Lost`].
    pub async fn freeze(&self) -> Result<Frozen<'_>, IsolationError> {
        let operation = self.session().begin()?;
        // From here on it is told to go on, whatever happens.
        let frozen = Frozen::new(self, operation.session.clone());
        done(operation, |id| ToGuest::Freeze { id }, "bring the guest's files to rest").await?;
        Ok(frozen)
    }
}

impl<'a> Frozen<'a> {
    fn new(guest: &'a Guest, session: Arc<Session>) -> Self {
        guest.still.send_modify(|still| still.frozen = true);
        Self { guest, session, told: false }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When they have gone on before, so that what was read of the disk may be of no one moment; and as [`Guest::freeze`].
    pub async fn thaw(mut self) -> Result<(), IsolationError> {
        let operation = self.session.begin()?;
        self.told = true;
        done(operation, |id| ToGuest::Thaw { id }, "let the guest's files go on").await
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // Nobody waits for the answer. A guest that is lost needs to be told nothing.
        if !self.told
            && let Ok(operation) = self.session.begin()
        {
            self.session.request(&ToGuest::Thaw { id: operation.id }).ok();
        }
        self.guest.still.send_modify(|still| still.frozen = false);
    }
}

/// Asks, and waits until it is done.
async fn done(mut operation: Operation, ask: impl FnOnce(u32) -> ToGuest, what: &str) -> Result<(), IsolationError> {
    operation.session.request(&ask(operation.id))?;
    let late = |_| IsolationError::Io { context: what.to_owned(), source: io::Error::from(io::ErrorKind::TimedOut) };
    match tokio::time::timeout(PATIENCE, operation.answer("the guest's root")).await.map_err(late)?? {
        FromGuest::Done { .. } => Ok(()),
        _ => Err(Operation::out_of_order()),
    }
}
