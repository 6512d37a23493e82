//! The engine: admits or refuses intents, and records their requests, decisions and outcomes.

use crate::{
    admission::{AdmissionBounds, AdmissionDecision, Terms, admit},
    begun_intent::BegunIntent,
    capability::CapabilityRegistry,
    ended::{EndedIntent, decision_object},
    error::EngineError,
    execution::{Execution, HeldIntent},
    intent::Intent,
    intent_records::{RecordedDecision, RecordedEnd, RecordedIntent, Shadow},
    quota::{LiveQuotas, PrincipalQuota},
    refusal::Refusal,
    set_digest::digest,
    valid_intent::ValidIntent,
};
use agentd_log::measure::Stage;
use agentd_policy::{LivePolicies, PolicyError, PolicySets, Vocabulary};
use agentd_records::{
    ContentDigest, Label, Records, Timestamp, random_id,
    receipt::{RecordedOutcome, Subject},
};
use agentd_state::{BeginIntent, Begun, IntentId, StateStore};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};
use tracing::Instrument as _;

/// The longest wait for another process before the state is read again.
const WAIT: Duration = Duration::from_secs(60);

/// The parts of an engine.
#[derive(Debug)]
pub struct EngineParts {
    /// The capabilities.
    pub capabilities: CapabilityRegistry,
    /// The policies.
    pub policies: LivePolicies,
    /// The canonical names of the backends with a boundary.
    pub isolated: BTreeSet<String>,
    /// The limits of principals and groups.
    pub quotas: LiveQuotas,
    /// The store of intents.
    pub state: StateStore,
    /// Keys and audit log.
    pub records: Records,
    /// The user who runs the engine, and in whose name changes of the configuration are recorded.
    pub operator: Label,
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
    Hold(Box<HeldIntent<'e>>),
    /// The intent has ended: it was refused, or it is a duplicate.
    Ended(EndedIntent),
}

/// What the policies decided about an intent, for the records.
struct Decided {
    /// The digest of the enforced set.
    set: ContentDigest,
    /// The decision of the shadow set, if it differs.
    shadow: Option<Shadow>,
}

impl Decided {
    fn without_shadow(sets: &PolicySets) -> Self {
        Self { set: digest(&sets.enforced), shadow: None }
    }
}

fn request(valid: &ValidIntent<'_>, quota: &PrincipalQuota) -> Result<BeginIntent, EngineError> {
    Ok(BeginIntent {
        principal: valid.intent.principal.id().try_into()?,
        key: valid.intent.key.clone(),
        digest: valid.intent.digest()?,
        quota: quota.quota,
        shared: quota.shared.clone(),
        cpu: Duration::ZERO,
        now: Timestamp::now(),
    })
}

/// Returns the words that policies may use: the capabilities, and the backends by name and whether they have a boundary.
///
/// # Errors
/// [`PolicyError::Capability`] for a capability whose name policies cannot contain.
pub fn vocabulary<'b>(
    capabilities: &CapabilityRegistry,
    backends: impl IntoIterator<Item = (&'b str, bool)>,
) -> Result<Vocabulary, PolicyError> {
    let mut vocabulary = Vocabulary::default();
    for capability in capabilities.iter() {
        let traits = capability.annotations.words();
        vocabulary = vocabulary.capability(&capability.id(), capability.parameters.text(), traits)?;
    }
    Ok(backends.into_iter().fold(vocabulary, |vocabulary, (name, boundary)| vocabulary.backend(name, boundary)))
}

impl Engine {
    /// Returns an engine of these parts, after it has ended the intents that a crash interrupted, and recorded in the audit log
    /// which policies and quotas have changed.
    ///
    /// # Errors
    /// [`EngineError`] if state or records cannot be used.
    pub async fn start(parts: EngineParts) -> Result<Self, EngineError> {
        let engine = Self { parts };
        engine.recover().await?;
        engine.record_configuration().await?;
        Ok(engine)
    }

    /// Returns the store of intents.
    pub fn state(&self) -> &StateStore {
        &self.parts.state
    }

    /// Returns the capabilities.
    pub fn capabilities(&self) -> &CapabilityRegistry {
        &self.parts.capabilities
    }

    /// Admits or refuses an intent. Request and decision are durable in the audit log before this function returns
    /// [`Submitted::Execute`]. A duplicate of an intent that has not ended waits for its end. An intent that exceeds a limit of
    /// concurrency waits for its turn, as long as the quota of its principal allows.
    ///
    /// # Errors
    /// [`EngineError`]. The intent must not be executed.
    pub async fn submit(&self, intent: Intent) -> Result<Submitted<'_>, EngineError> {
        let sets = self.parts.policies.current();
        let valid = match Stage::Validate.span().in_scope(|| ValidIntent::new(intent, &self.parts.capabilities)) {
            Ok(valid) => valid,
            Err(refused) => return self.refuse(&refused.0, &refused.1, &Decided::without_shadow(&sets)),
        };
        let (policy, difference) = Stage::Policy.span().in_scope(|| sets.decide(&valid.policy_request()));
        let decided =
            Decided { set: digest(&sets.enforced), shadow: difference.and_then(|found| Shadow::new(&sets, found.shadow)) };
        let quota = self.parts.quotas.current().of(&valid.intent.principal)?;
        let own = AdmissionBounds { isolated: &self.parts.isolated, cpu_time: quota.cpu_per_intent };
        let mut request = request(&valid, &quota)?;
        // Lasts until the intent is admitted or refused.
        let admission = Stage::Admit.span();
        let mut earlier = self.parts.state.duplicate(request.clone()).instrument(admission.clone()).await?;
        loop {
            match admit(&valid, earlier.take(), &policy, own) {
                AdmissionDecision::Refuse(refusal) => {
                    drop(admission);
                    return self.refuse(&valid.intent, &refusal, &decided);
                }
                AdmissionDecision::Replay { id, outcome } => return Ok(Submitted::Ended(EndedIntent::replayed(id, &outcome)?)),
                AdmissionDecision::Wait(id) => {
                    self.wait(id).instrument(Stage::Queue.span()).await?;
                    earlier = self.parts.state.duplicate(request.clone()).await?;
                }
                AdmissionDecision::Execute(terms) => {
                    request.cpu = terms.effective.limits.cpu_time.unwrap_or_default();
                    match self.parts.state.begin_in_turn(request.clone(), quota.queueing).instrument(admission.clone()).await? {
                        Begun::New(id) => {
                            drop(admission);
                            return self.begin(valid, id, *terms, decided).await;
                        }
                        other => earlier = Some(other),
                    }
                }
            }
        }
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
        decided: Decided,
    ) -> Result<Submitted<'e>, EngineError> {
        // From here on, an error gives the intent up, so that it holds no place.
        let begun = BegunIntent::new(&self.parts.state, id);
        let decision = RecordedDecision::allowed(&terms.policies, decided.set, &terms.obligations)?;
        let recorded = RecordedIntent::new(&valid.intent, id.to_string())?;
        let leaves = recorded.leaves(&decision, decided.shadow.as_ref())?;
        let recording = || Ok::<_, EngineError>(self.parts.records.recorder()?.record_all(&leaves)?);
        Stage::Record.span().in_scope(recording)?;
        let needs_approval = !terms.effective.approvals.is_empty();
        let shadow = decided.shadow.map(|shadow| shadow.decision.to_json());
        let execution = Execution { engine: self, valid, begun, terms, decision, recorded, shadow };
        if needs_approval {
            return Ok(Submitted::Hold(Box::new(HeldIntent::request(execution).await?)));
        }
        Ok(Submitted::Execute(Box::new(execution)))
    }

    /// Records an intent that is not executed. Its identifier is not that of a stored intent: a refused request with a key may be
    /// sent again.
    fn refuse(&self, intent: &Intent, refusal: &Refusal, decided: &Decided) -> Result<Submitted<'_>, EngineError> {
        let recorded = RecordedIntent::new(intent, random_id().map_err(EngineError::Random)?)?;
        let decision = RecordedDecision::refused(refusal, decided.set)?;
        let error = refusal.to_json();
        let leaves = recorded.leaves(&decision, decided.shadow.as_ref())?;
        let receipt = self.end_refused(&recorded, &decision.policies, refusal.word(), &error, &leaves)?;
        let shadow = decided.shadow.as_ref().map(|shadow| shadow.decision.to_json());
        Ok(Submitted::Ended(EndedIntent::refused(&recorded, decision_object(&decision, shadow), error, receipt)))
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
