//! Guards that kill a guest if an operation that leaves the guest in an unknown state is cancelled.

use super::Guest;
use tokio::task::AbortHandle;

/// Guard during an operation that may quiesce a guest. Dropping it kills a guest that is still quiesced.
pub(crate) struct QuiesceGuard<'a>(pub(crate) &'a Guest);

impl Drop for QuiesceGuard<'_> {
    fn drop(&mut self) {
        if self.0.pauses.borrow().quiesced {
            self.0.end("the guest was left quiesced");
        }
    }
}

/// Guard for a guest that was asked to quiesce. If the wait is cancelled, the state of the connection is unknown, and the guest
/// is killed.
pub(super) struct UnfinishedQuiesce<'a> {
    pub(super) guest: Option<&'a Guest>,
    pub(super) task: AbortHandle,
}

impl Drop for UnfinishedQuiesce<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.guest {
            self.task.abort();
            guest.end("the guest did not finish quiescing");
        }
    }
}

/// Guard for a suspended guest that is resumed briefly so that it can be saved. If saving is cancelled, nothing would suspend the
/// guest again, so dropping this guard kills the guest.
pub struct ResumedToSave<'a> {
    guest: Option<&'a Guest>,
}

impl<'a> ResumedToSave<'a> {
    /// Creates the guard. To be called before the guest runs.
    pub fn new(guest: &'a Guest) -> Self {
        Self { guest: Some(guest) }
    }

    /// Disarms the guard. To be called once the guest is stopped again.
    pub fn disarm(mut self) {
        self.guest = None;
    }
}

impl Drop for ResumedToSave<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.guest {
            guest.end("the suspended machine was resumed for a snapshot, and was not suspended again");
        }
    }
}
