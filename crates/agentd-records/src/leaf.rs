//! The leaves of the audit log. A leaf is one event as canonical JSON. It contains names and digests, and no parameters, file
//! contents or secrets.

use crate::{
    digest::ContentDigest,
    json::{self, JsonError},
    tile::MAX_ENTRY,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// The newest version of the form of leaves. A leaf has the version in which its event was added, so that older programs read all
/// other leaves.
const VERSION: u64 = 3;

/// The maximum length of a label in bytes.
const MAX_LABEL: usize = 512;

/// A short text without control characters: a name, an identifier, a reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Label(String);

/// The text is not a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a label has 1 to 512 bytes and no control characters")]
pub struct InvalidLabel;

impl TryFrom<String> for Label {
    type Error = InvalidLabel;

    fn try_from(text: String) -> Result<Self, InvalidLabel> {
        let good = !text.is_empty() && text.len() <= MAX_LABEL && !text.contains(char::is_control);
        if good { Ok(Self(text)) } else { Err(InvalidLabel) }
    }
}

impl TryFrom<&str> for Label {
    type Error = InvalidLabel;

    fn try_from(text: &str) -> Result<Self, InvalidLabel> {
        text.to_owned().try_into()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
pub(crate) mod tests {
    use super::*;

    pub(crate) fn label(text: &str) -> Label {
        text.try_into().unwrap()
    }

    /// A leaf of each kind.
    pub(crate) fn leaves() -> Vec<Leaf> {
        let digest = ContentDigest::of(b"content");
        let events = [
            AuditEvent::Intent {
                id: label("i-1"),
                principal: label("uid:1000"),
                source: label("local"),
                capability: label("shell.exec.v1"),
                intent: digest,
                idempotency_key: Some(digest),
            },
            AuditEvent::Decision {
                id: label("i-1"),
                intent: digest,
                allowed: true,
                policies: vec![label("default")],
                policy_set: digest,
                obligations: [(label("profile"), label("strict"))].into(),
            },
            AuditEvent::ShadowDecision {
                id: label("i-1"),
                intent: digest,
                allowed: false,
                policies: Vec::new(),
                policy_set: digest,
                obligations: BTreeMap::new(),
            },
            AuditEvent::Outcome {
                id: label("i-1"),
                intent: digest,
                reason: label("exited"),
                exit_code: Some(-1),
                signal: None,
                receipt: Some(digest),
            },
            AuditEvent::Approval { id: label("i-1"), intent: digest, approver: label("uid:0"), approved: false },
            AuditEvent::HostApproval {
                id: label("i-2"),
                intent: digest,
                destination: label("a.example:443"),
                grant: label("*.example:443/approve"),
                approver: label("uid:0"),
                approved: true,
            },
            AuditEvent::PolicyChange { principal: label("uid:0"), set: label("team"), before: None, after: Some(digest) },
            AuditEvent::Administrative { principal: label("uid:0"), act: label("key-rotated"), details: BTreeMap::new() },
        ];
        let time = "2026-01-31T23:59:59.000000Z".parse().unwrap();
        events.into_iter().map(|event| Leaf::new(time, event)).collect()
    }

    #[test]
    fn leaf_of_each_kind_is_parsed_from_its_bytes() {
        for leaf in leaves() {
            let bytes = leaf.to_bytes().unwrap();
            assert!(String::from_utf8(bytes.clone()).unwrap().contains(&format!("{{\"event\":{{\"{}\":{{", leaf.event.kind())));
            assert_eq!(Leaf::parse(&bytes).unwrap(), leaf);
        }
    }

    #[test]
    fn form_of_a_leaf_does_not_change() {
        // Logs contain this text: another form needs another version.
        let expected = "{\"event\":{\"administrative\":{\"act\":\"key-rotated\",\"details\":{},\"principal\":\"uid:0\"}},\
            \"time\":\"2026-01-31T23:59:59.000000Z\",\"v\":1}";
        assert_eq!(String::from_utf8(leaves().pop().unwrap().to_bytes().unwrap()).unwrap(), expected);
    }

    #[test]
    fn event_that_was_added_later_has_a_later_version() {
        let added = [("shadow-decision", 2), ("host-approval", 3)];
        for leaf in leaves() {
            let version = added.iter().find(|(kind, _)| *kind == leaf.event.kind()).map_or(1, |(_, version)| *version);
            let text = String::from_utf8(leaf.to_bytes().unwrap()).unwrap();
            let of_version = |version: u64| text.replace(&format!("\"v\":{}", leaf.v), &format!("\"v\":{version}"));
            assert_eq!(text, of_version(version), "{text}");
            for other in (1..=VERSION).filter(|other| *other != version) {
                let refused = Leaf::parse(of_version(other).as_bytes());
                assert!(matches!(refused, Err(LeafError::Version(found)) if found == other), "{text}");
            }
        }
    }

    #[test]
    fn unknown_version_unknown_field_and_other_forms_are_refused() {
        let good = String::from_utf8(leaves().pop().unwrap().to_bytes().unwrap()).unwrap();
        for version in [2, 3, 4] {
            let other = good.replace("\"v\":1", &format!("\"v\":{version}"));
            assert!(matches!(Leaf::parse(other.as_bytes()), Err(LeafError::Version(found)) if found == version));
        }
        for bad in [
            good.replace("\"v\":1", "\"v\":1,\"w\":1"),
            good.replace("\"details\":{}", "\"details\":{},\"e\":1"),
            good.replace("administrative", "other"),
            good.replace("uid:0", "uid:\\u0030"),
            good.replace("uid:0", "uid:\\n"),
            good.replace("uid:0", ""),
            good.replace("uid:0", &"x".repeat(MAX_LABEL + 1)),
            good.replace(',', ", "),
            String::new(),
        ] {
            assert!(matches!(Leaf::parse(bad.as_bytes()), Err(LeafError::Json(_))), "{bad}");
        }
    }

    #[test]
    fn leaf_that_is_longer_than_an_entry_is_refused() {
        let details = (0..200).map(|n| (label(&format!("{n}")), label(&"x".repeat(MAX_LABEL)))).collect();
        let event = AuditEvent::Administrative { principal: label("a"), act: label("b"), details };
        assert!(matches!(Leaf::new(Timestamp::now(), event).to_bytes(), Err(LeafError::TooLong(_))));
    }
}
