//! `gondolin`: machines of the real Gondolin, a programmable VM monitor that is driven by its SDK in Node and runs QEMU.
//!
//! A sandbox is three boundaries: agentd's own sandbox in the guest, which behaves as `container` does because the same code makes it; the
//! machine; and a sandbox of our own around Node and QEMU ([`host`]). Gondolin makes the machine and shows the granted files in it
//! (`machine.mjs`); commands do not go through Gondolin, whose protocol can neither end nor signal them, but over a port of the machine's
//! to our agent, a socket with nothing between.

mod accelerator;
mod host;
mod initramfs;
mod machine;
mod plan;
mod saved;

use crate::{
    ContainerBackend, data,
    guest::{Attach, GuestSandbox, GuestSpec, Identity},
    probe::{self, Attackable},
    store::Store,
    tracker::Tracker,
};
use accelerator::{Accelerator, Kept, Verdict};
use agentd_core::{
    BackendCapabilities, Command, IsolationBackend, IsolationError, Outcome, Profile, Sandbox, SandboxId, SandboxSpec,
};
use agentd_gondolin::{GONDOLIN_VERSION, Installation};
use agentd_kernel::privileges::Capabilities;
use async_trait::async_trait;
use host::Host;
use machine::GondolinMachine;
use plan::Plan;
use saved::Saved;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::UnixStream, sync::OnceCell};

/// Where the backend finds what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GondolinConfig {
    /// The directory that `agentd gondolin setup` makes.
    pub installation: PathBuf,
}

impl GondolinConfig {
    /// The place in agentd's data directory.
    pub fn below(data: &Path) -> Self {
        Self { installation: data.join("gondolin") }
    }
}

/// See the head of this module.
pub struct GondolinBackend {
    me: Weak<Self>,
    live: Tracker<GuestSandbox>,
    /// Makes what is around Node and QEMU.
    around: Arc<ContainerBackend>,
    config: GondolinConfig,
    work_root: PathBuf,
    /// Where disks are saved.
    store: Store,
    /// What runs the machines' processors.
    verdict: OnceCell<Verdict>,
    /// Where that is to be kept when it has proved good.
    unkept: Mutex<Option<Kept>>,
    /// How long the last machine took to start.
    last: Mutex<Option<Duration>>,
}

impl GondolinBackend {
    /// The canonical name.
    pub const NAME: &'static str = "gondolin";

    /// A backend with this installation, whose probe makes its targets below `work_root`.
    pub fn new(config: GondolinConfig, work_root: &Path) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            live: Tracker::default(),
            around: ContainerBackend::new(work_root),
            config,
            work_root: work_root.to_path_buf(),
            store: saved::store(work_root),
            verdict: OnceCell::new(),
            unkept: Mutex::default(),
            last: Mutex::default(),
        })
    }

    /// Whether a machine can be what a spec asks for.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for what this backend cannot give.
    pub fn check(spec: &SandboxSpec) -> Result<(), IsolationError> {
        plan::check(spec).map(drop)
    }

    /// One with the installation in agentd's data directory.
    pub(crate) fn installed(work_root: &Path) -> Result<Arc<Self>, IsolationError> {
        let data = data::data_directory().ok_or_else(|| IsolationError::Unavailable {
            backend: Self::NAME.to_owned(),
            reason: "there is no place for an installation: set HOME, XDG_DATA_HOME or AGENTD_DATA_DIR".to_owned(),
        })?;
        Ok(Self::new(GondolinConfig::below(&data), work_root))
    }

    fn unavailable(reason: &dyn std::fmt::Display) -> IsolationError {
        IsolationError::Unavailable { backend: Self::NAME.to_owned(), reason: reason.to_string() }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<GuestSandbox>, IsolationError> {
        let installed = Installation::open(&self.config.installation).map_err(|error| Self::unavailable(&error))?;
        let qemu = program(QEMU, "qemu-system-x86")?;
        program(QEMU_IMG, "qemu-utils")?;
        // What cannot be is refused before anything is tried.
        plan::check(&spec)?;
        let verdict = self.verdict.get_or_init(|| self.judge(&installed, &qemu)).await;
        let begun = Instant::now();
        let sandbox = self.start(spec, &installed, verdict.accelerator).await?;
        // Only now: a trial may have failed for what has nothing to do with KVM.
        if let Some(kept) = self.unkept.lock().unwrap_or_else(PoisonError::into_inner).take() {
            kept.write(verdict);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun.elapsed());
        Ok(sandbox)
    }

    /// Whether KVM starts a machine here: what is kept, or a trial.
    async fn judge(&self, installed: &Installation, qemu: &Path) -> Verdict {
        // No trial, and may change at any time.
        if let Some(why) = accelerator::closed() {
            return Verdict::tcg(why);
        }
        let kept = Kept::of(&self.config.installation, &installed.guest(), qemu);
        if let Some(verdict) = kept.read() {
            return verdict;
        }
        let begun = Instant::now();
        let trial = self.start(SandboxSpec::default(), installed, Accelerator::Kvm);
        let verdict = match tokio::time::timeout(accelerator::PATIENCE, trial).await {
            Ok(Ok(sandbox)) => {
                // It has started, which was the question.
                sandbox.destroy().await.ok();
                Verdict::kvm()
            }
            Ok(Err(error)) => Verdict::tcg(format_args!("{error} (found out in {:.1} s)", begun.elapsed().as_secs_f64())),
            Err(_) => Verdict::tcg(format_args!("no machine had started after {} s", accelerator::PATIENCE.as_secs())),
        };
        *self.unkept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
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

    /// Starts a machine, over a copy of a saved disk where there is one.
    async fn boot(&self, plan: &Plan, saved: Option<&Saved>) -> Result<(Arc<Host>, UnixStream), IsolationError> {
        self.store.clear()?;
        let around = self.around.create_planned(plan.around()?, plan.host.limits.clone()).await?;
        let (host, carrier) = Host::start(around, plan, saved).await?;
        Ok((Arc::new(host), carrier))
    }

    /// Makes a sandbox in a machine that is started for it.
    async fn open(&self, plan: Plan, saved: Option<Saved>) -> Result<Arc<GuestSandbox>, IsolationError> {
        let backend = self.me.upgrade().ok_or_else(|| IsolationError::Lost("backend".to_owned()))?;
        let (host, carrier) = self.boot(&plan, saved.as_ref()).await?;
        // It has a copy.
        drop(saved);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = SandboxId(format!("{}-{}-{number}", Self::NAME, std::process::id()));
        let identity = Identity::individual()?;
        let wanted = Attach::New(Box::new(GuestSpec { spec: plan.guest.clone(), identity: Some(identity), copies: None }));
        let machine = GondolinMachine::new(backend, plan, host.clone());
        match host.attached(GuestSandbox::open(id, machine, carrier, wanted)).await {
            Ok(sandbox) => {
                self.live.add(&sandbox);
                Ok(sandbox)
            }
            Err(error) => {
                // The first error is the one to tell.
                host.sandbox().destroy().await.ok();
                Err(error)
            }
        }
    }
}

/// Where one of QEMU's programs is, that a package of Debian's has.
fn program(name: &str, package: &str) -> Result<PathBuf, IsolationError> {
    let places = ["/usr/bin", "/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name));
    places
        .into_iter()
        .find(|place| place.exists())
        .ok_or_else(|| GondolinBackend::unavailable(&format_args!("there is no {name} — install it: apt-get install {package}")))
}

/// The number of the next sandbox: no two of this process have the same.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The monitor that Gondolin starts.
const QEMU: &str = "qemu-system-x86_64";

/// What makes its disks.
const QEMU_IMG: &str = "qemu-img";

#[async_trait]
impl Attackable for GondolinBackend {
    fn own_root(&self) -> Option<Capabilities> {
        Some(Capabilities::OWN_ROOT)
    }

    fn own_machine(&self) -> bool {
        true
    }

    async fn attack_in(&self, spec: SandboxSpec, command: Command) -> Result<Outcome, IsolationError> {
        let sandbox = self.create(spec).await?;
        let outcome = sandbox.attack(command).await;
        sandbox.destroy().await?;
        outcome
    }
}

#[async_trait]
impl IsolationBackend for GondolinBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    /// What of the host can be reached from a machine, and what holds inside it between a payload and the guest. An accelerator is told, and
    /// how long a machine takes to start.
    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        // Alone, because the time it takes is told.
        let mut evidence = probe::attack(self, &self.work_root).await?;
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // A machine takes long to start: what changes nothing for the other is tried in the same one.
        let inside = async {
            let sandbox = self.create(SandboxSpec::default()).await?;
            let tried = (probe::inside(&sandbox).await, probe::snapshots_of(&*sandbox).await);
            sandbox.destroy().await.map(|()| tried)
        };
        let (root, inside) = tokio::join!(probe::change_own_root(self), inside);
        let (inside, snapshots) = inside?;
        evidence.push(root);
        evidence.extend(inside?);
        let mut proven = BackendCapabilities::from_evidence(Self::NAME, evidence);
        proven.snapshots = snapshots.is_ok();
        proven.available_profiles = vec![Profile::Strict, Profile::Default, Profile::Permissive];
        proven.platform_features = probe::features();
        proven.platform_features.push(format!("Gondolin {GONDOLIN_VERSION}"));
        if let Err(why) = snapshots {
            proven.platform_features.push(format!("no snapshots: {why}"));
        }
        if let Some((verdict, after)) = self.verdict.get().zip(last) {
            let Verdict { accelerator, without_kvm } = verdict;
            proven.platform_features.push(format!("a machine by {accelerator} starts in {:.1} s", after.as_secs_f64()));
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
        Ok(self.live.ids().await)
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        Ok(self.live.get(id).await)
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        self.live.destroy_all().await
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.create(SandboxSpec::default()).await?.destroy().await
    }
}
