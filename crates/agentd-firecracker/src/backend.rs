//! The backend: starts machines from the built assets, and has the agents in the guests create the sandboxes.

use super::{
    FirecrackerConfig, boot,
    config::{self, unavailable},
    disk, files,
    initramfs::AgentProgram,
    machine::FirecrackerMachine,
    size::Size,
    template::Templates,
    vm::Vm,
};
use agentd_core::{
    BackendCapabilities, BackendTraits, IsolationBackend, IsolationError, NetworkMode, PlanLine, Sandbox, SandboxId, SandboxSpec,
    Startup, Writable,
};
use agentd_guest::{Attach, Copies, GuestSandbox, GuestSpec, MachineIdentity};
use agentd_isolation::{
    blocking::blocking,
    container, egress, explain, grants, own_state,
    probe::{self, Attackable, AttackedSandbox},
    store::{Fresh, Store},
    tracker::{Tracker, next_machine_id},
};
use agentd_log::LogFailure as _;
use agentd_supervisor::role;
use agentd_vm::{Assets, FIRECRACKER_VERSION};
use async_trait::async_trait;
use std::{path::Path, sync::Arc};

/// The `firecracker` backend. Clones share their state, and each machine keeps the backend alive by holding a clone.
#[derive(Clone)]
pub struct FirecrackerBackend(Arc<Shared>);

struct Shared {
    config: FirecrackerConfig,
    store: Store,
    live: Tracker<GuestSandbox>,
}

impl FirecrackerBackend {
    /// The canonical name.
    pub const NAME: &'static str = config::NAME;

    /// Creates a backend. Its probe creates the targets of its attacks below the configured `work_root`.
    ///
    /// # Errors
    /// [`IsolationError::Unavailable`] if a folder of the configuration is empty or relative. The default configuration has empty
    /// folders where no data directory is known. Missing programs and assets are reported later, by the probe and when a sandbox
    /// is created.
    pub fn new(config: FirecrackerConfig) -> Result<Self, IsolationError> {
        role::exit_if_unhandled();
        // A relative path would mean another folder after a change of directory. An empty path would be a prefix of the path of
        // every grant.
        if let Some(folder) = config.folders().into_iter().find(|folder| !folder.is_absolute()) {
            let remedy = "set AGENTD_DATA_DIR, or configure an absolute path";
            return Err(unavailable(format!("configured folder: '{}': not an absolute path — {remedy}", folder.display())));
        }
        let store = Store::new(&config.machines, |dead| std::fs::remove_dir_all(dead));
        Ok(Self(Arc::new(Shared { store, config, live: Tracker::default() })))
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn add(&self, sandbox: &Arc<GuestSandbox>) {
        self.0.live.add(sandbox);
    }

    /// Creates the folder of a new machine.
    async fn fresh(&self) -> Result<Fresh, IsolationError> {
        let store = self.0.store.clone();
        blocking(move || store.make()).await
    }

    /// Starts a machine and waits until its agent can be attached to. Resumes the template of this size, if there is one;
    /// otherwise boots a machine and saves it as the template.
    async fn machine(&self, size: Size) -> Result<Vm, IsolationError> {
        let config = self.0.config.clone();
        let (assets, templates, template) = blocking(move || {
            let assets = config.assets()?;
            let failed = |source| IsolationError::Io { context: "compute the key of the machine templates".to_owned(), source };
            let templates = Templates::for_config(&config).map_err(failed)?;
            let template = templates.find(size);
            Ok((assets, templates, template))
        })
        .await?;
        if let Some(template) = template {
            return self.resume(template.folder(), size).await;
        }
        let vm = self.boot(assets, size).await?;
        match templates.make(size, &vm).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                // The error of the template is the cause to report, so a failure to destroy the machine is only logged.
                vm.destroy().await.or_warn("destroy machine that failed to start", "firecracker");
                Err(error)
            }
        }
    }

    /// Starts a Firecracker process without a machine. [`Vm::load`] later resumes a snapshot in it.
    pub(super) async fn empty(&self, size: Size) -> Result<Vm, IsolationError> {
        Vm::start(self.fresh().await?, &self.0.config.programs, size, &self.0.config.assets, |_| Ok(())).await
    }

    /// Starts a Firecracker and resumes the machine of a snapshot in it.
    pub(super) async fn resume(&self, snapshot: &Path, size: Size) -> Result<Vm, IsolationError> {
        let vm = self.empty(size).await?;
        match vm.load(snapshot).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                // The error of `load` is the cause to report, so a failure to destroy the machine is only logged.
                vm.destroy().await.or_warn("destroy machine that failed to start", "firecracker");
                Err(error)
            }
        }
    }

    /// Boots a machine from the assets, with an empty disk.
    async fn boot(&self, assets: Assets, size: Size) -> Result<Vm, IsolationError> {
        let disks = self.0.config.disks.clone();
        let furnish = move |root: &Path| {
            AgentProgram::current()?.initramfs(&assets, &root.join(files::INITRAMFS))?;
            disk::make(&disks, size.disk, &root.join(files::DISK))
        };
        let vm = Vm::start(self.fresh().await?, &self.0.config.programs, size, &self.0.config.assets, furnish).await?;
        match vm.boot(size, self.0.config.disk_rate).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                // The error of `boot` is the cause to report, so a failure to destroy the machine is only logged.
                vm.destroy().await.or_warn("destroy machine that failed to start", "firecracker");
                Err(error)
            }
        }
    }

    /// Returns `spec` with its grants checked, and the size of its machine. Refuses every spec that the agent in the guest would
    /// refuse. May block on disk I/O.
    fn plan(&self, spec: SandboxSpec) -> Result<(SandboxSpec, Size), IsolationError> {
        let processors = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        let spec = own_state::checked(spec, &self.0.config.folders())?;
        container::plan_over(Path::new("/"), &spec)?;
        grants::refuse_copy_on_write(&spec.grants, Self::NAME)?;
        // Fails for network grants and secrets that the gateway would refuse later.
        egress::describe_for_machine(&spec)?;
        let size = Size::for_spec(&spec, processors, AgentProgram::current()?.bytes())?;
        Ok((spec, size))
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<GuestSandbox>, IsolationError> {
        let backend = self.clone();
        let (spec, size) = blocking(move || backend.plan(spec)).await?;
        let limits = spec.limits.clone();
        // Copies may fill half of the disk. The other half is left for the changes of the sandbox to the copies and to its root.
        let copies = Copies::plan(&spec.grants, Path::new(boot::COPIES), size.disk / 2).await?;
        let grants = copies.as_ref().map(|copies| copies.granted()).unwrap_or_default();
        // Changes go to the machine's own disk, so the sandbox in the guest needs no volume.
        let spec = SandboxSpec { grants, writable: Writable::default(), ..spec };
        let machine = FirecrackerMachine::new(self.clone(), self.machine(size).await?, size, limits);
        let how = Attach::New(Box::new(GuestSpec { spec, identity: Some(MachineIdentity::generate()?), copies }));
        machine.open(next_machine_id(Self::NAME), how).await
    }
}

#[async_trait]
impl Attackable for FirecrackerBackend {
    async fn create_to_attack(&self, spec: SandboxSpec) -> Result<Arc<dyn AttackedSandbox>, IsolationError> {
        Ok(self.create(spec).await?)
    }
}

#[async_trait]
impl IsolationBackend for FirecrackerBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn traits(&self) -> BackendTraits {
        BackendTraits {
            own_kernel: true,
            own_root: true,
            uid_zero: true,
            moves_grants: true,
            volumes: true,
            egress: true,
            // Machines resume from saved memory, except the first one of each size.
            startup: Startup::Milliseconds,
            ..BackendTraits::UNKNOWN
        }
    }

    fn explain(&self, spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
        let (spec, Size { vcpus, memory_mib, disk }) = self.plan(spec.clone())?;
        let machine = format!(
            "own kernel, {vcpus} vCPUs, {memory_mib} MiB of memory, own disk of {} MiB (deleted with the machine)",
            disk >> 20
        );
        let mut lines = vec![
            PlanLine::new("machine", machine),
            PlanLine::new(
                "host side",
                "Firecracker in its own namespaces; as root, also in its jailer: chroot and a separate user",
            ),
            PlanLine::new("grants", "copied into the machine; changes in read-write grants are copied back"),
            PlanLine::new("inside", "an agentd sandbox on the root file system of the machine:"),
        ];
        lines.extend(explain::inside_machine(&spec)?);
        lines.extend(egress::describe_for_machine(&spec)?);
        Ok(lines)
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        // Check the requirements first, so that a missing program is reported as such and not as a failed attack.
        let config = self.0.config.clone();
        blocking(move || config.assets()).await?;
        let mut evidence = probe::attack(self, &self.0.config.work_root).await?;
        evidence.push(probe::change_own_root(self).await);
        let sandbox = self.create(SandboxSpec::default()).await?;
        let inside = sandbox.evidence_inside().await;
        evidence.push(probe::own_kernel(&*sandbox).await);
        sandbox.destroy().await?;
        evidence.extend(inside?);
        evidence.extend(probe::granted_hosts(self, NetworkMode::Egress).await);
        let mut proven = probe::capabilities(Self::NAME, evidence);
        // All machines of this probe, except possibly the first, were resumed from a snapshot.
        proven.snapshots = true;
        proven.platform_features.push(format!("Firecracker {FIRECRACKER_VERSION}"));
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
        let destroyed = self.0.live.destroy_all().await;
        let store = self.0.store.clone();
        blocking(move || store.clear()).await?;
        destroyed
    }
}
