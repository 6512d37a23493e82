//! The backends whose sandboxes share the host's kernel. The launcher creates all of these sandboxes; the backends differ only in
//! their plans.

use crate::{
    blocking::{blocking, planning},
    egress::{self, EgressSettings},
    explain, fallback,
    launcher::{self, Ordered},
    layered::{LayerStore, LayeredSandbox},
    own_state,
    probe::{self, Attackable, AttackedSandbox},
    sandbox::{NamespaceSockets, SharedKernelSandbox},
    tracker::Tracker,
};
use agentd_core::{
    BackendCapabilities, BackendTraits, Control, Evidence, Grant, IsolationBackend, IsolationError, Limits, NetworkMode,
    PlanLine, Profile, Sandbox, SandboxId, SandboxSpec, Writable,
};
use agentd_kernel::{
    cgroup::CgroupPlan,
    idmap::Subordinate,
    mount::trust::TrustPlan,
    namespace::{Ids, NamespacePlan},
    seccomp::SeccompPlan,
};
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    plan::{ExpectedPlan, SandboxPlan},
    role,
};
use async_trait::async_trait;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::OnceCell;

/// Returns true if the caller is an ordinary user with subordinate ids that `container` can use. The proof of `container` depends
/// on this.
pub fn has_subordinate_ids() -> bool {
    // With root as the caller, every sandbox has separate ids.
    !rustix::process::geteuid().is_root() && Subordinate::of_caller().is_ok()
}

/// Starts the launcher. A program with one thread forks the launcher, so this function is best called before another thread
/// starts. A failure is only logged: the creation of a sandbox fails in the same way, and reports the cause.
pub fn start_launcher() {
    launcher::get().map(drop).or_debug("start the launcher", "next sandbox");
}

/// Starts the first process of a sandbox of this network access, profile and limits. The kernel then creates the namespaces while
/// the caller plans the sandbox. With `view`, the process also begins to build the view. Such a process suits only a sandbox of
/// `linux-native` without degraded isolation.
///
/// If no such sandbox follows, the process is not used. A failure is only logged, because creating a sandbox has the same failure
/// and reports it.
pub fn prepare(network: NetworkMode, profile: Profile, limits: &Limits, view: bool) {
    // With a control group, the first process would have to be in the group from the start.
    if CgroupPlan::from_limits(limits, SeccompPlan::SUPERVISOR_THREADS).is_empty() {
        let namespaces = NamespacePlan { enabled: true, network, ids: Ids::Dedicated };
        let seccomp = SeccompPlan { profile, network, set_ids: false };
        let expected = ExpectedPlan { namespaces, seccomp, view: view.then_some(fallback::SCRATCH_BYTES) };
        launcher::prepare(expected).or_debug("prepare the first process", "next sandbox");
    }
}

/// The properties of one shared-kernel backend.
pub trait BackendKind: Send + Sync + 'static {
    /// The canonical name.
    const NAME: &'static str;
    /// The traits of its sandboxes.
    const TRAITS: BackendTraits;
    /// True if sandboxes can run on layers on disk.
    const LAYERS: bool = false;
    /// The settings that an embedder can choose.
    type Config: Default + Send + Sync + 'static;
    /// Plans a sandbox of `spec` on this host.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a part of the spec that this backend does not support.
    fn plan(config: &Self::Config, spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError>;
}

/// A backend of kind `K`. Clones share their state; each sandbox keeps a clone.
pub struct SharedKernelBackend<K: BackendKind>(Arc<BackendState<K>>);

impl<K: BackendKind> Clone for SharedKernelBackend<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct BackendState<K: BackendKind> {
    live: Tracker<SharedKernelSandbox>,
    layered: Arc<Tracker<LayeredSandbox>>,
    /// The store of layers, created with the first sandbox that needs it.
    layer_store: OnceCell<Arc<LayerStore>>,
    work_root: PathBuf,
    config: K::Config,
}

impl<K: BackendKind> SharedKernelBackend<K> {
    /// The canonical name.
    pub const NAME: &'static str = K::NAME;

    /// Creates a backend. The probe targets are created below `work_root`.
    pub fn configured(work_root: &Path, config: K::Config) -> Self {
        role::exit_if_unhandled();
        Self(Arc::new(BackendState {
            live: Tracker::default(),
            layered: Arc::default(),
            layer_store: OnceCell::new(),
            work_root: work_root.to_path_buf(),
            config,
        }))
    }

    /// Plans a sandbox of `spec` on this host with the default configuration. The plan is a value that can be printed,
    /// compared and applied.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a part of the spec that this backend does not support.
    pub fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        Self::plan_with(&K::Config::default(), spec)
    }

    fn plan_with(config: &K::Config, spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        let Planned { plan, unchecked } = Self::plan_unchecked(config, spec)?;
        own_state::check(&unchecked, &[])?;
        Ok(plan)
    }

    /// Plans a sandbox of `spec`. If planning fails and a grant is also refused because of agentd's own folders, returns the
    /// error of the grant.
    fn plan_unchecked(config: &K::Config, spec: &SandboxSpec) -> Result<Planned, IsolationError> {
        if spec.network.mode() == NetworkMode::Egress && !K::TRAITS.egress {
            return Err(IsolationError::Invalid {
                what: "network".to_owned(),
                reason: format!(
                    "{} cannot limit the network to granted hosts — use linux-native, container, firecracker or gondolin",
                    K::NAME
                ),
            });
        }
        // Without a boundary nothing is protected from a command, and a separate machine contains none of agentd's files.
        if !K::TRAITS.boundary || K::TRAITS.own_kernel {
            return Ok(Planned { plan: K::plan(config, spec)?, unchecked: Vec::new() });
        }
        let spec = own_state::unchecked(spec.clone())?;
        match K::plan(config, &spec) {
            Ok(plan) => Ok(Planned { plan, unchecked: spec.grants }),
            Err(error) => Err(own_state::check(&spec.grants, &[]).err().unwrap_or(error)),
        }
    }

    /// Runs the attack suite in a sandbox of this backend and returns the evidence. Without a boundary, an attack that fails
    /// proves nothing. Attacks only show that a path is open; they change nothing.
    ///
    /// # Errors
    /// The error of preparing the targets, or of creating the sandbox.
    pub async fn attack(&self) -> Result<Vec<Evidence>, IsolationError> {
        probe::attack(self, &self.0.work_root).await
    }

    async fn create_layered(&self, spec: SandboxSpec) -> Result<Arc<LayeredSandbox>, IsolationError> {
        if spec.network.mode() == NetworkMode::Egress {
            return Err(IsolationError::Invalid {
                what: "network".to_owned(),
                reason: "granted hosts are not supported for a sandbox with layers on disk — use Writable::Memory".to_owned(),
            });
        }
        egress::check_layered(&spec)?;
        let place = LayerStore::stores_dir(&self.0.work_root);
        let spec = planned(spec, move |spec| own_state::checked(spec, &[&place])).await?;
        let make = || async {
            let work_root = self.0.work_root.clone();
            // A separate backend: a backend that owned itself would never be dropped.
            let backend = Arc::new(Self::configured(&work_root, K::Config::default()));
            blocking(move || LayerStore::open_in(&work_root, backend)).await
        };
        let layer_store = self.0.layer_store.get_or_try_init(make).await?.clone();
        LayeredSandbox::create(layer_store, Arc::new(self.clone()), &self.0.layered, spec).await
    }

    /// Creates a sandbox of `spec` without layers on disk.
    ///
    /// # Errors
    /// As [`IsolationBackend::create_sandbox`].
    pub async fn create_on_shared_kernel(&self, spec: SandboxSpec) -> Result<Arc<SharedKernelSandbox>, IsolationError> {
        let (backend, limits) = (self.clone(), spec.limits.clone());
        let both = move |spec| Ok((Self::plan_unchecked(&backend.0.config, &spec)?, egress::settings(&spec)?));
        let (planned, mut gateway) = planned(spec, both).await?;
        let trust = gateway.as_mut().and_then(|settings| settings.trust.take());
        self.create_from(planned, trust, limits, gateway).await.map(|(sandbox, _)| sandbox)
    }

    /// Creates a sandbox whose gateway is outside of this machine, and returns the sockets of that gateway too. `trust` has the
    /// trust stores of a payload whose TLS that gateway inspects.
    ///
    /// # Errors
    /// As [`IsolationBackend::create_sandbox`].
    pub async fn create_without_gateway(
        &self,
        spec: SandboxSpec,
        trust: Option<TrustPlan>,
    ) -> Result<(Arc<SharedKernelSandbox>, NamespaceSockets), IsolationError> {
        let (backend, limits) = (self.clone(), spec.limits.clone());
        let plan = planned(spec, move |spec| Self::plan_unchecked(&backend.0.config, &spec)).await?;
        self.create_from(plan, trust, limits, None).await
    }

    /// Creates a sandbox, and returns the sockets that no gateway of this process has taken over.
    async fn create_from(
        &self,
        Planned { mut plan, unchecked }: Planned,
        trust: Option<TrustPlan>,
        limits: Limits,
        gateway: Option<EgressSettings>,
    ) -> Result<(Arc<SharedKernelSandbox>, NamespaceSockets), IsolationError> {
        if let Some(trust) = trust {
            plan.tree.set_trust(trust);
        }
        let ordered = launcher::get()?.create(plan).await?;
        // The launcher sets up the sandbox during this comparison. No command can start in the sandbox before this function
        // returns.
        let checked = if unchecked.is_empty() { Ok(()) } else { planning(move || own_state::check(&unchecked, &[])).await };
        if let Err(error) = checked {
            // The caller receives the first error.
            ordered.destroy(|| ()).await.or_warn("destroy sandbox whose grants are refused", ordered.id);
            return Err(error);
        }
        self.open(ordered, limits, gateway).await
    }

    /// Creates a sandbox from a plan, for settings that a spec cannot express. `limits` are the limits that the plan was made
    /// from.
    ///
    /// # Errors
    /// The failed control, as for [`IsolationBackend::create_sandbox`].
    pub async fn create_planned(&self, plan: SandboxPlan, limits: Limits) -> Result<Arc<SharedKernelSandbox>, IsolationError> {
        let ordered = launcher::get()?.create(plan).await?;
        self.open(ordered, limits, None).await.map(|(sandbox, _)| sandbox)
    }

    async fn open(
        &self,
        ordered: Ordered,
        limits: Limits,
        gateway: Option<EgressSettings>,
    ) -> Result<(Arc<SharedKernelSandbox>, NamespaceSockets), IsolationError> {
        let (sandbox, sockets) = SharedKernelSandbox::open(ordered, Arc::new(self.clone()), limits, gateway).await?;
        self.0.live.add(&sandbox);
        Ok((sandbox, sockets))
    }
}

/// A plan, and the grants that must still be compared with agentd's own folders.
struct Planned {
    plan: SandboxPlan,
    unchecked: Vec<Grant>,
}

/// Plans a sandbox of `spec`. The time for grants depends on the caller's file systems and on the size of the granted trees, so
/// these are not resolved on the runtime. Without grants, a plan reads a few files of the system.
async fn planned<T: Send + 'static>(
    spec: SandboxSpec,
    plan: impl FnOnce(SandboxSpec) -> Result<T, IsolationError> + Send + 'static,
) -> Result<T, IsolationError> {
    if spec.grants.is_empty() { plan(spec) } else { planning(move || plan(spec)).await }
}

#[async_trait]
impl<K: BackendKind> Attackable for SharedKernelBackend<K> {
    fn has_more_ids_without_grants(&self) -> bool {
        K::TRAITS.own_root && !K::TRAITS.own_kernel && has_subordinate_ids()
    }

    async fn create_to_attack(&self, spec: SandboxSpec) -> Result<Arc<dyn AttackedSandbox>, IsolationError> {
        Ok(self.create_on_shared_kernel(spec).await?)
    }
}

#[async_trait]
impl<K: BackendKind> IsolationBackend for SharedKernelBackend<K> {
    fn name(&self) -> &str {
        K::NAME
    }

    fn traits(&self) -> BackendTraits {
        K::TRAITS
    }

    fn explain(&self, spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
        let plan = Self::plan_with(&self.0.config, spec)?;
        if !K::TRAITS.boundary {
            return Ok(vec![PlanLine::new("boundary", "none: the command runs as the caller")]);
        }
        Ok([explain::describe(&plan), egress::describe(spec)?].concat())
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        if !K::TRAITS.boundary {
            let proven = BackendCapabilities::from_evidence(K::NAME, Vec::new());
            return Ok(BackendCapabilities { persistent_sandboxes: true, ..proven });
        }
        let mut proven = probe::probe(self, &self.0.work_root).await?;
        let sandbox = self.create_on_shared_kernel(SandboxSpec::default()).await?;
        proven.platform_features.extend(
            sandbox.controls().iter().filter(|report| report.control == Control::Idmap).map(|report| report.detail.clone()),
        );
        sandbox.destroy().await?;
        if K::LAYERS {
            match probe::snapshots(self).await {
                Ok(()) => proven.snapshots = true,
                Err(why) => proven.platform_features.push(format!("no snapshots: {why}")),
            }
        }
        Ok(proven)
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        if K::LAYERS && spec.writable == Writable::TemporaryLayers {
            return Ok(self.create_layered(spec).await?);
        }
        Ok(self.create_on_shared_kernel(spec).await?)
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        Ok([self.0.live.ids().await, self.0.layered.ids().await].concat())
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        match self.0.live.get(id).await {
            None => Ok(self.0.layered.get(id).await),
            found => Ok(found),
        }
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        let unlayered = self.0.live.destroy_all().await;
        self.0.layered.destroy_all().await.and(unlayered)
    }
}
