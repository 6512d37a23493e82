//! The backend: makes machines of the assets that were built, and has their agents make sandboxes.

use super::{
    FirecrackerConfig, boot,
    config::unavailable,
    disk,
    initramfs::Program,
    machine::FirecrackerMachine,
    size::Size,
    template::Templates,
    vm::{self, Vm},
};
use crate::{
    container, data_directory,
    guest::{Attach, Copies, GuestSandbox, GuestSpec, Identity},
    probe::{self, Attackable},
    store::{Fresh, Store, blocking},
    tracker::Tracker,
};
use agentd_core::{
    BackendCapabilities, Command, IsolationBackend, IsolationError, Outcome, Profile, Sandbox, SandboxId, SandboxSpec, Writable,
};
use agentd_kernel::privileges::Capabilities;
use agentd_vm::{Assets, FIRECRACKER_VERSION};
use async_trait::async_trait;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Sandboxes in virtual machines of Firecracker's.
pub struct FirecrackerBackend {
    me: Weak<Self>,
    config: FirecrackerConfig,
    store: Store,
    live: Tracker<GuestSandbox>,
    work_root: PathBuf,
}

/// Numbers the sandboxes of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

impl FirecrackerBackend {
    /// The canonical name.
    pub const NAME: &'static str = "firecracker";

    /// A backend whose probe makes its targets below `work_root`.
    pub fn new(config: FirecrackerConfig, work_root: &Path) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            store: Store::new(&config.machines, |dead| std::fs::remove_dir_all(dead)),
            config,
            live: Tracker::default(),
            work_root: work_root.to_path_buf(),
        })
    }

    /// One with what is in agentd's data directory.
    pub(crate) fn installed(work_root: &Path) -> Result<Arc<Self>, IsolationError> {
        let data = data_directory().ok_or_else(|| {
            unavailable("there is no place for programs and machines: set HOME, XDG_DATA_HOME or AGENTD_DATA_DIR".to_owned())
        })?;
        Ok(Self::new(FirecrackerConfig::below(&data), work_root))
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn add(&self, sandbox: &Arc<GuestSandbox>) {
        self.live.add(sandbox);
    }

    pub(super) fn next_id(&self) -> SandboxId {
        SandboxId(format!("{}-{}-{}", Self::NAME, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A folder for a machine.
    async fn fresh(&self) -> Result<Fresh, IsolationError> {
        let store = self.store.clone();
        blocking(move || store.make()).await
    }

    /// A machine that waits to be attached to: from a template, which the first one of its size becomes.
    async fn machine(&self, size: Size) -> Result<Vm, IsolationError> {
        let assets = self.config.assets()?;
        let failed = |source| IsolationError::Io { context: "look for templates".to_owned(), source };
        let templates = Templates::of(&self.config).map_err(failed)?;
        if let Some(template) = templates.find(size) {
            return self.resume(template.folder(), size).await;
        }
        let vm = self.boot(assets, size).await?;
        match templates.make(size, &vm).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                // The first error is the one to tell.
                vm.destroy().await.ok();
                Err(error)
            }
        }
    }

    /// A Firecracker that is told later which snapshot its machine goes on from.
    pub(super) async fn empty(&self, size: Size) -> Result<Vm, IsolationError> {
        Vm::start(self.fresh().await?, &self.config.programs, size, &self.config.assets, |_| Ok(())).await
    }

    /// A machine that goes on from a snapshot.
    pub(super) async fn resume(&self, snapshot: &Path, size: Size) -> Result<Vm, IsolationError> {
        let vm = self.empty(size).await?;
        match vm.load(snapshot).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                // The first error is the one to tell.
                vm.destroy().await.ok();
                Err(error)
            }
        }
    }

    /// A machine that has booted.
    async fn boot(&self, assets: Assets, size: Size) -> Result<Vm, IsolationError> {
        let program = Program::own()?;
        let disks = self.config.disks.clone();
        let furnish = move |root: &Path| {
            program.initramfs(&assets, &root.join(vm::INITRAMFS))?;
            disk::make(&disks, size.disk, &root.join(vm::DISK))
        };
        let vm = Vm::start(self.fresh().await?, &self.config.programs, size, &self.config.assets, furnish).await?;
        match vm.boot(size, self.config.disk_rate).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                // The first error is the one to tell.
                vm.destroy().await.ok();
                Err(error)
            }
        }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<GuestSandbox>, IsolationError> {
        let processors = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        // What the agent would refuse is refused before there is a machine.
        container::plan_over(Path::new("/"), &spec)?;
        let size = Size::of(&spec, processors, Program::own()?.bytes())?;
        let me = self.me.upgrade().ok_or_else(|| IsolationError::Lost("backend".to_owned()))?;
        let limits = spec.limits.clone();
        // The other half is for what the sandbox makes of them, and of its root.
        let copies = Copies::plan(&spec.grants, Path::new(boot::COPIES), size.disk / 2).await?;
        let grants = copies.as_ref().map(|copies| copies.granted()).unwrap_or_default();
        // What is written goes to the machine's own disk.
        let spec = SandboxSpec { grants, writable: Writable::default(), ..spec };
        let machine = FirecrackerMachine::new(me, self.machine(size).await?, size, limits);
        let how = Attach::New(Box::new(GuestSpec { spec, identity: Some(Identity::individual()?), copies }));
        machine.open(self.next_id(), how).await
    }
}

#[async_trait]
impl Attackable for FirecrackerBackend {
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
impl IsolationBackend for FirecrackerBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        // What is missing is the first thing to know.
        self.config.assets()?;
        let mut evidence = probe::attack(self, &self.work_root).await?;
        evidence.push(probe::change_own_root(self).await);
        let sandbox = self.create(SandboxSpec::default()).await?;
        let inside = probe::inside(&sandbox).await;
        sandbox.destroy().await?;
        evidence.extend(inside?);
        let mut proven = BackendCapabilities::from_evidence(Self::NAME, evidence);
        // All machines of this probe but the first went on from a snapshot.
        proven.snapshots = true;
        proven.available_profiles = vec![Profile::Strict, Profile::Default, Profile::Permissive];
        proven.platform_features = probe::features();
        proven.platform_features.push(format!("Firecracker {FIRECRACKER_VERSION}"));
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
        let destroyed = self.live.destroy_all().await;
        self.store.clear()?;
        destroyed
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.create(SandboxSpec::default()).await?.destroy().await
    }
}
