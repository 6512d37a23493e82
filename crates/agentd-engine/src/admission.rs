//! Admission: a function from an intent, its capability, the recorded state and the policies' decision to a decision. It has no
//! effects. The steps are ordered: a request that was decided before is never decided again.

use crate::{refusal::Refusal, valid_intent::ValidIntent};
use agentd_core::{Command, Limits, Network, SandboxSpec};
use agentd_egress::NetGrant;
use agentd_policy::{Effective, NetworkBound, Obligations, PolicyDecision, PolicyOutcome, RequestedConfinement};
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
            (spec.profile == *profile, format!("profile {} instead of {profile}", spec.profile)),
            (compared(&spec.limits) == compared(limits), format!("limits {:?} instead of {limits:?}", spec.limits)),
            (command.limits == Limits::default(), format!("limits of the command: {:?}", command.limits)),
            (spec.network == *network, format!("network {:?} instead of {network:?}", spec.network)),
            (backends.contains(backend), format!("backend {backend}")),
            (!spec.allow_degraded, "controls may be missing".to_owned()),
            (spec.secrets.iter().map(|secret| &secret.target).eq(&self.secrets), "secrets".to_owned()),
        ];
        checks.into_iter().find(|(met, _)| !met).map(|(_, problem)| problem)
    }

    /// Returns true if an existing sandbox with this spec reaches all hosts that a caller requests.
    pub fn is_served_by(spec: &SandboxSpec, requested: &Network) -> bool {
        reaches_at_most(requested, &spec.network)
    }

    /// Returns the first term that an existing sandbox of `backend` with this spec exceeds. Time limit, grace period and output
    /// limit are those of each command. What these terms do not permit, no earlier decision permits either.
    pub fn exceeded_by(&self, spec: &SandboxSpec, backend: &str) -> Option<String> {
        let is_reached = reaches_at_most(&spec.network, &self.effective.network);
        exceeded(&self.effective, is_reached, spec, backend)
    }

    /// Returns the first thing that a named sandbox of `backend` with this spec has, and that capability and policies do not
    /// permit now. A request to use the sandbox states no confinement of its own.
    pub fn forbidden(&self, spec: &SandboxSpec, backend: &str) -> Option<String> {
        let most = RequestedConfinement { profile: Some(self.obligations.profile), ..RequestedConfinement::default() };
        let most = match self.obligations.apply(&most) {
            Ok(most) => most,
            Err(excess) => return Some(excess.to_string()),
        };
        let network = &self.obligations.network;
        let is_reached = match &spec.network {
            Network::Off => true,
            Network::Host => network.permits_host_network(),
            Network::Egress(grants) => {
                grants.iter().all(|grant| grant.parse::<NetGrant>().is_ok_and(|grant| network.permits(&grant)))
            }
        };
        exceeded(&most, is_reached, spec, backend)
    }
}

/// Returns the first thing that an existing sandbox has beyond `permitted`. `is_reached` is true if its network is permitted.
fn exceeded(permitted: &Effective, is_reached: bool, spec: &SandboxSpec, backend: &str) -> Option<String> {
    let Effective { profile, limits, backends, .. } = permitted;
    let own = &spec.limits;
    let checks = [
        (spec.profile <= *profile, format!("it has the profile {}, permitted: {profile}", spec.profile)),
        (within(own.cpu_time, limits.cpu_time), "its limit of processor time is larger than permitted".to_owned()),
        (within(own.memory, limits.memory), "its memory limit is larger than permitted".to_owned()),
        (within(own.processes, limits.processes), "its limit of processes is larger than permitted".to_owned()),
        (within(own.open_files, limits.open_files), "its limit of open files is larger than permitted".to_owned()),
        (within(own.file_size, limits.file_size), "its limit of file sizes is larger than permitted".to_owned()),
        (within(own.cpu_quota, limits.cpu_quota), "its share of processors is larger than permitted".to_owned()),
        (within(own.cpu_weight, limits.cpu_weight), "its weight of processors is larger than permitted".to_owned()),
        (is_reached, "it may reach hosts that are not permitted".to_owned()),
        (backends.contains(backend), format!("it is in the backend {backend}, which is not permitted")),
        (!spec.allow_degraded, "its controls may be missing".to_owned()),
        (spec.secrets.is_empty(), "it has secrets".to_owned()),
    ];
    checks.into_iter().find(|(met, _)| !met).map(|(_, problem)| problem)
}

/// Returns true if a limit is at most a bound; `None` is no limit.
fn within<T: Ord>(limit: Option<T>, bound: Option<T>) -> bool {
    bound.is_none_or(|bound| limit.is_some_and(|limit| limit <= bound))
}

/// Returns true if a sandbox with this network reaches nothing but what another may reach.
fn reaches_at_most(own: &Network, permitted: &Network) -> bool {
    match (own, permitted) {
        (Network::Off, _) | (Network::Host, Network::Host) => true,
        (Network::Egress(own), Network::Off) => own.is_empty(),
        (Network::Host, _) => false,
        // A grant of the gateway is less than the network of the host.
        (Network::Egress(_), Network::Host) => true,
        (Network::Egress(own), Network::Egress(permitted)) => {
            let parsed =
                |grants: &[String]| grants.iter().map(|grant| grant.parse::<NetGrant>().ok()).collect::<Option<Vec<_>>>();
            let (Some(own), Some(permitted)) = (parsed(own), parsed(permitted)) else { return false };
            let bound = NetworkBound::hosts_of(permitted);
            own.iter().all(|grant| bound.permits(grant))
        }
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
        Some(Begun::Refused(refusal)) => return AdmissionDecision::Refuse(Refusal::Quota(refusal)),
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
    if let Some(name) = valid.intent.confinement.backend.as_ref().filter(|name| !bounds.isolated.contains(*name)) {
        let usable = bounds.isolated.iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(Refusal::Backend { name: name.clone(), usable });
    }
    let of_capability = permitted.meet(&valid.capability.bounds.obligations(bounds.isolated.clone()));
    let mut obligations = of_capability.clone();
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
    // The narrowest bounds decide, and the widest that refuse the request as well are to blame.
    let effective = obligations.apply(&requested).map_err(|of_quota| {
        match (permitted.apply(&requested), of_capability.apply(&requested)) {
            (Err(excess), _) => Refusal::Excess(excess),
            (Ok(_), Err(excess)) => Refusal::CapabilityExcess(excess, valid.capability.id()),
            (Ok(_), Ok(_)) => Refusal::QuotaExcess(of_quota),
        }
    })?;
    Ok(Terms { effective, obligations, policies: policy.policies.clone(), secrets: valid.intent.secrets.clone() })
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
