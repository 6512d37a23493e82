//! The engine: admits or refuses intents, and records their requests, decisions and outcomes.

use crate::{
    admission::{AdmissionDecision, Terms, admit},
    capability::CapabilityRegistry,
    ended::EndedIntent,
    error::EngineError,
    execution::{Execution, Held},
    intent::Intent,
    intent_records::{RecordedDecision, RecordedEnd, RecordedIntent, random},
    refusal::Refusal,
    valid_intent::ValidIntent,
};
use agentd_policy::{PolicyDecision, PolicyError, PolicySets, Vocabulary};
use agentd_records::{
    ContentDigest, Records,
    receipt::{RecordedOutcome, Subject},
};
use agentd_state::{BeginIntent, Begun, IntentId, Quota, StateStore};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// The longest wait for another process before the state is read again.
const WAIT: Duration = Duration::from_secs(60);

/// The parts of an engine.
#[derive(Debug)]
pub struct EngineParts {
    /// The capabilities.
    pub capabilities: CapabilityRegistry,
    /// The policies.
    pub policies: PolicySets,
    /// The canonical names of the backends with a boundary.
    pub isolated: BTreeSet<String>,
    /// The limits of each principal.
    pub quota: Quota,
    /// The store of intents.
    pub state: StateStore,
    /// Keys and audit log.
    pub records: Records,
}

/// Admits or refuses intents, and records their requests, decisions and outcomes. The engine starts no process: its caller
/// carries out each [`Execution`].
#[derive(Debug)]
pub struct Engine {
    pub(crate) parts: EngineParts,
}

/// The result of admission.
pub enum Submitted<'e> {
    /// The caller executes the intent now.
    Execute(Box<Execution<'e>>),
    /// The intent waits for an approval.
    Hold(Box<Held<'e>>),
    /// The intent has ended: it was refused, or it is a duplicate.
    Ended(EndedIntent),
}

/// Returns the words that policies may use: the capabilities, and the backends by name and whether they have a boundary.
///
/// # Errors
/// [`PolicyError::Capability`] for a capability whose name policies cannot contain.
pub fn vocabulary<'b>(
    capabilities: &CapabilityRegistry,
    backends: impl IntoIterator<Item = (&'b str, bool)>,
) -> Result<Vocabulary, PolicyError> {
    // Capabilities of later versions may be named, but not used.
    let mut vocabulary = Vocabulary::built_in()?;
    for capability in capabilities.iter() {
        let traits = capability.annotations.words();
        vocabulary = vocabulary.capability(&capability.id(), capability.parameters.text(), traits)?;
    }
    Ok(backends.into_iter().fold(vocabulary, |vocabulary, (name, boundary)| vocabulary.backend(name, boundary)))
}

impl Engine {
    /// Returns an engine of these parts, after it has ended the intents that a crash interrupted.
    ///
    /// # Errors
    /// [`EngineError`] if state or records cannot be used.
    pub async fn start(parts: EngineParts) -> Result<Self, EngineError> {
        let engine = Self { parts };
        engine.recover().await?;
        Ok(engine)
    }

    /// Returns the capabilities.
    pub fn capabilities(&self) -> &CapabilityRegistry {
        &self.parts.capabilities
    }

    fn policy_set(&self) -> ContentDigest {
        let digest = self.parts.policies.enforced.digest();
        // The text has the form of a digest. If it had not, the records would contain a digest of it.
        ContentDigest::try_from(digest.to_owned()).unwrap_or_else(|_| ContentDigest::of(digest.as_bytes()))
    }

    /// Admits or refuses an intent. Request and decision are durable in the audit log before this function returns
    /// [`Submitted::Execute`]. A duplicate of an intent that has not ended waits for its end.
    ///
    /// # Errors
    /// [`EngineError`]. The intent must not be executed.
    pub async fn submit(&self, intent: Intent) -> Result<Submitted<'_>, EngineError> {
        let valid = match ValidIntent::new(intent, &self.parts.capabilities) {
            Ok(valid) => valid,
            Err(refused) => return self.refuse(&refused.0, &refused.1),
        };
        let (policy, shadow) = self.parts.policies.decide(&valid.policy_request());
        let mut request = self.request(&valid)?;
        let mut earlier = self.parts.state.duplicate(request.clone()).await?;
        loop {
            match admit(&valid, earlier.take(), &policy, &self.parts.isolated) {
                AdmissionDecision::Refuse(refusal) => return self.refuse(&valid.intent, &refusal),
                AdmissionDecision::Replay { id, outcome } => return Ok(Submitted::Ended(EndedIntent::replayed(id, &outcome)?)),
                AdmissionDecision::Wait(id) => {
                    self.wait(id).await?;
                    earlier = self.parts.state.duplicate(request.clone()).await?;
                }
                AdmissionDecision::Execute(terms) => {
                    request.cpu = terms.effective.limits.cpu_time.unwrap_or_default();
                    match self.parts.state.begin(request.clone()).await? {
                        Begun::New(id) => {
                            let shadow = shadow.map(|difference| difference.shadow);
                            return self.begin(valid, id, *terms, shadow.as_ref()).await;
                        }
                        other => earlier = Some(other),
                    }
                }
            }
        }
    }

    fn request(&self, valid: &ValidIntent<'_>) -> Result<BeginIntent, EngineError> {
        Ok(BeginIntent {
            principal: valid.intent.principal.id().try_into()?,
            key: valid.intent.key.clone(),
            digest: valid.intent.digest()?,
            quota: self.parts.quota,
            cpu: Duration::ZERO,
            now: agentd_records::Timestamp::now(),
        })
    }

    /// Waits for the end of an intent that this or another process executes.
    async fn wait(&self, id: IntentId) -> Result<(), EngineError> {
        match self.parts.state.wait(id, WAIT).await {
            Ok(agentd_state::IntentState::Orphaned) => self.recover().await,
            // An intent that is no longer kept is not a duplicate any more.
            Ok(_) | Err(agentd_state::StateError::UnknownIntent(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Records request and decision of an intent that may be executed.
    async fn begin<'e>(
        &'e self,
        valid: ValidIntent<'e>,
        id: IntentId,
        terms: Terms,
        shadow: Option<&PolicyDecision>,
    ) -> Result<Submitted<'e>, EngineError> {
        let decision = RecordedDecision::allowed(&terms.policies, self.policy_set(), &terms.obligations)?;
        let recorded = RecordedIntent::new(&valid.intent, id.to_string())?;
        self.parts.records.recorder()?.record_all(&recorded.leaves(&decision))?;
        let needs_approval = !terms.effective.approvals.is_empty();
        let execution =
            Execution { engine: self, valid, id, terms, decision, recorded, shadow: shadow.map(PolicyDecision::to_json) };
        if needs_approval {
            return Ok(Submitted::Hold(Box::new(Held::request(execution).await?)));
        }
        Ok(Submitted::Execute(Box::new(execution)))
    }

    /// Records an intent that is not executed. Its identifier is not that of a stored intent: a refused request with a key may be
    /// sent again.
    fn refuse(&self, intent: &Intent, refusal: &Refusal) -> Result<Submitted<'_>, EngineError> {
        let recorded = RecordedIntent::new(intent, random()?)?;
        let decision = RecordedDecision::refused(refusal, self.policy_set())?;
        let error = refusal.to_json();
        let leaves = recorded.leaves(&decision);
        let receipt = self.end_refused(&recorded, &decision.policies, refusal.word(), &error, &leaves)?;
        Ok(Submitted::Ended(EndedIntent::refused(&recorded, &decision, error, receipt)))
    }

    /// Records the end of an intent that was not executed. Returns its receipt.
    pub(crate) fn end_refused(
        &self,
        recorded: &RecordedIntent,
        policies: &[agentd_records::Label],
        word: &str,
        error: &Value,
        before: &[agentd_records::Leaf],
    ) -> Result<String, EngineError> {
        let outcome = RecordedOutcome { reason: word.try_into()?, exit_code: None, signal: None };
        let subjects = vec![Subject::new("error", ContentDigest::of(error.to_string().as_bytes()))];
        let end = RecordedEnd { outcome, sandbox: None, subjects };
        recorded.end(&self.parts.records, (false, policies), end, before)
    }
}
