//! Intents that are executed, or wait for an approval.

use crate::{
    admission::Terms,
    approval_text::approval_text,
    begun_intent::BegunIntent,
    ended::{EndedIntent, EndedMembers, decision_object},
    engine::Engine,
    error::EngineError,
    intent_records::{RecordedDecision, RecordedEnd, RecordedIntent, RecordedSandbox},
    outcome::{ExecutionResult, RunResult},
    refusal::Refusal,
    valid_intent::ValidIntent,
};
use agentd_core::{ControlReport, Evidence};
use agentd_records::{
    ContentDigest, Leaf, Timestamp,
    receipt::{RecordedEgress, RecordedOutcome, Subject, USAGE_NAMES},
};
use agentd_state::{ApprovalState, IntentId, RequestApproval};
use serde_json::{Value, json};
use std::time::Duration;

/// The maximum time for which an intent waits for an approval, in seconds.
const APPROVAL: u64 = 15 * 60;

/// The longest wait before the store is read again.
const WAIT: Duration = Duration::from_secs(60);

/// An intent that the caller executes. It ends with [`Execution::finish`] or [`Execution::fail`]. If the value is dropped, the
/// intent holds no place any longer, and the next recovery ends it as `interrupted`.
pub struct Execution<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) valid: ValidIntent<'e>,
    pub(crate) begun: BegunIntent,
    pub(crate) terms: Terms,
    pub(crate) decision: RecordedDecision,
    pub(crate) recorded: RecordedIntent,
    pub(crate) shadow: Option<Value>,
}

/// An intent that waits for an approval.
pub struct HeldIntent<'e> {
    execution: Execution<'e>,
    expires: Timestamp,
}

/// An execution that has ended.
pub struct Executed<'x> {
    /// The name of the backend.
    pub backend: &'x str,
    /// The controls of the sandbox.
    pub controls: &'x [ControlReport],
    /// The attacks that the backend withstood.
    pub evidence: &'x [Evidence],
    /// The destinations that the sandbox tried to reach, if a gateway observed them.
    pub egress: Option<RecordedEgress>,
    /// The result that the execution returned.
    pub ran: RunResult,
}

impl<'e> Execution<'e> {
    /// Returns the identifier of the intent.
    pub fn id(&self) -> IntentId {
        self.begun.id()
    }

    /// Returns the valid intent.
    pub fn valid(&self) -> &ValidIntent<'e> {
        &self.valid
    }

    /// Returns the terms. The caller applies all of them to the sandbox.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Returns the document that the digest of the intent in the records identifies.
    pub fn document(&self) -> &str {
        &self.recorded.document
    }

    fn decision(&self) -> Value {
        decision_object(&self.decision, self.shadow.clone())
    }

    /// Records the end of an execution: the receipt, the audit log, and then the outcome for duplicates.
    ///
    /// # Errors
    /// [`EngineError`]. The intent was executed, and its outcome may not be recorded.
    pub async fn finish(self, executed: Executed<'_>) -> Result<EndedIntent, EngineError> {
        let Executed { backend, controls, evidence, egress, ran } = executed;
        let ExecutionResult { result, error, outcome, usage, cpu, subjects } =
            ExecutionResult::new(&ran, &self.valid.operation, self.valid.capability)?;
        let sandbox =
            RecordedSandbox { backend, controls, evidence, egress, limits: &self.terms.effective.limits, usage: &usage };
        let end = RecordedEnd { outcome: outcome.clone(), sandbox: Some(sandbox), subjects };
        let receipt = self.recorded.end(&self.engine.parts.records, (true, &self.decision.policies), end, &[])?;
        let limits = agentd_records::receipt::recorded_limits(&[&self.terms.effective.limits])?;
        // What is unknown is null, not zero.
        let used: serde_json::Map<_, _> =
            USAGE_NAMES.iter().map(|name| ((*name).to_owned(), Value::Null)).chain(named(usage)).collect();
        let members = EndedMembers {
            status: "finished",
            reason: outcome.reason.into(),
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            result,
            error,
            sandbox: Some(json!({
                "backend": backend,
                "profile": self.terms.effective.profile,
                "limits": named(limits),
                "usage": used,
            })),
        };
        let ended = EndedIntent::new(&self.recorded, self.decision(), members, receipt);
        self.store(&ended, cpu).await?;
        Ok(ended)
    }

    /// Records that an intent could not be executed: no sandbox was created, or nothing was started in it.
    ///
    /// # Errors
    /// As for [`Execution::finish`].
    pub async fn fail(self, message: &str) -> Result<EndedIntent, EngineError> {
        self.fail_with("failed", message).await
    }

    /// Records that an intent could not be executed, as [`Execution::fail`] does, with the code of the error.
    ///
    /// # Errors
    /// As for [`Execution::finish`].
    pub async fn fail_with(self, code: &'static str, message: &str) -> Result<EndedIntent, EngineError> {
        let error = json!({ "code": code, "message": message });
        let outcome = RecordedOutcome { reason: code.try_into()?, exit_code: None, signal: None };
        let subjects = vec![Subject::new("error", ContentDigest::of(error.to_string().as_bytes()))];
        let end = RecordedEnd { outcome, sandbox: None, subjects };
        let receipt = self.recorded.end(&self.engine.parts.records, (true, &self.decision.policies), end, &[])?;
        let members = EndedMembers {
            status: "failed",
            reason: code.to_owned(),
            exit_code: None,
            signal: None,
            result: None,
            error: Some(error),
            sandbox: None,
        };
        let ended = EndedIntent::new(&self.recorded, self.decision(), members, receipt);
        self.store(&ended, Some(Duration::ZERO)).await?;
        Ok(ended)
    }

    /// Refuses an intent because its session has more than this intent may have.
    ///
    /// # Errors
    /// As for [`Execution::finish`].
    pub async fn refuse_session(self, excess: String) -> Result<EndedIntent, EngineError> {
        self.refuse(&Refusal::Session(excess), &[]).await
    }

    /// Refuses an intent because the named sandbox has more than this intent may use.
    ///
    /// # Errors
    /// As for [`Execution::finish`].
    pub async fn refuse_sandbox(self, excess: String) -> Result<EndedIntent, EngineError> {
        self.refuse(&Refusal::SandboxExceeds(excess), &[]).await
    }

    /// Ends an intent that is not executed although the policies permit it.
    async fn refuse(self, refusal: &Refusal, before: &[Leaf]) -> Result<EndedIntent, EngineError> {
        let error = refusal.to_json();
        let receipt = self.engine.end_refused(&self.recorded, &self.decision.policies, refusal.word(), &error, before)?;
        let decision = RecordedDecision { allowed: false, ..self.decision.clone() };
        let decision = decision_object(&decision, self.shadow.clone());
        let ended = EndedIntent::refused(&self.recorded, decision, error, receipt);
        self.store(&ended, Some(Duration::ZERO)).await?;
        Ok(ended)
    }

    async fn store(&self, ended: &EndedIntent, cpu: Option<Duration>) -> Result<(), EngineError> {
        self.begun.end(ended.stored(self.recorded.key.is_some())?, cpu).await
    }
}

fn named(values: std::collections::BTreeMap<agentd_records::Label, u64>) -> serde_json::Map<String, Value> {
    values.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

impl<'e> HeldIntent<'e> {
    /// Requests the approval of an intent.
    pub(crate) async fn request(execution: Execution<'e>) -> Result<Self, EngineError> {
        let now = Timestamp::now();
        let expires = now.plus_seconds(APPROVAL);
        let intent = execution.id();
        let text = approval_text(&execution.valid.intent, &execution.terms.effective, execution.recorded.digest);
        execution.engine.parts.state.request_approval(RequestApproval { intent, text, expires, now }).await?;
        Ok(Self { execution, expires })
    }

    /// Returns the identifier of the intent.
    pub fn id(&self) -> IntentId {
        self.execution.id()
    }

    /// Returns the time at which the intent ends if no user has decided.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Waits until a user has decided, or the approval has expired.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn decided(&self) -> Result<ApprovalState, EngineError> {
        loop {
            let approval = self.execution.engine.parts.state.wait_for_decision(self.id(), WAIT).await?;
            if approval.state != ApprovalState::Pending {
                return Ok(approval.state);
            }
        }
    }

    /// Records the decision. Returns the execution of an approved intent, or the end of another.
    ///
    /// # Errors
    /// [`EngineError`]. The intent must not be executed.
    pub async fn resolve(self, state: &ApprovalState) -> Result<Result<Execution<'e>, EndedIntent>, EngineError> {
        let Self { execution, .. } = self;
        match state {
            ApprovalState::Approved { by, at } => {
                let leaf = execution.recorded.approval(by, true, *at);
                execution.engine.parts.records.recorder()?.record(&leaf)?;
                Ok(Ok(execution))
            }
            ApprovalState::Denied { by, at } => {
                let leaf = execution.recorded.approval(by, false, *at);
                Ok(Err(execution.refuse(&Refusal::NotApproved(by.to_string()), &[leaf]).await?))
            }
            ApprovalState::Pending | ApprovalState::Expired => Ok(Err(execution.refuse(&Refusal::Expired, &[]).await?)),
        }
    }

    /// Ends the intent, because the caller does not wait any longer.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn cancel(self) -> Result<EndedIntent, EngineError> {
        self.execution.refuse(&Refusal::Cancelled, &[]).await
    }
}
