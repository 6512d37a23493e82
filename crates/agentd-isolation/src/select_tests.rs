use super::*;
use crate::{ContainerBackend, LinuxNativeBackend, registry::BuiltIn};
use agentd_core::{Evidence, EvidenceResult, Sandbox, SandboxId, SandboxSpec, Startup};
use async_trait::async_trait;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

/// The name of a backend whose sandboxes start in seconds.
const MACHINE: &str = "machine";

/// The name of a backend whose sandboxes start in milliseconds, registered after [`MACHINE`].
const FASTER: &str = "faster-machine";

fn proven(name: &str, claims: &[Claim]) -> BackendCapabilities {
    let held =
        |claim: &Claim| Evidence { claim: *claim, check: "a".to_owned(), result: EvidenceResult::Held, remedy: String::new() };
    BackendCapabilities::from_evidence(name, claims.iter().map(held).collect())
}

/// A backend with the given name that proves every claim. All such backends count their probes in [`PROBES`].
struct Counted(&'static str);

static PROBES: AtomicU32 = AtomicU32::new(0);

#[async_trait]
impl IsolationBackend for Counted {
    fn name(&self) -> &str {
        self.0
    }

    fn traits(&self) -> BackendTraits {
        let startup = if self.0 == FASTER { Startup::Milliseconds } else { Startup::Seconds };
        BackendTraits { startup, ..BackendTraits::UNKNOWN }
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        PROBES.fetch_add(1, Ordering::Relaxed);
        Ok(proven("counted", &Claim::ALL))
    }

    async fn create_sandbox(&self, _: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        Err(IsolationError::SandboxGone("none".to_owned()))
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        Ok(Vec::new())
    }

    async fn get_sandbox(&self, _: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        Ok(None)
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        Ok(())
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        Ok(())
    }
}

/// Creates the registry that these tests choose from. The real backends cannot be probed here, because the test program takes no
/// role.
fn registry() -> Registry {
    let nothing = |_: &Path| Vec::<PathBuf>::new();
    Registry::new(vec![
        BuiltIn::new(HostDirectBackend::NAME, &["none"], |root| Ok(HostDirectBackend::new(root))),
        BuiltIn::new(MACHINE, &[], |_| Ok(Counted(MACHINE))).proven_with(nothing),
        BuiltIn::new(LinuxNativeBackend::NAME, &["landlock"], LinuxNativeBackend::new).proven_with(nothing),
        BuiltIn::new(ContainerBackend::NAME, &[], |root| ContainerBackend::new(root, None)).proven_with(nothing),
        BuiltIn::new(FASTER, &[], |_| Ok(Counted(FASTER))).proven_with(nothing),
    ])
}

/// Creates an empty proof store in a temporary folder.
fn proofs() -> (tempfile::TempDir, Arc<Proofs>) {
    let folder = tempfile::tempdir().unwrap();
    let proofs = Proofs::within(std::fs::File::open(folder.path()).unwrap().into(), registry().provable());
    (folder, Arc::new(proofs))
}

async fn chosen(names: &[&str], claims: &[Claim], proofs: &Arc<Proofs>) -> Result<String, String> {
    chosen_from(&registry(), names, claims, proofs).await
}

async fn chosen_from(registry: &Registry, names: &[&str], claims: &[Claim], proofs: &Arc<Proofs>) -> Result<String, String> {
    let choice = choose(registry, &std::env::temp_dir(), names, claims, TieBreak::Faster, proofs).await;
    choice.map(|choice| choice.backend.name().to_owned()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn backend_of_embedder_is_probed_each_time_even_if_it_cannot_win() {
    let registry = registry();
    registry.register("counted", &[], |_| Ok(Arc::new(Counted("counted")))).unwrap();
    let (_folder, proofs) = proofs();
    for probes in 1..3 {
        assert_eq!(chosen_from(&registry, &["counted"], &[Claim::Network], &proofs).await.unwrap(), "counted");
        assert_eq!(PROBES.load(Ordering::Relaxed), probes);
    }
    proofs.keep(&proven(ContainerBackend::NAME, &Claim::ALL));
    assert_eq!(chosen_from(&registry, &[ContainerBackend::NAME, "counted"], &[], &proofs).await.unwrap(), ContainerBackend::NAME);
    assert_eq!(PROBES.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn backend_with_the_highest_score_is_chosen_and_the_first_of_equals() {
    let (_folder, proofs) = proofs();
    proofs.keep(&proven(LinuxNativeBackend::NAME, &[Claim::Filesystem]));
    proofs.keep(&proven(ContainerBackend::NAME, &[Claim::Filesystem, Claim::Network]));
    proofs.keep(&proven(MACHINE, &[Claim::Filesystem, Claim::Network, Claim::Kernel]));
    let names = [LinuxNativeBackend::NAME, ContainerBackend::NAME, MACHINE];
    assert_eq!(chosen(&names, &[], &proofs).await.unwrap(), ContainerBackend::NAME);
    assert_eq!(chosen(&names, &[Claim::Kernel], &proofs).await.unwrap(), MACHINE);
    let error = chosen(&names, &[Claim::Filesystem, Claim::Syscalls], &proofs).await.unwrap_err();
    assert!(error.contains("no backend proves syscalls on"), "{error}");
    assert!(chosen(&[], &[], &proofs).await.unwrap_err().contains("no backend proves any isolation on"));
}

#[tokio::test]
async fn claims_that_only_different_backends_prove_are_refused_together() {
    let (_folder, proofs) = proofs();
    proofs.keep(&proven(LinuxNativeBackend::NAME, &[Claim::Syscalls]));
    proofs.keep(&proven(ContainerBackend::NAME, &[Claim::Network]));
    let names = [LinuxNativeBackend::NAME, ContainerBackend::NAME];
    let error = chosen(&names, &[Claim::Network, Claim::Syscalls], &proofs).await.unwrap_err();
    assert!(error.contains("no single backend proves all of network, syscalls on"), "{error}");
}

#[tokio::test]
async fn backend_that_starts_in_seconds_is_chosen_only_for_claims_it_alone_proves() {
    let (_folder, proofs) = proofs();
    proofs.keep(&proven(MACHINE, &Claim::ALL));
    proofs.keep(&proven(LinuxNativeBackend::NAME, &Claim::ALL[..5]));
    proofs.keep(&proven(FASTER, &Claim::ALL));
    let registered = [MACHINE, LinuxNativeBackend::NAME];
    assert_eq!(chosen(&registered, &[Claim::Network], &proofs).await.unwrap(), LinuxNativeBackend::NAME);
    assert_eq!(chosen(&registered, &[Claim::Kernel], &proofs).await.unwrap(), MACHINE);
    assert_eq!(chosen(&[MACHINE, FASTER], &[Claim::Kernel], &proofs).await.unwrap(), FASTER);
    // `detect_best_backend` prefers the first of equals, however long it takes to start.
    let first = choose(&registry(), &std::env::temp_dir(), &registered, &[], TieBreak::First, &proofs).await.ok().unwrap();
    assert_eq!(first.backend.name(), MACHINE);
}

#[tokio::test]
async fn backend_without_a_boundary_is_never_chosen() {
    let (_folder, proofs) = proofs();
    proofs.keep(&proven(HostDirectBackend::NAME, &Claim::ALL));
    for claims in [&[][..], &[Claim::Network]] {
        for name in [HostDirectBackend::NAME, "none", " Host-Direct"] {
            assert!(chosen(&[name], claims, &proofs).await.is_err(), "{name}");
        }
    }
}

#[tokio::test]
async fn alias_of_a_backend_uses_the_proof_of_its_name() {
    let (_folder, proofs) = proofs();
    proofs.keep(&proven(LinuxNativeBackend::NAME, &Claim::ALL));
    assert_eq!(chosen(&["Landlock"], &[Claim::Network], &proofs).await.unwrap(), LinuxNativeBackend::NAME);
}

#[tokio::test]
async fn forgotten_proof_causes_new_probe() {
    let (_folder, proofs) = proofs();
    proofs.keep(&proven(ContainerBackend::NAME, &Claim::ALL));
    let choice =
        choose(&registry(), &std::env::temp_dir(), &[ContainerBackend::NAME], &[Claim::Network], TieBreak::Faster, &proofs)
            .await
            .ok()
            .unwrap();
    assert!(choice.probed_earlier);
    proofs.forget(ContainerBackend::NAME);
    assert!(chosen(&[ContainerBackend::NAME], &[Claim::Network], &proofs).await.is_err());
}
