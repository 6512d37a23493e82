//! Tests of leaves.

use super::*;
use crate::label::MAX_LABEL;

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
