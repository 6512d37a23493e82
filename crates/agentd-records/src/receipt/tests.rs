use super::*;
use crate::{
    checkpoint::Checkpoint,
    leaf::tests::label,
    merkle::Hash,
    note::{NoteError, SignedNote, VerifierKey},
};
use data_encoding::BASE64;
use serde_json::{Value, json};

const FROM: &str = "2026-01-01T00:00:00.000000Z";
const START: &str = "2026-01-02T00:00:00.000000Z";
const END: &str = "2026-01-02T00:00:01.000000Z";

pub(crate) fn signer() -> Signer {
    Signer::new("agentd/test", &[1; 32]).unwrap()
}

pub(crate) fn ring() -> KeyRing {
    ring_of(signer().verifier(), FROM)
}

fn ring_of(key: &VerifierKey, times: &str) -> KeyRing {
    KeyRing::parse(format!("{key} {times}\n").as_bytes()).unwrap()
}

pub(crate) fn receipt() -> Receipt {
    let flow = RecordedFlow {
        to: "a.example:443".to_owned(),
        allowed: true,
        reason: Some("a.example".to_owned()),
        flows: 2,
        sent: 100,
        received: 2000,
    };
    Receipt {
        version: label("0.1.0"),
        principal: label("uid:1000"),
        capability: label("shell.exec.v1"),
        intent: ContentDigest::of(b"intent"),
        decision: ReceiptDecision { allowed: true, policies: vec![label("default")] },
        started: START.parse().unwrap(),
        finished: END.parse().unwrap(),
        backend: Some(label("linux-native")),
        probed: true,
        controls: vec![
            RecordedControl { control: label("seccomp"), status: RecordedStatus::Enforced, detail: "default".to_owned() },
            RecordedControl { control: label("cgroup"), status: RecordedStatus::Missing, detail: "no group".to_owned() },
        ],
        evidence: vec![
            RecordedEvidence { claim: label("filesystem"), check: label("a1_read"), held: true },
            RecordedEvidence { claim: label("resources"), check: label("a9_memory"), held: false },
        ],
        limits: [(label("wall_us"), 30_000_000)].into(),
        usage: [(label("wall_us"), 1000)].into(),
        egress: Some(RecordedEgress { flows: vec![flow], omitted: 3 }),
        outcome: RecordedOutcome { reason: label("exited"), exit_code: Some(0), signal: None },
    }
}

pub(crate) fn signed() -> String {
    sign(receipt(), vec![Subject::new("stdout", ContentDigest::of(b"out"))], &signer()).unwrap()
}

fn now() -> Timestamp {
    END.parse().unwrap()
}

fn refusal(text: &str) -> ReceiptError {
    verify(text.as_bytes(), &ring(), now()).unwrap_err()
}

/// Changes the payload of a receipt, and signs it again.
fn resigned(change: impl FnOnce(&mut Value)) -> String {
    let mut envelope: Value = serde_json::from_str(&signed()).unwrap();
    let mut payload: Value =
        serde_json::from_slice(&BASE64.decode(envelope["payload"].as_str().unwrap().as_bytes()).unwrap()).unwrap();
    change(&mut payload);
    resigned_bytes(&mut envelope, json::canonical(&payload).unwrap().as_bytes())
}

fn resigned_bytes(envelope: &mut Value, payload: &[u8]) -> String {
    *envelope = serde_json::to_value(Envelope::sign(payload, &signer())).unwrap();
    envelope.to_string()
}

#[test]
fn receipt_is_verified_and_explained() {
    let verified = verify(signed().as_bytes(), &ring(), now()).unwrap();
    assert_eq!(verified.receipt, receipt());
    let words = verified.to_string();
    for line in [
        "signed by agentd/test+",
        "uid:1000 used shell.exec.v1 from 2026-01-02T00:00:00.000000Z to 2026-01-02T00:00:01.000000Z\n",
        "decision: allowed, by default\n",
        "executed in a sandbox of linux-native\n",
        "control seccomp: enforced: default\n",
        "control cgroup: NOT ENFORCED: no group\n",
        "attacks before the start: 1 failed, as expected; 1 succeeded or were not tried\n",
        "not proven: resources: a9_memory\n",
        "limit wall_us: 30000000\n",
        "network: a.example:443 allowed: 2 flows, 100 bytes sent, 2000 received (a.example)\n",
        "network: 3 further flows are not listed\n",
        "ended: exited, exit code 0\n",
        "stdout: sha256 ",
    ] {
        assert!(words.contains(line), "{line}: {words}");
    }
}

#[test]
fn signature_is_that_of_the_pre_authentication_encoding() {
    // The encoding of <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>, written out.
    let envelope: Value = serde_json::from_str(&signed()).unwrap();
    let decode = |value: &Value| BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let payload = decode(&envelope["payload"]);
    let message = [format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len()).as_bytes(), &payload].concat();
    assert!(signer().verifier().has_signed(&message, &decode(&envelope["signatures"][0]["sig"])));
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "urn:agentd:receipt:v1");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], ContentDigest::of(b"out").to_string());
}

#[test]
fn key_must_be_known_and_in_use_at_the_time_of_the_receipt() {
    let check = |ring: &KeyRing, now: Timestamp| verify(signed().as_bytes(), ring, now).unwrap_err();
    let other = Signer::new("agentd/test", &[2; 32]).unwrap();
    assert!(matches!(check(&ring_of(other.verifier(), FROM), now()), ReceiptError::UnknownKey(_)));
    let own = signer();
    let early = format!("{FROM} {START}");
    assert!(matches!(
        check(&ring_of(own.verifier(), &early), now()),
        ReceiptError::Key { source: KeyNotInUse::Retired { .. }, .. }
    ));
    let late = "2026-01-03T00:00:00.000000Z";
    assert!(matches!(check(&ring_of(own.verifier(), late), now()), ReceiptError::Key { source: KeyNotInUse::Early { .. }, .. }));
    assert!(matches!(check(&ring(), FROM.parse().unwrap()), ReceiptError::Future { .. }));
    let until_end = ring_of(own.verifier(), &format!("{FROM} {END}"));
    assert!(verify(signed().as_bytes(), &until_end, now()).is_ok());
}

#[test]
fn malformed_envelope_is_refused() {
    let good = signed();
    let mut value: Value = serde_json::from_str(&good).unwrap();
    let change = |change: &dyn Fn(&mut Value)| {
        let mut changed = value.clone();
        change(&mut changed);
        refusal(&changed.to_string())
    };
    let sig = value["signatures"][0]["sig"].as_str().unwrap().to_owned();
    assert!(matches!(change(&|v| v["payloadType"] = json!("text/plain")), ReceiptError::PayloadType(_)));
    assert!(matches!(change(&|v| v["signatures"] = json!([])), ReceiptError::Signatures(0)));
    assert!(matches!(
        change(&|v| v["signatures"] = json!([v["signatures"][0], v["signatures"][0]])),
        ReceiptError::Signatures(2)
    ));
    assert!(matches!(change(&|v| v["signatures"][0]["keyid"] = json!("")), ReceiptError::UnknownKey(_)));
    assert!(matches!(change(&|v| v["signatures"][0]["sig"] = json!("")), ReceiptError::Signature(_)));
    assert!(matches!(change(&|v| v["more"] = json!(1)), ReceiptError::Envelope(_)));
    assert!(matches!(change(&|v| v["signatures"][0]["cert"] = json!(1)), ReceiptError::Envelope(_)));
    // 64 bytes are 86 digits and two `=`; the last digit has four bits that must be zero.
    let mut loose = sig.into_bytes();
    loose[85] += 1;
    let loose = String::from_utf8(loose).unwrap();
    assert!(matches!(change(&|v| v["signatures"][0]["sig"] = json!(loose)), ReceiptError::Base64("the signature")));
    let two = format!("{}AAAA", value["signatures"][0]["sig"].as_str().unwrap());
    assert!(matches!(change(&|v| v["signatures"][0]["sig"] = json!(two)), ReceiptError::Base64("the signature")));
    let spaced = format!(" {}", value["payload"].as_str().unwrap());
    assert!(matches!(change(&|v| v["payload"] = json!(spaced)), ReceiptError::Base64("the payload")));
    let twice = good.replacen('{', "{\"payload\":\"\",", 1);
    assert!(matches!(refusal(&twice), ReceiptError::Envelope(_)), "{}", refusal(&twice));
    assert!(matches!(refusal("{}"), ReceiptError::Envelope(_)));
    let other = resigned_bytes(&mut value, b"{}");
    assert!(matches!(refusal(&other), ReceiptError::Statement(_)));
}

#[test]
fn malformed_statement_is_refused_although_it_is_signed() {
    assert!(verify(resigned(|_| ()).as_bytes(), &ring(), now()).is_ok());
    let change = |change: &dyn Fn(&mut Value)| refusal(&resigned(change));
    assert!(matches!(change(&|v| v["predicateType"] = json!("urn:agentd:receipt:v2")), ReceiptError::Type(_)));
    assert!(matches!(change(&|v| v["_type"] = json!("https://in-toto.io/Statement/v0.1")), ReceiptError::Type(_)));
    assert!(matches!(change(&|v| v["predicate"]["more"] = json!(1)), ReceiptError::Statement(_)));
    assert!(matches!(change(&|v| v["predicate"]["outcome"]["more"] = json!(1)), ReceiptError::Statement(_)));
    assert!(matches!(change(&|v| v["subject"] = json!([])), ReceiptError::Contradiction(_)));
    assert!(matches!(change(&|v| v["subject"] = json!([v["subject"][0], v["subject"][0]])), ReceiptError::Contradiction(_)));
    assert!(matches!(change(&|v| v["predicate"]["decision"]["allowed"] = json!(false)), ReceiptError::Contradiction(_)));
    assert!(matches!(change(&|v| v["predicate"]["finished"] = json!(FROM)), ReceiptError::Contradiction(_)));
    assert!(matches!(change(&|v| v["predicate"]["backend"] = json!(null)), ReceiptError::Contradiction(_)));
    assert!(matches!(change(&|v| v["predicate"]["probed"] = json!(false)), ReceiptError::Contradiction(_)));
    assert!(matches!(change(&|v| drop(v["predicate"].as_object_mut().unwrap().remove("probed"))), ReceiptError::Statement(_)));
    let mut envelope: Value = serde_json::from_str(&signed()).unwrap();
    let payload = BASE64.decode(envelope["payload"].as_str().unwrap().as_bytes()).unwrap();
    let twice = String::from_utf8(payload.clone()).unwrap().replacen('{', "{\"_type\":\"\",", 1);
    assert!(matches!(refusal(&resigned_bytes(&mut envelope, twice.as_bytes())), ReceiptError::Statement(_)));
    let spaced = [&payload[..], b"\n"].concat();
    assert!(matches!(refusal(&resigned_bytes(&mut envelope, &spaced)), ReceiptError::Statement(JsonError::NotCanonical)));
}

#[test]
fn checkpoint_and_receipt_signatures_are_not_interchangeable() {
    let key = signer();
    let checkpoint = Checkpoint { origin: "agentd/test".to_owned(), size: 1, root: Hash::empty() }.to_string();
    let mut envelope: Value = serde_json::from_str(&signed()).unwrap();
    envelope["payload"] = json!(BASE64.encode(checkpoint.as_bytes()));
    envelope["signatures"][0]["sig"] = json!(BASE64.encode(&key.sign(checkpoint.as_bytes())));
    assert!(matches!(refusal(&envelope.to_string()), ReceiptError::Signature(_)));
    // The same key signs the bytes of the statement itself, without the pre-authentication encoding.
    let good: Value = serde_json::from_str(&signed()).unwrap();
    let payload = BASE64.decode(good["payload"].as_str().unwrap().as_bytes()).unwrap();
    let mut bare = good.clone();
    bare["signatures"][0]["sig"] = json!(BASE64.encode(&key.sign(&payload)));
    assert!(matches!(refusal(&bare.to_string()), ReceiptError::Signature(_)));
    // A note ends with a line end, and the signed bytes of a receipt end with the brace of its statement.
    assert_eq!(payload.last(), Some(&b'}'));
    let signature = BASE64.decode(good["signatures"][0]["sig"].as_str().unwrap().as_bytes()).unwrap();
    let line = BASE64.encode(&[&key.verifier().key_id().id[..], &signature].concat());
    let text = format!("DSSEv1 28 application/vnd.in-toto+json {} {}", payload.len(), String::from_utf8(payload).unwrap());
    let note = SignedNote::parse(format!("{text}\n\n— agentd/test {line}\n").as_bytes()).unwrap();
    assert!(matches!(note.verify(ring().verifiers()), Err(NoteError::Signature(_))));
}

#[test]
fn receipt_of_another_host_with_the_same_name_is_refused() {
    let other = Signer::new("agentd/test", &[2; 32]).unwrap();
    let subjects = vec![Subject::new("stdout", ContentDigest::of(b"out"))];
    let foreign = sign(receipt(), subjects, &other).unwrap();
    assert!(matches!(refusal(&foreign), ReceiptError::UnknownKey(_)));
    // The other host names the key of this one.
    let mut envelope: Value = serde_json::from_str(&foreign).unwrap();
    envelope["signatures"][0]["keyid"] = json!(signer().verifier().key_id().to_string());
    assert!(matches!(refusal(&envelope.to_string()), ReceiptError::Signature(_)));
}

proptest::proptest! {
    /// A change of one bit is found everywhere, except in white space between the parts of the envelope.
    #[test]
    fn every_changed_bit_is_found(at in proptest::prelude::any::<usize>(), bit in 0..8u8) {
        let mut bytes = signed().into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(verified) = verify(&bytes, &ring(), now()) {
            let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            proptest::prop_assert_eq!(parse(&bytes), parse(signed().as_bytes()));
            proptest::prop_assert_eq!(verified.receipt, receipt());
        }
    }
}

#[test]
fn receipt_states_that_backend_was_not_probed() {
    let words = |receipt| {
        let signed = sign(receipt, vec![Subject::new("stdout", ContentDigest::of(b"out"))], &signer()).unwrap();
        verify(signed.as_bytes(), &ring(), now()).unwrap().to_string()
    };
    let line = "attacks before the start: NONE: the backend was selected by name and not probed\n";
    let unprobed = Receipt { probed: false, evidence: Vec::new(), ..receipt() };
    assert!(words(unprobed.clone()).contains(line) && !words(receipt()).contains("NONE"));
    assert!(!words(Receipt { backend: None, controls: Vec::new(), ..unprobed }).contains("attacks before the start"));
}

#[test]
fn receipt_that_would_be_refused_is_not_signed() {
    let subject = || Subject::new("stdout", ContentDigest::of(b""));
    let sign = |receipt, subjects| sign(receipt, subjects, &signer());
    assert!(matches!(sign(receipt(), Vec::new()), Err(ReceiptError::Contradiction(_))));
    assert!(matches!(sign(receipt(), vec![subject(), subject()]), Err(ReceiptError::Contradiction(_))));
    let large = Receipt { limits: [(label("x"), u64::MAX)].into(), ..receipt() };
    assert!(matches!(sign(large, vec![subject()]), Err(ReceiptError::Statement(JsonError::Number(_)))));
    let control = RecordedControl { control: label("x"), status: RecordedStatus::Partial, detail: "x".repeat(MAX_RECEIPT) };
    let long = Receipt { controls: vec![control], ..receipt() };
    assert!(matches!(sign(long, vec![subject()]), Err(ReceiptError::TooLong)));
}
