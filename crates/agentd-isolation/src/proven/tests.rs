//! Tests of the stored results of probes.

use super::*;
use crate::{ContainerBackend, HostDirectBackend, LinuxNativeBackend};
use agentd_core::{Claim, Evidence, EvidenceResult};

fn nothing(_: &Path) -> Vec<PathBuf> {
    Vec::new()
}

fn proofs(folder: &Path) -> Proofs {
    let kept = [LinuxNativeBackend::NAME, ContainerBackend::NAME].map(|name| (name.to_owned(), nothing as ProofFiles));
    Proofs::within(std::fs::File::open(folder).unwrap().into(), kept.to_vec())
}

fn proven(name: &str, result: EvidenceResult) -> BackendCapabilities {
    let evidence =
        Claim::ALL.map(|claim| Evidence { claim, check: "a".to_owned(), result: result.clone(), remedy: String::new() });
    BackendCapabilities { snapshots: true, ..BackendCapabilities::from_evidence(name, evidence.to_vec()) }
}

#[test]
fn stored_proof_is_returned_until_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let written = proven(ContainerBackend::NAME, EvidenceResult::Held);
    proofs(folder.path()).keep(&written);
    assert_eq!(proofs(folder.path()).get(ContainerBackend::NAME), Some(written));
    assert_eq!(proofs(folder.path()).get(LinuxNativeBackend::NAME), None);
    let elsewhere = Proofs { work_root: "/elsewhere".into(), ..proofs(folder.path()) };
    assert_eq!(elsewhere.get(ContainerBackend::NAME), None);
    proofs(folder.path()).forget(ContainerBackend::NAME);
    assert_eq!(proofs(folder.path()).get(ContainerBackend::NAME), None);
}

#[test]
fn proof_of_unbounded_or_external_backend_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    for name in [HostDirectBackend::NAME, "mine"] {
        let claims = proven(name, EvidenceResult::Held);
        proofs(folder.path()).keep(&claims);
        // An entry in a file written by hand is not returned either.
        let entry = KeptProof { key: key::digest(name, &std::env::temp_dir(), &[]).unwrap(), proven: claims };
        std::fs::write(folder.path().join(file(name)), serde_json::to_vec(&[&entry]).unwrap()).unwrap();
        std::fs::write(folder.path().join(file(ContainerBackend::NAME)), serde_json::to_vec(&[entry]).unwrap()).unwrap();
        assert_eq!(proofs(folder.path()).get(name), None);
        assert_eq!(proofs(folder.path()).get(ContainerBackend::NAME), None);
    }
}

#[test]
fn stored_claims_without_evidence_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let name = ContainerBackend::NAME;
    let claims = BackendCapabilities { evidence: Vec::new(), ..proven(name, EvidenceResult::Held) };
    assert!(claims.score() > 0);
    let entry = KeptProof { key: key::digest(name, &std::env::temp_dir(), &[]).unwrap(), proven: claims };
    std::fs::write(folder.path().join(file(name)), serde_json::to_vec(&[entry]).unwrap()).unwrap();
    std::fs::set_permissions(folder.path().join(file(name)), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(proofs(folder.path()).get(name).unwrap().score(), 0);
}

#[test]
fn probe_that_failed_or_was_not_completed_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |results: &dyn Fn(Claim) -> EvidenceResult| {
        let evidence = |claim| Evidence { claim, check: "a".to_owned(), result: results(claim), remedy: String::new() };
        let name = ContainerBackend::NAME;
        proofs(folder.path()).forget(name);
        proofs(folder.path()).keep(&BackendCapabilities::from_evidence(name, Claim::ALL.map(evidence).to_vec()));
        proofs(folder.path()).get(name).is_some()
    };
    let not_tried = || EvidenceResult::NotTried("no memory".to_owned());
    assert!(!kept(&|_| not_tried()));
    assert!(!kept(&|_| EvidenceResult::Broken("how".to_owned())));
    for claim in Claim::ALL {
        let one = |of| if of == claim { not_tried() } else { EvidenceResult::Held };
        assert_eq!(kept(&one), claim == Claim::Resources, "{claim}");
    }
}

#[test]
fn damaged_proof_file_is_ignored_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file(ContainerBackend::NAME)), "[{").unwrap();
    assert_eq!(proofs(folder.path()).get(ContainerBackend::NAME), None);
    proofs(folder.path()).keep(&proven(ContainerBackend::NAME, EvidenceResult::Held));
    assert!(proofs(folder.path()).get(ContainerBackend::NAME).is_some());
}

#[test]
fn stored_proofs_over_limit_drop_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let all = proofs(folder.path());
    for number in 0..MAX_ENTRIES + 3 {
        all.change(ContainerBackend::NAME, &number.to_string(), Some(proven(ContainerBackend::NAME, EvidenceResult::Held)));
    }
    let keys: Vec<String> = all.entries(ContainerBackend::NAME).into_iter().map(|entry| entry.key).collect();
    assert_eq!((keys.len(), keys[0].as_str()), (MAX_ENTRIES, "3"));
}
