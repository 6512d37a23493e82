//! An intent that has begun in the store and not ended. If it is dropped, it holds no place any longer, and the next recovery
//! ends it as `interrupted`.

use crate::error::EngineError;
use agentd_state::{EndIntent, Ending, IntentId, StateStore};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// An intent that has begun.
pub(crate) struct BegunIntent {
    state: StateStore,
    id: IntentId,
    has_ended: AtomicBool,
}

impl BegunIntent {
    pub fn new(state: &StateStore, id: IntentId) -> Self {
        Self { state: state.clone(), id, has_ended: AtomicBool::new(false) }
    }

    /// Returns the identifier.
    pub fn id(&self) -> IntentId {
        self.id
    }

    /// Records the outcome, after the audit log has it.
    ///
    /// # Errors
    /// [`EngineError::State`].
    pub async fn end(&self, outcome: Vec<u8>, cpu: Option<Duration>) -> Result<(), EngineError> {
        let now = agentd_records::Timestamp::now();
        self.state.end(EndIntent { id: self.id, ending: Ending::Finished, outcome, cpu, now }).await?;
        self.has_ended.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for BegunIntent {
    fn drop(&mut self) {
        if !self.has_ended.load(Ordering::Relaxed) {
            self.state.abandon(self.id);
        }
    }
}
