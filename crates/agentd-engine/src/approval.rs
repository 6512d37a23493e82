//! Approvals of intents that wait, for the transports.

use crate::{engine::Engine, error::EngineError};
use agentd_records::{Label, Timestamp};
use agentd_state::{Approval, DecideApproval, IntentId};

impl Engine {
    /// Returns the approval for which an intent waits, with the text that an approver reads.
    ///
    /// # Errors
    /// [`EngineError::State`] if the intent waits for none.
    pub async fn approval(&self, intent: IntentId) -> Result<Approval, EngineError> {
        Ok(self.parts.state.approval(intent, Timestamp::now()).await?)
    }

    /// Returns the approvals that nobody has decided, with the texts that an approver reads.
    ///
    /// # Errors
    /// [`EngineError::State`] if the store cannot be read.
    pub async fn pending_approvals(&self) -> Result<Vec<Approval>, EngineError> {
        Ok(self.parts.state.pending_approvals(Timestamp::now()).await?)
    }

    /// Approves or denies an intent in the name of a user. The transport must have authenticated the user, and the user must be
    /// allowed to decide.
    ///
    /// # Errors
    /// [`EngineError::State`] if the intent waits for no approval, or the approval has been decided or has expired.
    pub async fn decide_approval(&self, intent: IntentId, approve: bool, by: Label) -> Result<(), EngineError> {
        self.parts.state.decide(DecideApproval { intent, approve, by, now: Timestamp::now() }).await?;
        Ok(())
    }
}
