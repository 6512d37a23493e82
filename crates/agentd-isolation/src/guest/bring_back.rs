//! Bringing back what a sandbox has changed in copies of the host's files.

use super::{
    Guest,
    frame::{StreamId, Which},
    protocol::{FromGuest, ToGuest},
    session::{Operation, refused},
};
use agentd_core::IsolationError;
use std::{
    future::Future,
    time::{Duration, Instant},
};

impl Guest {
    /// Whether what the sandbox changes comes back to the host: then it cannot go back to what it was, nor be copied, because the host's
    /// files cannot.
    pub(super) fn brings_back(&self) -> bool {
        self.copies.as_ref().is_some_and(|copies| copies.bring_back())
    }

    /// Makes the host's files what the sandbox has made of its copies of them. A guest that does not keep to the protocol, or stalls, is
    /// ended.
    pub(super) async fn bring_back(&self) -> Result<(), IsolationError> {
        let Some(copies) = &self.copies else { return Ok(()) };
        for (number, back) in copies.writable() {
            let mut taken = back.taken().await;
            let mut operation = self.session().begin()?;
            let stream = StreamId { of: operation.id, which: Which::Output };
            let mut from = operation.session.mux.inlet(stream).map_err(refused)?;
            operation.session.request(&ToGuest::Changes { id: operation.id, number, taken: *taken })?;
            *taken = false;
            let taking = back.take()?;
            let mut allowance = Allowance::new();
            while let Some(piece) = allowance.wait_for(self, from.read()).await? {
                allowance.earn(piece.len());
                if !taking.piece(piece).await {
                    break;
                }
            }
            // Where no more is wanted, the guest hears that, and answers.
            drop(from);
            match allowance.wait_for(self, operation.answer("grants")).await?? {
                FromGuest::Done { .. } => {}
                _ => return Err(Operation::out_of_order()),
            }
            if let Err((error, hostile)) = taking.finish().await {
                if hostile {
                    self.end("it asked for what it may not");
                }
                return Err(error);
            }
            *taken = true;
        }
        Ok(())
    }
}

/// How long a guest may keep its host waiting for what it changed: it gets more with what it sends, so that it cannot send for ever.
struct Allowance(Duration);

impl Allowance {
    /// To begin with: to look at all that it has, which an emulated guest does slowly.
    const FIRST: Duration = Duration::from_secs(120);
    /// With each byte.
    const MORE: Duration = Duration::from_micros(4);

    fn new() -> Self {
        Self(Self::FIRST)
    }

    fn earn(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(Self::MORE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    /// Waits for something of `guest`'s, which is ended when that takes too long. Time in which it stands still does not count.
    async fn wait_for<T>(&mut self, guest: &Guest, something: impl Future<Output = T>) -> Result<T, IsolationError> {
        let (began, mut still) = (Instant::now(), guest.still.subscribe());
        tokio::select! {
            got = something => {
                if !still.has_changed().unwrap_or(true) && still.borrow_and_update().runs() {
                    self.0 = self.0.saturating_sub(began.elapsed());
                }
                Ok(got)
            }
            () = guest.running_for(self.0) => {
                guest.end("it kept its host waiting for what it had changed");
                Err(guest.session().why_lost())
            }
        }
    }
}
