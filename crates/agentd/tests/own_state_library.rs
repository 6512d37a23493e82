//! agentd's own files, through the library: every backend refuses grants of them, and stored proofs are shared.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use agentd::isolation::{
    Access, Claim, ContainerBackend, FirecrackerBackend, FirecrackerConfig, GondolinBackend, GondolinConfig, Grant, GuardRule,
    IsolationBackend, LinuxNativeBackend, SandboxSpec, Writable, backends_with, choose_backend, forget_proof,
};
use libtest_mimic::{Arguments, Failed, Trial};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn main() {
    agentd::isolation::take_role();
    let arguments = Arguments::from_args();
    let tests = vec![
        Trial::test("grant_of_directory_of_backend_is_refused", || in_runtime(refused())),
        Trial::test("firecracker_config_with_relative_path_is_refused", incomplete),
        Trial::test("second_choice_uses_stored_proof_until_it_is_discarded", || in_runtime(shared())),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn in_runtime(test: impl Future<Output = ()>) -> Result<(), Failed> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    Ok(())
}

async fn refused() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().canonicalize().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let firecracker = FirecrackerConfig { work_root: root.clone(), ..FirecrackerConfig::in_data_dir(&root) };
    let gondolin = GondolinConfig::in_data_dir(&root);
    let layers = root.join(format!("agentd-layers-{uid}"));
    let etc = Path::new("/etc/agentd");
    for path in [&firecracker.programs, &firecracker.assets, &gondolin.installation, &layers] {
        std::fs::create_dir_all(path).unwrap();
    }
    let backends: [(Arc<dyn IsolationBackend>, Writable, &Path); 6] = [
        (Arc::new(FirecrackerBackend::new(firecracker.clone()).unwrap()), Writable::Memory, &firecracker.programs),
        (Arc::new(FirecrackerBackend::new(firecracker.clone()).unwrap()), Writable::Memory, &firecracker.assets),
        (Arc::new(GondolinBackend::with_config(&root, gondolin.clone())), Writable::Memory, &gondolin.installation),
        (Arc::new(ContainerBackend::new(&root, None).unwrap()), Writable::TemporaryLayers, &layers),
        (Arc::new(ContainerBackend::new(&root, None).unwrap()), Writable::Memory, etc),
        (Arc::new(LinuxNativeBackend::new(&root).unwrap()), Writable::Memory, etc),
    ];
    for (backend, writable, own) in backends {
        // A missing directory cannot be granted itself.
        let around = own.parent().unwrap();
        for (path, access) in [(own, Access::ReadOnly), (around, Access::ReadWrite)] {
            if !path.exists() {
                continue;
            }
            // Waive the guard, so that only the check of agentd's own directories can refuse the grant.
            let grant = Grant { guard: GuardRule::Waive, ..Grant::new(path, access) };
            let spec = SandboxSpec { grants: vec![grant], writable: writable.clone(), ..SandboxSpec::default() };
            let error = backend.create_sandbox(spec).await.err().unwrap().to_string();
            let overlaps = error.contains("the grant contains") || error.contains("the grant lies in");
            assert!(overlaps && error.contains("does not overlap it"), "{} {}: {error}", backend.name(), path.display());
        }
    }
}

fn incomplete() -> Result<(), Failed> {
    let whole = || FirecrackerConfig::in_data_dir(Path::new("/nowhere"));
    FirecrackerBackend::new(whole()).unwrap();
    let without: [fn(&mut FirecrackerConfig) -> &mut PathBuf; 5] =
        [|c| &mut c.programs, |c| &mut c.assets, |c| &mut c.machines, |c| &mut c.templates, |c| &mut c.disks];
    for folder in without {
        for path in ["", "relative"] {
            let mut config = whole();
            *folder(&mut config) = path.into();
            let error = FirecrackerBackend::new(config).err().unwrap().to_string();
            assert!(error.contains("AGENTD_DATA_DIR"), "{error}");
        }
    }
    Ok(())
}

async fn shared() {
    let root = tempfile::tempdir().unwrap();
    let names = backends_with(root.path(), |traits| traits.boundary && !traits.own_kernel);
    assert_eq!(names, [LinuxNativeBackend::NAME, ContainerBackend::NAME]);
    let choose = || choose_backend(root.path(), &names, &[Claim::Filesystem]);
    let first = choose().await.unwrap();
    assert!(!first.probed_earlier);
    let second = choose().await.unwrap();
    assert!(second.probed_earlier);
    assert_eq!((second.backend.name(), &second.proven), (first.backend.name(), &first.proven));
    for name in &names {
        forget_proof(root.path(), name);
    }
    assert!(!choose().await.unwrap().probed_earlier);
    for name in &names {
        forget_proof(root.path(), name);
    }
}
