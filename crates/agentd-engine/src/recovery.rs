//! Ends the intents that a crash interrupted. Such an intent ends as `interrupted`, and is never executed again.
//!
//! The audit log decides, because it gets the outcome of an intent before the store does. If the log has an outcome, the store
//! gets that outcome. If the log has no request, nothing was executed, because a request is recorded before its execution.

use crate::{
    ended::{EndedIntent, EndedMembers},
    engine::Engine,
    error::EngineError,
    intent_records::{RecordedEnd, RecordedIntent},
};
use agentd_records::{
    AuditEvent, ContentDigest, Label, Leaf, Timestamp,
    receipt::{RecordedOutcome, Subject},
};
use agentd_state::{ApprovalState, EndIntent, Ending, IntentId, Orphan, StateError};
use serde_json::{Value, json};

/// The leaves of one intent.
#[derive(Default)]
struct FoundLeaves {
    recorded: Option<RecordedIntent>,
    policies: Vec<Label>,
    /// True if the log has the decision of a user.
    is_decided: bool,
    outcome: Option<RecordedOutcome>,
}

impl Engine {
    /// Ends the intents whose process died.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn recover(&self) -> Result<(), EngineError> {
        for orphan in self.parts.state.recover().await? {
            let ended = self.interrupted(&orphan).await?;
            // The error says only that the intent was interrupted.
            let (id, outcome, now) = (orphan.id, ended.stored(true)?, Timestamp::now());
            self.parts.state.end(EndIntent { id, ending: Ending::Interrupted, outcome, cpu: None, now }).await?;
        }
        Ok(())
    }

    async fn interrupted(&self, orphan: &Orphan) -> Result<EndedIntent, EngineError> {
        let found = self.find(orphan)?;
        let message = "agentd was killed while it executed the intent, so it is unknown how much of it was executed";
        let error = json!({ "code": "interrupted", "message": message });
        let members = |outcome: &RecordedOutcome, error| EndedMembers {
            status: "interrupted",
            reason: outcome.reason.clone().into(),
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            result: None,
            error: Some(error),
            sandbox: None,
        };
        let interrupted = RecordedOutcome { reason: "interrupted".try_into()?, exit_code: None, signal: None };
        let Some(recorded) = found.recorded else {
            let error = json!({ "code": "interrupted", "message": "agentd was killed before it executed the intent" });
            let recorded = RecordedIntent {
                id: orphan.id.to_string().try_into()?,
                principal: orphan.principal.clone(),
                source: "unknown".try_into()?,
                capability: "unknown".try_into()?,
                digest: orphan.digest,
                document: String::new(),
                key: None,
                received: orphan.begun,
            };
            let ended = EndedIntent::new(&recorded, Value::Null, members(&interrupted, error), String::new());
            return Ok(EndedIntent { receipt: None, document: None, ..ended });
        };
        if let Some(outcome) = found.outcome {
            let error =
                json!({ "code": "interrupted", "message": "agentd was killed after the end of the intent: its result is lost" });
            let ended = EndedIntent::new(&recorded, Value::Null, members(&outcome, error), String::new());
            return Ok(EndedIntent { receipt: None, document: None, ..ended });
        }
        let subjects = vec![Subject::new("error", ContentDigest::of(error.to_string().as_bytes()))];
        let end = RecordedEnd { outcome: interrupted.clone(), sandbox: None, subjects };
        let approval = if found.is_decided { None } else { self.decided(orphan.id, &recorded).await? };
        let receipt = recorded.end(&self.parts.records, (true, &found.policies), end, approval.as_slice())?;
        Ok(EndedIntent::new(&recorded, Value::Null, members(&interrupted, error), receipt))
    }

    /// Returns the leaf of a user's decision that the killed process did not record.
    async fn decided(&self, id: IntentId, recorded: &RecordedIntent) -> Result<Option<Leaf>, EngineError> {
        let approval = match self.parts.state.approval(id, Timestamp::now()).await {
            Ok(approval) => approval,
            Err(StateError::NoApproval(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(match approval.state {
            ApprovalState::Approved { by, at } => Some(recorded.approval(&by, true, at)),
            ApprovalState::Denied { by, at } => Some(recorded.approval(&by, false, at)),
            ApprovalState::Pending | ApprovalState::Expired => None,
        })
    }

    /// Returns the leaves of an intent. They are not older than its begin in the store.
    fn find(&self, orphan: &Orphan) -> Result<FoundLeaves, EngineError> {
        let mut found = FoundLeaves::default();
        let id: Label = orphan.id.to_string().try_into()?;
        self.leaves_since(orphan.begun, |leaf| {
            found.add(leaf, &id);
            found.recorded.is_some()
        })?;
        Ok(found)
    }
}

impl FoundLeaves {
    fn add(&mut self, leaf: Leaf, own: &Label) {
        match leaf.event {
            AuditEvent::Intent { id, principal, source, capability, intent, idempotency_key } if id == *own => {
                let (document, received) = (String::new(), leaf.time);
                self.recorded = Some(RecordedIntent {
                    id,
                    principal,
                    source,
                    capability,
                    digest: intent,
                    document,
                    key: idempotency_key,
                    received,
                });
            }
            AuditEvent::Decision { id, policies, .. } if id == *own => self.policies = policies,
            AuditEvent::Approval { id, .. } if id == *own => self.is_decided = true,
            AuditEvent::Outcome { id, reason, exit_code, signal, .. } if id == *own => {
                self.outcome = Some(RecordedOutcome { reason, exit_code, signal });
            }
            _ => {}
        }
    }
}
