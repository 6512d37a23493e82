//! Uses the public API of the registry like an embedding program. Types are written out, so that a changed signature does not
//! compile.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use agentd::isolation::{
    BackendCapabilities, BackendTraits, Claim, Command, ContainerBackend, ContainerConfig, Evidence, EvidenceResult,
    FirecrackerBackend, FirecrackerConfig, GondolinBackend, HostDirectBackend, IsolationBackend, IsolationError,
    LinuxNativeBackend, PlanLine, Sandbox, SandboxId, SandboxSpec, Startup, available_backends, backends_with,
    canonical_backend_name, create_backend, detect_best_backend, register_backend_factory, require_backend, take_role,
};
use async_trait::async_trait;
use std::{
    error::Error,
    fmt,
    path::Path,
    process::{ExitCode, Output},
    sync::Arc,
};

fn main() -> ExitCode {
    take_role();
    if std::env::args().nth(1).as_deref() == Some("run") {
        // Run the command line with backends of this program.
        register_backend_factory("described", &[], |_| Ok(Arc::new(Described))).unwrap();
        register_backend_factory("named", &[], |_| Ok(Arc::new(Named("named".to_owned())))).unwrap();
        return agentd::cli::main();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    names_and_aliases();
    error_for_unknown_name_lists_known_names();
    registration_accepts_closure_and_registers_all_names_or_none();
    errors_of_embedder_keep_their_source();
    constructors_have_their_signatures();
    runtime.block_on(sandboxes_persist_between_execs());
    runtime.block_on(detected_backend_proves_most());
    backend_of_embedder_is_described_by_traits();
    command_line_explains_backend_of_embedder();
    command_line_probes_backend_of_embedder_but_not_named_own_backend();
    println!("all checks of the registry's contract passed");
    ExitCode::SUCCESS
}

/// Must run before any other backend is registered.
fn names_and_aliases() {
    assert_eq!(available_backends(), ["host-direct", "gondolin", "linux-native", "container", "firecracker"]);
    for (canonical, aliases) in [
        ("host-direct", &["none", "host", "workstation", " Host_Direct "][..]),
        ("gondolin", &["GONDOLIN"]),
        ("linux-native", &["linux", "native", "landlock"]),
        ("container", &["namespace", "mount-ns", "mount_ns"]),
        ("firecracker", &["microvm", "vm"]),
    ] {
        for name in aliases.iter().chain([&canonical]) {
            assert_eq!(canonical_backend_name(name).as_deref(), Some(canonical), "{name}");
        }
    }
    assert_eq!(canonical_backend_name("x"), None);
    assert_eq!(create_backend("Workstation", &work_root()).unwrap().name(), "host-direct");
}

fn error_for_unknown_name_lists_known_names() {
    let error = create_backend("x", &work_root()).err().unwrap();
    let wanted = "Unknown isolation backend 'x'. Available backends: host-direct, gondolin, linux-native, container, firecracker";
    assert_eq!(error.to_string(), wanted);
    assert!(matches!(error, IsolationError::UnknownBackend { .. }));
}

fn registration_accepts_closure_and_registers_all_names_or_none() {
    let before = available_backends();
    for (canonical, aliases) in [("", &["mine"][..]), (" ", &[]), ("Linux_Native", &[]), ("mine", &["my", "VM"])] {
        let error = register_backend_factory(canonical, aliases, |root| Ok(Arc::new(HostDirectBackend::new(root)))).unwrap_err();
        assert!(canonical.trim().is_empty() || error.to_string().contains("already registered for"), "{error}");
    }
    assert_eq!(available_backends(), before);
    assert_eq!(canonical_backend_name("my"), None);
    // Empty aliases are skipped, and equal ones count once.
    register_backend_factory("mine", &["my", "", "MY", "Mine", " "], |root| Ok(Arc::new(HostDirectBackend::new(root)))).unwrap();
    assert_eq!(available_backends().last().unwrap(), "mine");
    assert_eq!(canonical_backend_name("MY").as_deref(), Some("mine"));
    assert_eq!(create_backend("my", &work_root()).unwrap().name(), "host-direct");
    // A closure may own values.
    let name = String::from("named");
    register_backend_factory("named", &[], move |_| Ok(Arc::new(Named(name.clone())))).unwrap();
    assert_eq!(create_backend("named", &work_root()).unwrap().name(), "named");
}

#[derive(Debug)]
struct Broken(u32);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {}", self.0)
    }
}

impl Error for Broken {}

/// Returns the first error of this type in a chain of sources.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn errors_of_embedder_keep_their_source() {
    register_backend_factory("broken", &[], |_| Err(IsolationError::other(Broken(7)))).unwrap();
    register_backend_factory("boxed", &[], |_| {
        let failed: Result<Arc<dyn IsolationBackend>, Box<dyn Error + Send + Sync>> = Err(Box::new(Broken(8)));
        Ok(failed?)
    })
    .unwrap();
    for (name, number) in [("broken", 7), ("boxed", 8)] {
        let error = create_backend(name, &work_root()).err().unwrap();
        assert_eq!(error.to_string(), format!("Failed to initialize isolation backend '{name}': broken {number}"));
        assert_eq!(cause::<Broken>(&error).unwrap().0, number);
    }
}

fn constructors_have_their_signatures() {
    let root = work_root();
    let host: HostDirectBackend = HostDirectBackend::new(&root);
    let gondolin: GondolinBackend = GondolinBackend::new(&root);
    let native: Result<LinuxNativeBackend, IsolationError> = LinuxNativeBackend::new(&root);
    let container: Result<ContainerBackend, IsolationError> = ContainerBackend::new(&root, None);
    let configured: Result<ContainerBackend, IsolationError> = ContainerBackend::new(&root, Some(ContainerConfig::default()));
    let firecracker: Result<FirecrackerBackend, IsolationError> =
        FirecrackerBackend::new(FirecrackerConfig { work_root: root.clone(), ..Default::default() });
    let backends: [Arc<dyn IsolationBackend>; 6] = [
        Arc::new(host),
        Arc::new(gondolin),
        Arc::new(native.unwrap()),
        Arc::new(container.unwrap()),
        Arc::new(configured.unwrap()),
        Arc::new(firecracker.unwrap()),
    ];
    let names: Vec<_> = backends.iter().map(|backend| backend.name()).collect();
    assert_eq!(names, ["host-direct", "gondolin", "linux-native", "container", "container", "firecracker"]);
}

async fn sandboxes_persist_between_execs() {
    for name in ["host-direct", "linux-native", "container"] {
        let backend = create_backend(name, &work_root()).unwrap();
        assert!(backend.probe().await.unwrap().persistent_sandboxes, "{name}");
        let sandbox = backend.create_sandbox(SandboxSpec::default()).await.unwrap();
        for _ in 0..2 {
            let command = Command { argv: vec!["/bin/true".into()], ..Command::default() };
            assert_eq!(sandbox.exec(command).await.unwrap().exit_code, Some(0), "{name}");
        }
        sandbox.destroy().await.unwrap();
    }
}

async fn detected_backend_proves_most() {
    let best: Arc<dyn IsolationBackend> = detect_best_backend(&work_root()).await;
    let (required, proven): (Arc<dyn IsolationBackend>, BackendCapabilities) =
        require_backend(&work_root(), &[Claim::Filesystem, Claim::Process, Claim::Network, Claim::Syscalls]).await.unwrap();
    // Of equal backends, `detect` returns the first registered one, and `require` the one that starts faster.
    assert!(best.name() == required.name() || best.traits().startup > required.traits().startup);
    assert!(proven.score() >= 10 && best.name() != "host-direct");
}

fn backend_of_embedder_is_described_by_traits() {
    let unknown = create_backend("named", &work_root()).unwrap();
    assert_eq!(unknown.traits(), BackendTraits::default());
    assert_eq!(unknown.traits().startup, Startup::Seconds);
    register_backend_factory("described", &[], |_| Ok(Arc::new(Described))).unwrap();
    let own_kernel = backends_with(&work_root(), |traits| traits.own_kernel);
    assert_eq!(own_kernel.last().map(String::as_str), Some("described"));
}

/// Runs `agentd run --explain` of this program.
fn explain(options: &[&str]) -> Output {
    let mut run = std::process::Command::new(std::env::current_exe().unwrap());
    run.args(["run", "--workspace", "none", "--explain"]).args(options).args(["--", "true"]).output().unwrap()
}

fn command_line_explains_backend_of_embedder() {
    let explained = |options: &[&str]| {
        let run = explain(options);
        assert!(run.status.success(), "{run:?}");
        String::from_utf8(run.stdout).unwrap()
    };
    let plan = explained(&["--backend", "described"]);
    assert_eq!(plan, "backend      described\nproven       filesystem process network syscalls\nhome         /root\n");
    let plan = explained(&["--backend", "named", "--allow-degraded"]);
    assert!(plan.starts_with("backend      named\nplan         this backend does not describe its plan"), "{plan}");
    assert!(plan.contains("\nnetwork      off\n"), "{plan}");
}

fn command_line_probes_backend_of_embedder_but_not_named_own_backend() {
    // Each run probes, because proofs of such a backend are not stored. A backend that proves nothing is refused.
    for (backend, refused) in [("described", false), ("Described", false), ("named", true), ("named", true)] {
        let run = explain(&["--backend", backend]);
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(said.matches(PROBED).count(), 1, "{backend}: {said}");
        assert_eq!((run.status.success(), said.contains("no backend proves")), (!refused, refused), "{backend}: {said}");
    }
    // An own backend that is named has no line `proven`, except with a requirement.
    for name in ["linux-native", "container"] {
        let run = explain(&["--backend", name]);
        let plan = String::from_utf8(run.stdout).unwrap();
        assert!(run.status.success() && plan.contains(name) && !plan.contains("\nproven "), "{plan}");
    }
    let plan = String::from_utf8(explain(&[]).stdout).unwrap();
    assert!(plan.contains("\nproven "), "{plan}");
}

fn work_root() -> std::path::PathBuf {
    std::env::temp_dir()
}

/// Printed by each probe.
const PROBED: &str = "the backend is probed";

/// A backend of an embedding program. Its probe proves nothing.
struct Named(String);

#[async_trait]
impl IsolationBackend for Named {
    fn name(&self) -> &str {
        &self.0
    }
    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        eprintln!("{PROBED}");
        Ok(BackendCapabilities::from_evidence(&self.0, Vec::new()))
    }
    async fn create_sandbox(&self, _: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        create_backend("linux-native", Path::new("/tmp"))?.create_sandbox(SandboxSpec::default()).await
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

/// A backend with its own traits and plan, whose probe proves what a run requires.
struct Described;

#[async_trait]
impl IsolationBackend for Described {
    fn name(&self) -> &str {
        "described"
    }
    fn traits(&self) -> BackendTraits {
        BackendTraits { own_kernel: true, own_root: true, uid_zero: true, ..BackendTraits::default() }
    }
    fn explain(&self, spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
        let home = spec.home.as_deref().unwrap_or(Path::new("/"));
        Ok(vec![PlanLine::new("home", home.display().to_string())])
    }
    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        eprintln!("{PROBED}");
        let held = |claim| Evidence { claim, check: "own".to_owned(), result: EvidenceResult::Held, remedy: String::new() };
        let claims = [Claim::Filesystem, Claim::Process, Claim::Network, Claim::Syscalls];
        Ok(BackendCapabilities::from_evidence("described", claims.map(held).to_vec()))
    }
    async fn create_sandbox(&self, _: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        create_backend("linux-native", Path::new("/tmp"))?.create_sandbox(SandboxSpec::default()).await
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
