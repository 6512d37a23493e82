//! The leaves of the audit log. A leaf is one event as canonical JSON. It contains names and digests, and no parameters, file
//! contents or secrets.

use crate::{
    digest::ContentDigest,
    json::{self, JsonError},
    label::Label,
    tile::MAX_ENTRY,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The newest version of the form of leaves. A leaf has the version in which its event was added, so that older programs read all
/// other leaves.
const VERSION: u64 = 3;

/// One event at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// The version of this form.
    v: u64,
    /// The time of the event.
    pub time: Timestamp,
    /// The event.
    pub event: AuditEvent,
}

/// An event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AuditEvent {
    /// A principal requests the use of a capability.
    Intent {
        /// The identifier of the intent.
        id: Label,
        /// The user or service that makes the request.
        principal: Label,
        /// The transport through which the request came.
        source: Label,
        /// The capability.
        capability: Label,
        /// The digest of the whole intent. The intent contains a random number.
        intent: ContentDigest,
        /// The digest of the idempotency key.
        idempotency_key: Option<ContentDigest>,
    },
    /// The policy allows or denies an intent.
    Decision {
        /// The identifier of the intent.
        id: Label,
        /// The digest of the intent.
        intent: ContentDigest,
        /// True if the intent may be executed.
        allowed: bool,
        /// The policies that determined the decision.
        policies: Vec<Label>,
        /// The digest of the set of policies.
        policy_set: ContentDigest,
        /// The obligations, by name.
        obligations: BTreeMap<Label, Label>,
    },
    /// The shadow policies would decide otherwise about an intent. Their decision does not hold.
    ShadowDecision {
        /// The identifier of the intent.
        id: Label,
        /// The digest of the intent.
        intent: ContentDigest,
        /// True if the shadow policies permit the intent.
        allowed: bool,
        /// The policies that determined the decision.
        policies: Vec<Label>,
        /// The digest of the shadow set.
        policy_set: ContentDigest,
        /// The obligations, by name.
        obligations: BTreeMap<Label, Label>,
    },
    /// An intent has ended.
    Outcome {
        /// The identifier of the intent.
        id: Label,
        /// The digest of the intent.
        intent: ContentDigest,
        /// The reason for the end.
        reason: Label,
        /// The exit code of the command.
        exit_code: Option<i32>,
        /// The number of the signal that ended the command.
        signal: Option<i32>,
        /// The digest of the receipt.
        receipt: Option<ContentDigest>,
    },
    /// A user approves or rejects an intent that waits for an approval.
    Approval {
        /// The identifier of the intent.
        id: Label,
        /// The digest of the intent that was shown to the approver.
        intent: ContentDigest,
        /// The user who decides.
        approver: Label,
        /// True if the intent is approved.
        approved: bool,
    },
    /// A user approves or rejects connections of a sandbox to a host.
    HostApproval {
        /// The identifier of the request.
        id: Label,
        /// The digest of the text that was shown to the approver.
        intent: ContentDigest,
        /// The destination, as HOST:PORT.
        destination: Label,
        /// The network grant, or its digest if it is too long for a label.
        grant: Label,
        /// The user who decides.
        approver: Label,
        /// True if the connections are approved.
        approved: bool,
    },
    /// A set of policies was replaced.
    PolicyChange {
        /// The user who replaced the set.
        principal: Label,
        /// The name of the set.
        set: Label,
        /// The digest of the set before; `None` if there was none.
        before: Option<ContentDigest>,
        /// The digest of the set from now on; `None` if it was removed.
        after: Option<ContentDigest>,
    },
    /// An administrator changes agentd itself.
    Administrative {
        /// The user who acts.
        principal: Label,
        /// The name of the action, such as `key-rotated`.
        act: Label,
        /// The details of the action, by name.
        details: BTreeMap<Label, Label>,
    },
}

/// The reason why a leaf is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// The leaf is not canonical JSON, or has other members.
    #[error("leaf: {0} — restore the log from a backup")]
    Json(#[from] JsonError),
    /// The leaf has a version that this program does not know.
    #[error("leaf: version {0} is unknown — use the version of agentd that wrote the log, or a newer one")]
    Version(u64),
    /// The leaf is too long.
    #[error("leaf: {0} bytes are more than the 65,535 of an entry — shorten its labels")]
    TooLong(usize),
}

impl Leaf {
    /// Returns the leaf of an event at `time`.
    pub fn new(time: Timestamp, event: AuditEvent) -> Self {
        Self { v: event.version(), time, event }
    }

    /// Returns the bytes of the leaf.
    ///
    /// # Errors
    /// [`LeafError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, LeafError> {
        let bytes = json::canonical(self)?.into_bytes();
        if bytes.len() > MAX_ENTRY { Err(LeafError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// Parses the bytes of a leaf.
    ///
    /// # Errors
    /// [`LeafError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > MAX_ENTRY {
            return Err(LeafError::TooLong(bytes.len()));
        }
        let value: Value = json::parse_canonical(bytes)?;
        // The version determines the form of the rest.
        match value.get("v").and_then(Value::as_u64) {
            Some(version) if !(1..=VERSION).contains(&version) => Err(LeafError::Version(version)),
            _ => {
                let leaf: Self = serde_json::from_value(value).map_err(JsonError::from)?;
                if leaf.v == leaf.event.version() { Ok(leaf) } else { Err(LeafError::Version(leaf.v)) }
            }
        }
    }
}

impl AuditEvent {
    /// Returns the name of the kind of event, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Intent { .. } => "intent",
            Self::Decision { .. } => "decision",
            Self::ShadowDecision { .. } => "shadow-decision",
            Self::Outcome { .. } => "outcome",
            Self::Approval { .. } => "approval",
            Self::HostApproval { .. } => "host-approval",
            Self::PolicyChange { .. } => "policy-change",
            Self::Administrative { .. } => "administrative",
        }
    }

    /// Returns the version in which the event was added.
    fn version(&self) -> u64 {
        match self {
            Self::ShadowDecision { .. } => 2,
            Self::HostApproval { .. } => 3,
            _ => 1,
        }
    }
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
pub(crate) mod tests;
