//! Copies changes from the guest's copies of granted files back to the host.

use super::{
    Guest,
    frame::{StreamId, StreamKind},
    protocol::{FromGuest, ToGuest},
    session::{Operation, refused},
};
use agentd_core::IsolationError;
use std::{
    future::Future,
    time::{Duration, Instant},
};

impl Guest {
    /// Returns true if changes of the sandbox are copied back to the host. Such a sandbox has no snapshots and forks:
    /// the host's files could be neither reset nor duplicated.
    pub(super) fn copies_back(&self) -> bool {
        self.copies.as_ref().is_some_and(|copies| copies.has_writable())
    }

    /// Applies the sandbox's changes in its copies to the host's files. A guest that violates the protocol or stalls is killed.
    pub(super) async fn pull(&self) -> Result<(), IsolationError> {
        let Some(copies) = &self.copies else { return Ok(()) };
        for (number, back) in copies.writable() {
            let mut taken = back.taken().await;
            let mut operation = self.session().begin()?;
            let stream = StreamId { operation: operation.id, kind: StreamKind::Output };
            let mut from = operation.session.mux.recv_stream(stream).map_err(refused)?;
            operation.session.request(&ToGuest::Changes { id: operation.id, number, taken: *taken })?;
            *taken = false;
            let taking = back.take().await?;
            let mut allowance = Allowance::new();
            while let Some(piece) = allowance.wait_for(self, from.read()).await? {
                allowance.extend_for(piece.len());
                if !taking.piece(piece).await {
                    break;
                }
            }
            // If the host stopped reading early, dropping the stream lets the guest finish and answer.
            drop(from);
            match allowance.wait_for(self, operation.answer("grants")).await?? {
                FromGuest::Done { .. } => {}
                _ => return Err(Operation::out_of_order()),
            }
            if let Err((error, hostile)) = taking.finish().await {
                if hostile {
                    self.end("the guest sent an invalid or forbidden change of a granted file");
                }
                return Err(error);
            }
            *taken = true;
        }
        Ok(())
    }
}

/// The time for which a guest may keep its host waiting for changes. It grows with the bytes received, and is used up by waiting,
/// so the transfer is bounded.
struct Allowance(Duration);

impl Allowance {
    /// The initial time, for scanning all files, which is slow in an emulated guest.
    const FIRST: Duration = Duration::from_secs(120);
    /// Additional time for each byte.
    const MORE: Duration = Duration::from_micros(4);

    fn new() -> Self {
        Self(Self::FIRST)
    }

    fn extend_for(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(Self::MORE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    /// Waits for a result from `guest`, and kills the guest if the allowance runs out. Time in which the guest is stopped does
    /// not count.
    async fn wait_for<T>(&mut self, guest: &Guest, something: impl Future<Output = T>) -> Result<T, IsolationError> {
        let (began, mut pauses) = (Instant::now(), guest.pauses.subscribe());
        tokio::select! {
            got = something => {
                if !pauses.has_changed().unwrap_or(true) && pauses.borrow_and_update().runs() {
                    self.0 = self.0.saturating_sub(began.elapsed());
                }
                Ok(got)
            }
            () = guest.running_for(self.0) => {
                guest.end("the guest took too long to send the changes of granted files");
                Err(guest.session().why_lost())
            }
        }
    }
}
