//! Explains a decision: which policies determined it, and what would have to change.

mod unmet;

use crate::{
    decision::{Denial, PolicyDecision, PolicyOutcome},
    facts::Facts,
    obligations::{Effective, Excess, RequestedConfinement},
    request::PolicyRequest,
    set::{PolicySet, in_words, resources},
};
use cedar_policy::{Effect, Policy};
use serde_json::{Value, json};
use std::fmt;
use unmet::{Condition, conditions};

/// The maximum number of permits that an explanation of a denial describes.
const MAX_NEAREST: usize = 5;

/// The explanation of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The request, in words.
    pub request: String,
    /// The decision.
    pub decision: PolicyDecision,
    /// The policies that determined the decision.
    pub determining: Vec<ExplainedPolicy>,
    /// For a permitted request: the confinement, or what the caller requests in excess.
    pub confinement: Option<Result<Effective, Excess>>,
    /// For a request that no policy permits: the permits that come closest, and what they lack.
    pub nearest: Vec<ExplainedPolicy>,
}

/// A policy in an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPolicy {
    /// The `@id`.
    pub policy: String,
    /// The `@description`.
    pub description: Option<String>,
    /// The resource for which the policy was evaluated, in words.
    pub resource: String,
    /// The conditions that the request meets, in words.
    pub met: Vec<String>,
    /// The conditions that the request does not meet, in words. Of several `when`, only the first unmet one.
    pub unmet: Vec<String>,
}

/// Explains the decision about a request.
pub fn explain(policies: &PolicySet, request: &PolicyRequest, requested: &RequestedConfinement) -> Explanation {
    let decision = policies.decide(request);
    let mut determining = Vec::new();
    let mut nearest = Vec::new();
    if let Ok(facts) = Facts::new(request, &policies.vocabulary, (&policies.types, &policies.schema)) {
        for resource in resources(request) {
            let Ok(question) = facts.about(resource) else { continue };
            let words = in_words(resource);
            let described = |policy: &Policy| ExplainedPolicy::new(policy, &words, conditions(policy, &question));
            let own = policies.cedar.policies().filter(|policy| decision.policies.contains(&policy.id().to_string()));
            determining.extend(own.map(described).filter(|policy| policy.unmet.is_empty()));
            if matches!(&decision.outcome, PolicyOutcome::Denied(Denial::NoPermit { resource }) if *resource == words) {
                let permits = policies.cedar.policies().filter(|policy| policy.effect() == Effect::Permit);
                nearest.extend(permits.map(described));
            }
        }
    }
    determining.sort_by(|one, other| one.policy.cmp(&other.policy));
    nearest.sort_by(|one, other| (one.unmet.len(), &one.policy).cmp(&(other.unmet.len(), &other.policy)));
    nearest.truncate(MAX_NEAREST);
    let confinement = decision.obligations().map(|obligations| obligations.apply(requested));
    let principal = request.principal.id();
    Explanation { request: format!("{} by {principal}", request.capability), decision, determining, confinement, nearest }
}

impl ExplainedPolicy {
    fn new(policy: &Policy, resource: &str, conditions: Vec<Condition>) -> Self {
        let (met, unmet): (Vec<_>, Vec<_>) = conditions.into_iter().partition(|condition| condition.is_met);
        let words = |conditions: Vec<Condition>| conditions.into_iter().map(|condition| condition.words).collect();
        Self {
            policy: policy.id().to_string(),
            description: policy.annotation("description").map(str::to_owned),
            resource: resource.to_owned(),
            met: words(met),
            unmet: words(unmet),
        }
    }

    fn to_json(&self) -> Value {
        let Self { policy, description, resource, met, unmet } = self;
        json!({ "policy": policy, "description": description, "resource": resource, "met": met, "unmet": unmet })
    }
}

impl Explanation {
    /// Returns true if the request is permitted, and requests nothing in excess.
    pub fn is_permitted(&self) -> bool {
        matches!(self.confinement, Some(Ok(_)))
    }

    /// Returns the explanation as a JSON object (`docs/json.md`).
    pub fn to_json(&self) -> Value {
        let excess = match &self.confinement {
            Some(Err(Excess(items))) => items.as_slice(),
            _ => &[],
        };
        let excess = excess
            .iter()
            .map(|item| json!({ "annotation": item.annotation, "requested": item.requested, "permitted": item.permitted }));
        let mut object = self.decision.to_json();
        object["excess"] = excess.collect();
        object["determining"] = self.determining.iter().map(ExplainedPolicy::to_json).collect();
        object["nearest"] = self.nearest.iter().map(ExplainedPolicy::to_json).collect();
        object
    }

    fn fmt_permitted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.decision.obligations().into_iter().flat_map(|obligations| obligations.annotations()) {
            let value = if value.is_empty() { "nothing" } else { value.as_str() };
            writeln!(f, "  at most: {name} {value}")?;
        }
        match &self.confinement {
            Some(Err(excess)) => writeln!(f, "request exceeds the policies: {excess} — request less, or change the policies"),
            _ => Ok(()),
        }
    }

    fn fmt_denied(&self, f: &mut fmt::Formatter<'_>, denial: &Denial) -> fmt::Result {
        match denial {
            Denial::NoPermit { .. } if self.nearest.is_empty() => writeln!(f, "to permit it: write a permit"),
            Denial::NoPermit { .. } => {
                for near in &self.nearest {
                    writeln!(f, "policy {} would permit it for {} if:", near.policy, near.resource)?;
                    near.unmet.iter().try_for_each(|unmet| writeln!(f, "  {unmet}"))?;
                }
                Ok(())
            }
            Denial::Forbidden { .. } => {
                writeln!(f, "to permit it: change the forbid, or the request; no permit overrides a forbid")
            }
            Denial::Failed(_) => writeln!(f, "to permit it: correct the policies that fail; a policy that fails denies"),
            Denial::NoBackend => writeln!(f, "to permit it: let the policies above name a common backend (@backend)"),
            Denial::UnknownCapability(_) | Denial::Invalid(_) => writeln!(f, "to permit it: correct the request"),
        }
    }
}

/// The explanation in words, in several lines.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decision.outcome {
            PolicyOutcome::Permitted(_) if self.is_permitted() => writeln!(f, "permitted: {}", self.request)?,
            PolicyOutcome::Permitted(_) => writeln!(f, "refused: {}", self.request)?,
            PolicyOutcome::Denied(denial) => writeln!(f, "denied: {}: {denial}", self.request)?,
        }
        for policy in &self.determining {
            write!(f, "policy {} applies to {}", policy.policy, policy.resource)?;
            match &policy.description {
                Some(description) => writeln!(f, ": {description}")?,
                None => writeln!(f)?,
            }
            policy.met.iter().try_for_each(|met| writeln!(f, "  {met}"))?;
        }
        match &self.decision.outcome {
            PolicyOutcome::Permitted(_) => self.fmt_permitted(f),
            PolicyOutcome::Denied(denial) => self.fmt_denied(f, denial),
        }
    }
}
