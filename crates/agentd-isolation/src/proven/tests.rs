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

/// Writes the proof of `backend` under the current conditions.
fn write(folder: &Path, backend: &str, content: &[u8]) {
    let path = folder.join(file(backend, &key::digest(backend, &std::env::temp_dir(), &[]).unwrap()));
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
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
        // A file written by hand is not read either.
        for backend in [name, ContainerBackend::NAME] {
            write(folder.path(), backend, &serde_json::to_vec(&claims).unwrap());
        }
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
    write(folder.path(), name, &serde_json::to_vec(&claims).unwrap());
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
        assert_eq!(kept(&one), matches!(claim, Claim::Resources | Claim::Egress), "{claim}");
    }
}

#[test]
fn damaged_proof_file_is_ignored_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), ContainerBackend::NAME, b"{");
    assert_eq!(proofs(folder.path()).get(ContainerBackend::NAME), None);
    proofs(folder.path()).keep(&proven(ContainerBackend::NAME, EvidenceResult::Held));
    assert!(proofs(folder.path()).get(ContainerBackend::NAME).is_some());
}

#[test]
fn stored_proofs_over_limit_drop_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let opened = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
    let held = proven(ContainerBackend::NAME, EvidenceResult::Held);
    // A proof of another backend, and a file that is not a proof.
    proofs(folder.path()).keep(&proven(LinuxNativeBackend::NAME, EvidenceResult::Held));
    std::fs::write(folder.path().join("proven-container-x.json"), "").unwrap();
    // Later proofs have earlier names.
    let name = |number: usize| file(ContainerBackend::NAME, &format!("{:04x}", 0xffff - number));
    for number in 0..MAX_PROOFS + 3 {
        store(&opened, &format!("{:04x}", 0xffff - number), &held).unwrap();
        // Two proofs could have the same time otherwise.
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
        std::fs::File::open(folder.path().join(name(number))).unwrap().set_modified(time).unwrap();
    }
    let mut kept = stored(&opened, ContainerBackend::NAME).unwrap();
    kept.sort();
    let kept: Vec<String> = kept.into_iter().map(|(_, name)| name).collect();
    assert_eq!(kept, (3..MAX_PROOFS + 3).map(name).collect::<Vec<_>>());
    assert!(folder.path().join("proven-container-x.json").exists());
    assert!(proofs(folder.path()).get(LinuxNativeBackend::NAME).is_some());
}
