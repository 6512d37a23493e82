//! The records of one intent: leaves of the audit log, and the receipt. They contain names and digests only.

use crate::{error::EngineError, intent::Intent, refusal::Refusal, set_digest::digest};
use agentd_core::{ControlReport, Evidence, Limits};
use agentd_log::measure::Stage;
use agentd_policy::{Obligations, PolicyDecision, PolicySets};
use agentd_records::{
    AuditEvent, ContentDigest, Label, Leaf, Records, Timestamp, random_id,
    receipt::{
        self, Receipt, ReceiptDecision, RecordedEgress, RecordedOutcome, Subject, recorded_controls, recorded_evidence,
        recorded_limits,
    },
};
use std::collections::BTreeMap;

/// An intent in the form of the records.
#[derive(Debug, Clone)]
pub(crate) struct RecordedIntent {
    pub id: Label,
    pub principal: Label,
    pub source: Label,
    pub capability: Label,
    /// The digest of [`RecordedIntent::document`].
    pub digest: ContentDigest,
    /// The document that the digest identifies. It contains no parameter.
    pub document: String,
    pub key: Option<ContentDigest>,
    pub received: Timestamp,
}

/// The decision about an intent in the form of the records.
#[derive(Debug, Clone)]
pub(crate) struct RecordedDecision {
    pub allowed: bool,
    pub policies: Vec<Label>,
    pub policy_set: ContentDigest,
    pub obligations: BTreeMap<Label, Label>,
}

/// A decision of the shadow policies that differs from the one that holds.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    pub decision: PolicyDecision,
    set: ContentDigest,
}

/// The sandbox of an intent, and what was used in it.
pub(crate) struct RecordedSandbox<'s> {
    pub backend: &'s str,
    pub controls: &'s [ControlReport],
    pub evidence: &'s [Evidence],
    pub egress: Option<RecordedEgress>,
    pub limits: &'s Limits,
    pub usage: &'s BTreeMap<Label, u64>,
}

/// The end of an intent.
pub(crate) struct RecordedEnd<'s> {
    pub outcome: RecordedOutcome,
    pub sandbox: Option<RecordedSandbox<'s>>,
    pub subjects: Vec<Subject>,
}

impl RecordedIntent {
    pub fn new(intent: &Intent, id: String) -> Result<Self, EngineError> {
        let document = intent.document(Some(&random_id().map_err(EngineError::Random)?))?;
        Ok(Self {
            id: id.try_into()?,
            principal: intent.principal.id().try_into()?,
            source: intent.source.transport.as_str().try_into()?,
            // The name of a capability that does not exist may be no label.
            capability: Label::try_from(intent.capability.as_str()).or_else(|_| "unknown".try_into())?,
            digest: ContentDigest::of(document.as_bytes()),
            document,
            key: intent.key.as_ref().map(agentd_state::IdempotencyKey::digest),
            received: intent.received,
        })
    }

    /// Returns the leaves of the request, of the decision about it, and of the shadow policies' decision if it differs.
    pub fn leaves(&self, decision: &RecordedDecision, shadow: Option<&Shadow>) -> Result<Vec<Leaf>, EngineError> {
        let event = AuditEvent::Intent {
            id: self.id.clone(),
            principal: self.principal.clone(),
            source: self.source.clone(),
            capability: self.capability.clone(),
            intent: self.digest,
            idempotency_key: self.key,
        };
        let mut leaves = vec![Leaf::new(self.received, event)];
        let (id, intent, decided) = (self.id.clone(), self.digest, Timestamp::now().max(self.received));
        if let Some(shadow) = shadow {
            let RecordedDecision { allowed, policies, policy_set, obligations } = shadow.recorded()?;
            let id = id.clone();
            leaves
                .push(Leaf::new(decided, AuditEvent::ShadowDecision { id, intent, allowed, policies, policy_set, obligations }));
        }
        let RecordedDecision { allowed, policies, policy_set, obligations } = decision.clone();
        leaves.push(Leaf::new(decided, AuditEvent::Decision { id, intent, allowed, policies, policy_set, obligations }));
        Ok(leaves)
    }

    /// Signs the receipt, and records the end of the intent after the leaves `before`. Returns the receipt.
    pub fn end(
        &self,
        records: &Records,
        (allowed, policies): (bool, &[Label]),
        end: RecordedEnd<'_>,
        before: &[Leaf],
    ) -> Result<String, EngineError> {
        let _stage = Stage::Record.span().entered();
        // From here on, no other process can replace the key, so the key is in use at the time of the receipt.
        let recorder = records.recorder()?;
        let finished = Timestamp::now().max(self.received);
        let RecordedEnd { outcome, sandbox, subjects } = end;
        let sandbox = sandbox.as_ref();
        let receipt = Receipt {
            version: env!("CARGO_PKG_VERSION").try_into()?,
            principal: self.principal.clone(),
            capability: self.capability.clone(),
            intent: self.digest,
            decision: ReceiptDecision { allowed, policies: policies.to_vec() },
            started: self.received,
            finished,
            backend: sandbox.map(|sandbox| Label::try_from(sandbox.backend)).transpose()?,
            probed: sandbox.is_some_and(|sandbox| !sandbox.evidence.is_empty()),
            controls: recorded_controls(sandbox.map_or(&[][..], |sandbox| sandbox.controls))?,
            evidence: recorded_evidence(sandbox.map_or(&[][..], |sandbox| sandbox.evidence))?,
            limits: sandbox.map(|sandbox| recorded_limits(&[sandbox.limits])).transpose()?.unwrap_or_default(),
            usage: sandbox.map(|sandbox| sandbox.usage.clone()).unwrap_or_default(),
            egress: sandbox.and_then(|sandbox| sandbox.egress.clone()),
            outcome: outcome.clone(),
        };
        let text = receipt::sign(receipt, subjects, &recorder.keys().signer)?;
        let RecordedOutcome { reason, exit_code, signal } = outcome;
        let receipt = Some(ContentDigest::of(text.as_bytes()));
        let event = AuditEvent::Outcome { id: self.id.clone(), intent: self.digest, reason, exit_code, signal, receipt };
        let leaves: Vec<_> = before.iter().cloned().chain([Leaf::new(finished, event)]).collect();
        recorder.record_all(&leaves)?;
        Ok(text)
    }

    /// Returns the leaf of a user's decision about the intent.
    pub fn approval(&self, approver: &Label, approved: bool, at: Timestamp) -> Leaf {
        let event = AuditEvent::Approval { id: self.id.clone(), intent: self.digest, approver: approver.clone(), approved };
        Leaf::new(at, event)
    }
}

impl Shadow {
    /// Returns the decision of the shadow set; `None` without such a set.
    pub fn new(sets: &PolicySets, decision: PolicyDecision) -> Option<Self> {
        Some(Self { decision, set: digest(sets.shadow.as_ref()?) })
    }

    fn recorded(&self) -> Result<RecordedDecision, EngineError> {
        match self.decision.obligations() {
            Some(obligations) => RecordedDecision::allowed(&self.decision.policies, self.set, obligations),
            None => RecordedDecision::denied(&self.decision.policies, self.set),
        }
    }
}

impl RecordedDecision {
    /// Returns the decision to execute an intent.
    pub fn allowed(policies: &[String], set: ContentDigest, obligations: &Obligations) -> Result<Self, EngineError> {
        let mut named: BTreeMap<Label, Label> = BTreeMap::new();
        for (name, value) in obligations.annotations() {
            // Several approvals have the same name, and a list of hosts may be too long: their digest is recorded then.
            let value = if value.is_empty() { "none".to_owned() } else { value };
            let again = named.get(&Label::try_from(name)?).map(|earlier| format!("{earlier}; {value}"));
            let text = again.unwrap_or(value);
            let label = Label::try_from(text.as_str());
            let label = label.or_else(|_| format!("sha256:{}", ContentDigest::of(text.as_bytes())).try_into())?;
            named.insert(name.try_into()?, label);
        }
        Ok(Self { allowed: true, policies: labels(policies)?, policy_set: set, obligations: named })
    }

    /// Returns the decision not to execute an intent.
    pub fn refused(refusal: &Refusal, set: ContentDigest) -> Result<Self, EngineError> {
        let policies = match refusal {
            Refusal::Denied { policies, .. } => policies.as_slice(),
            _ => &[],
        };
        Self::denied(policies, set)
    }

    fn denied(policies: &[String], set: ContentDigest) -> Result<Self, EngineError> {
        Ok(Self { allowed: false, policies: labels(policies)?, policy_set: set, obligations: BTreeMap::new() })
    }
}

fn labels(texts: &[String]) -> Result<Vec<Label>, EngineError> {
    Ok(texts.iter().map(|text| Label::try_from(text.as_str())).collect::<Result<Vec<_>, _>>()?)
}
