//! The decision about a request.

use crate::obligations::Obligations;
use serde_json::{Value, json};
use std::fmt;

/// The decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDecision {
    /// Whether the request is permitted.
    pub outcome: PolicyOutcome,
    /// The `@id` of each policy that determined the decision, sorted: the permits, the forbids, or the policies that failed.
    pub policies: Vec<String>,
}

/// Whether a request is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyOutcome {
    /// The request is permitted within the obligations.
    Permitted(Box<Obligations>),
    /// The request is denied.
    Denied(Denial),
}

/// The reason why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// No policy permits the request for this resource.
    NoPermit {
        /// The resource, in words.
        resource: String,
    },
    /// Policies forbid the request.
    Forbidden {
        /// The resource, in words.
        resource: String,
        /// The `@reason` of each forbid that has one.
        reasons: Vec<String>,
    },
    /// Policies could not be evaluated: the text of each error.
    Failed(Vec<String>),
    /// No backend satisfies all policies that permit the request.
    NoBackend,
    /// The capability is unknown.
    UnknownCapability(String),
    /// The request does not have the form that policies expect: the reason.
    Invalid(String),
}

impl PolicyDecision {
    /// Returns true if the request is permitted.
    pub fn is_permitted(&self) -> bool {
        matches!(self.outcome, PolicyOutcome::Permitted(_))
    }

    /// Returns the obligations of a permitted request.
    pub fn obligations(&self) -> Option<&Obligations> {
        match &self.outcome {
            PolicyOutcome::Permitted(obligations) => Some(obligations),
            PolicyOutcome::Denied(_) => None,
        }
    }

    /// Returns the decision as a JSON object (`docs/json.md`).
    pub fn to_json(&self) -> Value {
        let denial = match &self.outcome {
            PolicyOutcome::Permitted(_) => None,
            PolicyOutcome::Denied(denial) => Some(denial),
        };
        json!({
            "permitted": self.is_permitted(),
            "policies": self.policies,
            "denial": denial.map(Denial::word),
            "reason": denial.map(ToString::to_string),
            "obligations": self.obligations().map(Obligations::to_json),
        })
    }
}

impl Denial {
    /// Returns the word for the kind of denial.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoPermit { .. } => "no-permit",
            Self::Forbidden { .. } => "forbidden",
            Self::Failed(_) => "failed",
            Self::NoBackend => "no-backend",
            Self::UnknownCapability(_) => "unknown-capability",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermit { resource } => write!(f, "no policy permits it for {resource}"),
            Self::Forbidden { resource, reasons } => {
                write!(f, "forbidden for {resource}")?;
                reasons.iter().try_for_each(|reason| write!(f, ": {reason}"))
            }
            Self::Failed(errors) => write!(f, "policies could not be evaluated: {}", errors.join("; ")),
            Self::NoBackend => f.write_str("no backend satisfies all policies that permit it"),
            Self::UnknownCapability(name) => write!(f, "the capability {name:?} is unknown"),
            Self::Invalid(reason) => write!(f, "the request does not have the form that policies expect: {reason}"),
        }
    }
}

/// The difference between the enforced decision and that of a shadow set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowDifference {
    /// The decision that was enforced.
    pub enforced: PolicyDecision,
    /// The decision of the shadow set.
    pub shadow: PolicyDecision,
}

impl ShadowDifference {
    /// Returns the difference; `None` if both decisions permit the same, or both deny. The policies that determined them may
    /// differ.
    pub fn between(enforced: &PolicyDecision, shadow: &PolicyDecision) -> Option<Self> {
        let same = match (&enforced.outcome, &shadow.outcome) {
            (PolicyOutcome::Permitted(one), PolicyOutcome::Permitted(other)) => one == other,
            (PolicyOutcome::Denied(_), PolicyOutcome::Denied(_)) => true,
            _ => false,
        };
        (!same).then(|| Self { enforced: enforced.clone(), shadow: shadow.clone() })
    }
}
