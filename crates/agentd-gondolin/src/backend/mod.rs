//! The `gondolin` backend, which runs sandboxes in virtual machines of Gondolin.
//!
//! A sandbox has three boundaries. The innermost is an agentd sandbox in the guest, created by the same code as that of
//! `container`. The second is the virtual machine. The outermost is an agentd sandbox on the host around Node and QEMU
//! ([`host`]).
//!
//! Gondolin starts the machine and shares the granted files with it (`machine.mjs`). Commands do not use Gondolin's protocol,
//! which can neither end nor signal them. They use a direct socket to agentd's agent in the guest, connected to a virtio serial
//! port of the machine.

mod accelerator;
mod host;
mod initramfs;
mod machine;
mod plan;
mod saved;

use crate::install::{GONDOLIN_VERSION, Installation};
use accelerator::{Accelerator, Verdict, VerdictFile};
use agentd_core::{
    BackendCapabilities, BackendTraits, IsolationBackend, IsolationError, NetworkMode, PlanLine, Sandbox, SandboxId, SandboxSpec,
};
use agentd_guest::{Attach, GuestSandbox, GuestSpec, MachineIdentity};
use agentd_isolation::{
    ContainerBackend, ContainerConfig,
    blocking::blocking,
    data_directory, egress, explain, own_state,
    probe::{self, Attackable, AttackedSandbox},
    store::Store,
    tracker::{Tracker, next_machine_id},
};
use agentd_log::LogFailure as _;
use async_trait::async_trait;
use host::Host;
use machine::GondolinMachine;
use plan::Plan;
use saved::Saved;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::UnixStream, sync::OnceCell};

/// The configuration of the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GondolinConfig {
    /// The directory that `agentd gondolin setup` creates.
    pub installation: PathBuf,
    /// The time that the guest's system may take to start. A machine that has not started by then is ended, and the start is
    /// repeated once. A start takes about 1 s with KVM, and 3 s to 20 s with QEMU's emulation.
    pub start_limit: Duration,
}

impl GondolinConfig {
    /// Returns the configuration for agentd's data directory `data`.
    pub fn in_data_dir(data: &Path) -> Self {
        Self { installation: data.join("gondolin"), start_limit: START_LIMIT }
    }

    /// Returns the files on which a proof of this backend depends, where `data` is agentd's data directory.
    pub fn proof_files(data: &Path) -> Vec<PathBuf> {
        let qemu = ["qemu-system-x86_64", "qemu-img"].map(|name| Path::new("/usr/bin").join(name));
        let record = Self::in_data_dir(data).installation.join("installation.json");
        qemu.into_iter().chain([record, PathBuf::from("/dev/kvm")]).collect()
    }
}

/// The `gondolin` backend; see the module documentation.
///
/// Clones share their state, and each machine keeps the backend alive by holding a clone.
#[derive(Clone)]
pub struct GondolinBackend(Arc<Shared>);

struct Shared {
    live: Tracker<GuestSandbox>,
    /// Creates the sandboxes around Node and QEMU.
    around: ContainerBackend,
    /// `None` if no data directory is known.
    config: Option<GondolinConfig>,
    work_root: PathBuf,
    /// The folder of the saved disks.
    store: Store,
    /// The accelerator of the machines, once it has been determined.
    verdict: OnceCell<Verdict>,
    /// The file in which the verdict is saved once a machine has started with the accelerator.
    unkept: Mutex<Option<VerdictFile>>,
    /// The time that the last machine took to start.
    last: Mutex<Option<Duration>>,
}

impl GondolinBackend {
    /// The canonical name.
    pub const NAME: &'static str = "gondolin";

    /// Creates a backend for the installation in agentd's data directory. Its probe creates the targets of its attacks below
    /// `work_root`.
    pub fn new(work_root: &Path) -> Self {
        Self::configured(work_root, data_directory().map(|data| GondolinConfig::in_data_dir(&data)))
    }

    /// Creates a backend for another installation.
    pub fn with_config(work_root: &Path, config: GondolinConfig) -> Self {
        Self::configured(work_root, Some(config))
    }

    fn configured(work_root: &Path, config: Option<GondolinConfig>) -> Self {
        Self(Arc::new(Shared {
            live: Tracker::default(),
            around: ContainerBackend::configured(work_root, ContainerConfig::default()),
            config,
            work_root: work_root.to_path_buf(),
            store: saved::store(work_root),
            verdict: OnceCell::new(),
            unkept: Mutex::default(),
            last: Mutex::default(),
        }))
    }

    fn config(&self) -> Result<&GondolinConfig, IsolationError> {
        self.0
            .config
            .as_ref()
            .ok_or_else(|| Self::unavailable(&"no data directory for the Gondolin installation — set AGENTD_DATA_DIR"))
    }

    fn installation(&self) -> Result<&Path, IsolationError> {
        Ok(&self.config()?.installation)
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn unavailable(reason: &dyn std::fmt::Display) -> IsolationError {
        IsolationError::Unavailable { backend: Self::NAME.to_owned(), reason: reason.to_string() }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<GuestSandbox>, IsolationError> {
        let installation = self.installation()?;
        let backend = self.clone();
        let (spec, installed, qemu) = blocking(move || backend.prepare(spec)).await?;
        let verdict = self.0.verdict.get_or_init(|| self.judge(installation, &installed, qemu)).await;
        let begun = Instant::now();
        let sandbox = self.start(spec, &installed, verdict.accelerator).await?;
        // Save the verdict only now: if this machine does not start either, the trial may have failed for a reason unrelated to
        // KVM.
        let kept = self.0.unkept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(kept) = kept {
            let verdict = verdict.clone();
            blocking(move || {
                kept.write(&verdict);
                Ok(())
            })
            .await
            .or_warn("save the accelerator verdict", Self::NAME);
        }
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun.elapsed());
        Ok(sandbox)
    }

    /// Returns `spec` with its grants checked, the installation, and the path of QEMU. May block on disk I/O.
    fn prepare(&self, spec: SandboxSpec) -> Result<(SandboxSpec, Installation, PathBuf), IsolationError> {
        let installation = self.installation()?;
        let spec = own_state::checked(spec, &[installation, self.store().folder()])?;
        let installed = Installation::open(installation).map_err(|error| Self::unavailable(&error))?;
        let qemu = program(QEMU, "qemu-system-x86")?;
        program(QEMU_IMG, "qemu-utils")?;
        // Refuse an unsupported spec before the trial of KVM, which takes time.
        plan::check(&spec)?;
        Ok((spec, installed, qemu))
    }

    /// Determines whether machines start with KVM here, from the saved verdict or by a trial.
    async fn judge(&self, installation: &Path, installed: &Installation, qemu: PathBuf) -> Verdict {
        let (installation, guest) = (installation.to_path_buf(), installed.guest());
        let known = blocking(move || {
            // An inaccessible `/dev/kvm` needs no trial. The result is not saved, because permissions may change at any time.
            if let Some(why) = accelerator::open_error() {
                return Ok(Err(Verdict::tcg(why)));
            }
            let kept = VerdictFile::for_files(&installation, &guest, &qemu);
            Ok(kept.read().map_or(Ok(kept), Err))
        });
        let kept = match known.await {
            Ok(Ok(kept)) => kept,
            Ok(Err(verdict)) => return verdict,
            Err(error) => return Verdict::tcg(error),
        };
        let begun = Instant::now();
        let trial = self.start(SandboxSpec::default(), installed, Accelerator::Kvm);
        let verdict = match tokio::time::timeout(accelerator::TIMEOUT, trial).await {
            Ok(Ok(sandbox)) => {
                // The trial only tests whether a machine starts, so a failure to destroy it is only logged.
                sandbox.destroy().await.or_warn("destroy trial machine", sandbox.id());
                Verdict::kvm()
            }
            Ok(Err(error)) => Verdict::tcg(format_args!("{error} (trial took {:.1} s)", begun.elapsed().as_secs_f64())),
            Err(_) => Verdict::tcg(format_args!("the trial machine did not start within {} s", accelerator::TIMEOUT.as_secs())),
        };
        *self.0.unkept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        verdict
    }

    async fn start(
        &self,
        spec: SandboxSpec,
        installed: &Installation,
        accelerator: Accelerator,
    ) -> Result<Arc<GuestSandbox>, IsolationError> {
        self.open(plan::plan(&spec, installed, accelerator)?, None).await
    }

    /// Starts a machine, with a copy of a saved disk if there is one, and waits until `attach` has attached to its agent. A start
    /// that takes too long is repeated, because nothing of the sandbox has run yet.
    async fn boot<T, A>(
        &self,
        plan: &Plan,
        saved: Option<&Saved>,
        attach: impl Fn(Arc<Host>, UnixStream) -> A,
    ) -> Result<T, IsolationError>
    where
        A: Future<Output = Result<T, IsolationError>>,
    {
        let limit = self.config()?.start_limit;
        let mut number = 1;
        loop {
            let (store, host) = (self.0.store.clone(), plan.clone());
            let around = blocking(move || {
                store.clear()?;
                host.sandbox_around()
            });
            let around = self.0.around.create_planned(around.await?, plan.host.limits.clone()).await?;
            let (host, transport) = Host::start(around, plan, saved, limit).await?;
            let host = Arc::new(host);
            let (error, again) = match host.attached(limit, attach(host.clone(), transport)).await {
                Ok(Some(attached)) => return Ok(attached),
                Ok(None) => (host.too_slow(limit).await, number < STARTS),
                Err(error) => (error, false),
            };
            // The error of the start is the cause to report, so a failure to destroy the machine is only logged.
            host.sandbox().destroy().await.or_warn("destroy machine that did not start", host.sandbox().id());
            if !again {
                return Err(error);
            }
            tracing::warn!(%error, "start of machine failed; retrying");
            number += 1;
        }
    }

    /// Starts a machine and creates a sandbox in it.
    async fn open(&self, plan: Plan, saved: Option<Saved>) -> Result<Arc<GuestSandbox>, IsolationError> {
        let id = next_machine_id(Self::NAME);
        let identity = MachineIdentity::generate()?;
        let attach = |host, transport| {
            let wanted = GuestSpec { spec: plan.guest.clone(), identity: Some(identity.clone()), copies: None };
            let machine = GondolinMachine::new(self.clone(), plan.clone(), host);
            GuestSandbox::open(id.clone(), machine, transport, Attach::New(Box::new(wanted)))
        };
        let sandbox = self.boot(&plan, saved.as_ref(), attach).await;
        saved::remove(saved).await?;
        let sandbox = sandbox?;
        self.0.live.add(&sandbox);
        Ok(sandbox)
    }
}

/// Returns the path of one of QEMU's programs. `package` is the Debian package that contains the program.
fn program(name: &str, package: &str) -> Result<PathBuf, IsolationError> {
    let places = ["/usr/bin", "/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name));
    places
        .into_iter()
        .find(|place| place.exists())
        .ok_or_else(|| GondolinBackend::unavailable(&format_args!("{name} is not installed — run apt-get install {package}")))
}

/// The default time limit of a start, under emulation and on a busy host.
const START_LIMIT: Duration = Duration::from_secs(75);

/// The maximum number of attempts to start a machine that does not start in time.
const STARTS: u32 = 2;

/// The virtual machine monitor that Gondolin starts.
const QEMU: &str = "qemu-system-x86_64";

/// The program that creates the machines' disks.
const QEMU_IMG: &str = "qemu-img";

#[async_trait]
impl Attackable for GondolinBackend {
    async fn create_to_attack(&self, spec: SandboxSpec) -> Result<Arc<dyn AttackedSandbox>, IsolationError> {
        Ok(self.create(spec).await?)
    }
}

#[async_trait]
impl IsolationBackend for GondolinBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn traits(&self) -> BackendTraits {
        BackendTraits {
            own_kernel: true,
            own_root: true,
            uid_zero: true,
            moves_grants: true,
            egress: true,
            ..BackendTraits::UNKNOWN
        }
    }

    fn explain(&self, spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
        let spec = own_state::checked(spec.clone(), &[self.installation()?, self.store().folder()])?;
        plan::check(&spec)?;
        let mut lines = vec![
            PlanLine::new("machine", "own kernel; root file system of `agentd gondolin setup`; changes are discarded"),
            PlanLine::new("host side", "Node and QEMU in a sandbox of the container backend, with loopback only"),
            PlanLine::new("inside", "an agentd sandbox on the root file system of the machine:"),
        ];
        lines.extend(explain::inside_machine(&spec)?);
        lines.extend(egress::describe_for_machine(&spec)?);
        Ok(lines)
    }

    /// Tests the boundary between host and machine, and the sandbox inside the machine. The platform features include the
    /// accelerator and the time that a machine took to start.
    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        // Run nothing else during that time, because the time that this machine takes to start is reported.
        let mut evidence = probe::attack(self, &self.0.work_root).await?;
        let last = *self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Starting a machine takes a long time, so checks that do not affect each other share one machine.
        let inside = async {
            let sandbox = self.create(SandboxSpec::default()).await?;
            let kernel = probe::own_kernel(&*sandbox).await;
            let tried = (sandbox.evidence_inside().await, probe::snapshots_of(&*sandbox).await, kernel);
            sandbox.destroy().await.map(|()| tried)
        };
        let (root, inside) = tokio::join!(probe::change_own_root(self), inside);
        let (inside, snapshots, kernel) = inside?;
        evidence.extend([root, kernel]);
        evidence.extend(inside?);
        evidence.extend(probe::granted_hosts(self, NetworkMode::Egress).await);
        let mut proven = probe::capabilities(Self::NAME, evidence);
        proven.snapshots = snapshots.is_ok();
        proven.platform_features.push(format!("Gondolin {GONDOLIN_VERSION}"));
        if let Err(why) = snapshots {
            proven.platform_features.push(format!("no snapshots: {why}"));
        }
        if let Some((verdict, after)) = self.0.verdict.get().zip(last) {
            let Verdict { accelerator, without_kvm } = verdict;
            proven.platform_features.push(format!("machine start with {accelerator}: {:.1} s", after.as_secs_f64()));
            if !without_kvm.is_empty() {
                proven.platform_features.push(format!("KVM is not used: {without_kvm}"));
            }
        }
        Ok(proven)
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        Ok(self.create(spec).await?)
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        Ok(self.0.live.ids().await)
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        Ok(self.0.live.get(id).await)
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        self.0.live.destroy_all().await
    }
}
