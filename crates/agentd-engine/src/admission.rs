//! Admission: a function from an intent, its capability, the recorded state and the policies' decision to a decision. It has no
//! effects. The steps are ordered: a request that was decided before is never decided again.

use crate::{refusal::Refusal, valid_intent::ValidIntent};
use agentd_core::{Command, Limits, SandboxSpec};
use agentd_policy::{Effective, Obligations, PolicyDecision, PolicyOutcome, RequestedConfinement};
use agentd_state::{Begun, IntentId};
use std::{collections::BTreeSet, time::Duration};

/// The decision about an intent.
#[derive(Debug)]
pub enum AdmissionDecision {
    /// The intent is executed under these terms, after the approvals that they name.
    Execute(Box<Terms>),
    /// The intent is a duplicate of one that has not ended: its outcome is that of the first.
    Wait(IntentId),
    /// The intent is a duplicate of one that has ended: this is its outcome.
    Replay {
        /// The first intent.
        id: IntentId,
        /// The recorded outcome.
        outcome: Vec<u8>,
    },
    /// The intent is not executed.
    Refuse(Refusal),
}

/// Bounds of every sandbox, in addition to those of capability and policies.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionBounds<'b> {
    /// The backends with a boundary. A capability never runs without one.
    pub isolated: &'b BTreeSet<String>,
    /// The most processor time of an intent, because its principal has a quota of it.
    pub cpu_time: Option<Duration>,
}

/// The terms under which an intent is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The confinement of the sandbox.
    pub effective: Effective,
    /// The most that capability and policies permit.
    pub obligations: Obligations,
    /// The policies that determined the decision.
    pub policies: Vec<String>,
    /// The destinations of the secrets that the caller gives, in the order of the caller.
    pub secrets: Vec<String>,
}

impl Terms {
    /// Returns the first term that a sandbox of `backend` with this spec and command does not meet.
    pub fn unmet(&self, spec: &SandboxSpec, command: &Command, backend: &str) -> Option<String> {
        let Effective { profile, limits, network, backends, .. } = &self.effective;
        // A grace period of zero is none.
        let grace = |limits: &Limits| limits.grace.filter(|grace| !grace.is_zero());
        let compared = |limits: &Limits| Limits { grace: grace(limits), ..limits.clone() };
        let checks = [
            (spec.profile == *profile, format!("profile {:?} instead of {profile:?}", spec.profile)),
            (compared(&spec.limits) == compared(limits), format!("limits {:?} instead of {limits:?}", spec.limits)),
            (command.limits == Limits::default(), format!("limits of the command: {:?}", command.limits)),
            (spec.network == *network, format!("network {:?} instead of {network:?}", spec.network)),
            (backends.contains(backend), format!("backend {backend}")),
            (!spec.allow_degraded, "controls may be missing".to_owned()),
            (spec.secrets.iter().map(|secret| &secret.target).eq(&self.secrets), "secrets".to_owned()),
        ];
        checks.into_iter().find(|(met, _)| !met).map(|(_, problem)| problem)
    }
}

/// Decides whether a valid intent is executed. `earlier` is the recorded state of the intent, if its key was used.
pub fn admit(
    valid: &ValidIntent<'_>,
    earlier: Option<Begun>,
    policy: &PolicyDecision,
    bounds: AdmissionBounds<'_>,
) -> AdmissionDecision {
    match earlier {
        Some(Begun::Conflict(id)) => return AdmissionDecision::Refuse(Refusal::Conflict(id)),
        Some(Begun::InFlight(id)) => return AdmissionDecision::Wait(id),
        Some(Begun::Finished { id, outcome } | Begun::Interrupted { id, outcome }) => {
            return AdmissionDecision::Replay { id, outcome };
        }
        Some(Begun::Refused(exceeded)) => return AdmissionDecision::Refuse(Refusal::Quota(exceeded)),
        Some(Begun::New(_)) | None => {}
    }
    match permit(valid, policy, bounds) {
        Ok(terms) => AdmissionDecision::Execute(Box::new(terms)),
        Err(refusal) => AdmissionDecision::Refuse(refusal),
    }
}

fn permit(valid: &ValidIntent<'_>, policy: &PolicyDecision, bounds: AdmissionBounds<'_>) -> Result<Terms, Refusal> {
    let permitted = match &policy.outcome {
        PolicyOutcome::Permitted(permitted) => permitted,
        PolicyOutcome::Denied(denial) => {
            return Err(Refusal::Denied { denial: denial.clone(), policies: policy.policies.clone() });
        }
    };
    let mut obligations = permitted.meet(&valid.capability.bounds.obligations(bounds.isolated.clone()));
    obligations.limits.cpu_time = [obligations.limits.cpu_time, bounds.cpu_time].into_iter().flatten().min();
    if obligations.backends.is_empty() {
        return Err(Refusal::NoBackend);
    }
    let requested = &valid.intent.confinement;
    let wall = [requested.limits.wall, valid.operation.timeout()].into_iter().flatten().min();
    let network = valid.destinations.as_ref().map(|destinations| destinations.network.clone());
    let requested = RequestedConfinement {
        limits: Limits { wall, ..requested.limits.clone() },
        network: network.or_else(|| requested.network.clone()),
        ..requested.clone()
    };
    let effective = obligations.apply(&requested)?;
    Ok(Terms { effective, obligations, policies: policy.policies.clone(), secrets: valid.intent.secrets.clone() })
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
