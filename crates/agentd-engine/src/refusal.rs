//! The reasons why an intent is not executed.

use crate::{
    capability::{ArgumentError, UnknownCapability},
    destinations::DestinationRefusal,
    requested_secret::SecretRefusal,
    schema::Violations,
};
use agentd_core::duration;
use agentd_policy::{Denial, Excess};
use agentd_state::{IntentId, Quota, QuotaLimit, QuotaRefusal};
use agentd_tool::error::ToolError;
use serde_json::{Value, json};

/// The reason why an intent is not executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such capability.
    #[error(transparent)]
    UnknownCapability(#[from] UnknownCapability),
    /// The credential of the caller does not permit the capability.
    #[error("{0}: the API key is restricted to other capabilities — create a key with --capability {0}")]
    OutsideScope(String),
    /// The parameters violate the schema.
    #[error("parameters: {0} — `agentd capability show NAME` prints the schema")]
    Parameters(Violations),
    /// A parameter cannot be passed to the program.
    #[error("parameters: {0} — `agentd capability show NAME` prints the schema")]
    Argument(#[from] ArgumentError),
    /// The parameters of an operation on files are refused.
    #[error("{0}")]
    Tool(#[from] ToolError),
    /// The operation works in a workspace, and the caller names none.
    #[error("workspace: the capability works in a directory, and the request names none — name one (--workspace DIR)")]
    NoWorkspace,
    /// The capability does not run as a command, so it cannot be used in a named sandbox.
    #[error("sandbox: {0} does not run a command — leave the sandbox out, or use a capability that runs a command")]
    NotInSandbox(String),
    /// The parameters do not describe an operation on a sandbox, or the request has options that a named sandbox does not accept.
    #[error("{0}")]
    OfSandbox(String),
    /// The sandbox has more than capability and policies permit now.
    #[error("sandbox: {0} — create another sandbox, which has no more than policies permit")]
    SandboxExceeds(String),
    /// The hosts that the intent would reach are refused.
    #[error(transparent)]
    Destination(#[from] DestinationRefusal),
    /// A secret cannot be requested.
    #[error(transparent)]
    Secret(#[from] SecretRefusal),
    /// The key belongs to another intent.
    #[error("idempotency key: the intent {0} has this key and different content — use another key for another request")]
    Conflict(IntentId),
    /// The policies deny the intent.
    #[error("denied: {denial}{} — `agentd policy explain` states what would have to change", by(.policies))]
    Denied {
        /// The cause.
        denial: Denial,
        /// The policies that determined the decision.
        policies: Vec<String>,
    },
    /// The caller requests a backend that does not exist, or has no boundary.
    #[error("backend {name:?}: it does not exist or has no boundary — use one of {usable}")]
    Backend {
        /// The requested name.
        name: String,
        /// The names of the backends with a boundary.
        usable: String,
    },
    /// The caller requests more than the policies permit.
    #[error("request exceeds the policies: {0} — request less, or change the policies")]
    Excess(Excess),
    /// The caller requests more than the capability has for every caller.
    #[error("request exceeds the capability: {0} — request less (`agentd capability show {1}` prints its bounds)")]
    CapabilityExcess(Excess, String),
    /// The caller requests more than the quota of an intent.
    #[error("request exceeds the quota: {0} — request less (`agentd quota show` prints the quotas)")]
    QuotaExcess(Excess),
    /// The session has more than capability, policies and caller permit now.
    #[error("session: {0} — request the same as for the first cell, or use another session")]
    Session(String),
    /// No backend satisfies capability and policies.
    #[error("no backend satisfies capability and policies — `agentd policy explain` names the policies")]
    NoBackend,
    /// The intent would exceed a quota.
    #[error("quota: {}", quota(.0))]
    Quota(QuotaRefusal),
    /// A user has denied the intent.
    #[error("{0} has denied the intent — ask the approver for the reason")]
    NotApproved(String),
    /// No user approved the intent in time.
    #[error("no user approved the intent in time — send the request again, and approve it with `agentd approve ID`")]
    Expired,
    /// The caller has cancelled the intent before it was executed.
    #[error("the caller has cancelled the intent before it was executed")]
    Cancelled,
}

impl From<Violations> for Refusal {
    fn from(violations: Violations) -> Self {
        Self::Parameters(violations)
    }
}

impl Refusal {
    /// Returns the word for the kind of refusal, as records contain it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::UnknownCapability(_) => "unknown-capability",
            Self::OutsideScope(_) => "outside-scope",
            Self::Parameters(_) | Self::Argument(_) | Self::Tool(_) | Self::Secret(_) => "invalid-parameters",
            Self::NoWorkspace
            | Self::NotInSandbox(_)
            | Self::OfSandbox(_)
            | Self::Destination(DestinationRefusal::Url(_) | DestinationRefusal::Host(_)) => "invalid-parameters",
            Self::Destination(_) => "invalid-network",
            Self::Conflict(_) => "key-conflict",
            Self::Denied { .. } => "denied",
            Self::Backend { .. } | Self::NoBackend | Self::Session(_) | Self::SandboxExceeds(_) => "exceeds-policy",
            Self::Excess(_) | Self::CapabilityExcess(..) | Self::QuotaExcess(_) => "exceeds-policy",
            Self::Quota(_) => "quota-exceeded",
            Self::NotApproved(_) => "not-approved",
            Self::Expired => "approval-expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns the refusal as a JSON object.
    pub fn to_json(&self) -> Value {
        let mut object = json!({ "code": self.word(), "message": self.to_string() });
        match self {
            Self::Parameters(violations) => object["violations"] = json!(violations.list),
            Self::Argument(error) => object["violations"] = json!([{ "pointer": error.pointer, "message": error.reason }]),
            Self::Quota(refusal) => {
                object["retry_after_ms"] = u64::try_from(refusal.exceeded.retry_after.as_millis()).unwrap_or(u64::MAX).into();
            }
            _ => {}
        }
        object
    }
}

fn by(policies: &[String]) -> String {
    if policies.is_empty() { String::new() } else { format!(" (policies: {})", policies.join(", ")) }
}

fn quota(refusal: &QuotaRefusal) -> String {
    let QuotaRefusal { account, quota, waiting, exceeded } = refusal;
    let limit = match (exceeded.limit, quota) {
        (QuotaLimit::Rate, Quota { rate: Some(rate), .. }) => {
            format!("the rate of {} in {} is exceeded", rate.intents, duration::text(rate.interval))
        }
        (QuotaLimit::Concurrency, Quota { concurrency: Some(most), .. }) => {
            format!("as many requests are executed at the same time as the limit permits, {most}")
        }
        (QuotaLimit::CpuPerDay, Quota { cpu_per_day: Some(most), .. }) => {
            format!("the processor time of a day, {}, is used up or reserved", duration::text(*most))
        }
        (QuotaLimit::Waiting, _) => format!("as many requests wait as the limit permits, {waiting}"),
        (QuotaLimit::Turn, _) => "other requests that wait begin first".to_owned(),
        _ => "a limit is reached".to_owned(),
    };
    let seconds = exceeded.retry_after.as_secs_f64().ceil();
    format!("{account}: {limit} — try again in {seconds} s; `agentd quota show` prints limits and use")
}
