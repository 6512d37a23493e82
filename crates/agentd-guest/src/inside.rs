//! Creates sandboxes in a guest, over one of its directories.

use super::{sanitize::sanitize_evidence, sync::GuestCopy};
use agentd_core::{BackendTraits, Evidence, IsolationError, SandboxSpec, Startup};
use agentd_isolation::{
    container, probe,
    sandbox::{NamespaceSockets, SharedKernelSandbox},
    shared_kernel::{BackendKind, SharedKernelBackend},
};
use agentd_kernel::mount::trust::TrustPlan;
use agentd_log::LogFailure as _;
use agentd_supervisor::plan::SandboxPlan;
use rustix::mount::{MountFlags, UnmountFlags};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use tokio::sync::{Mutex, MutexGuard};

/// The directory that becomes the root of every sandbox in this guest.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// The kind of backend that creates sandboxes in a guest.
pub struct GuestBackendKind;

impl BackendKind for GuestBackendKind {
    const NAME: &'static str = "guest";
    const TRAITS: BackendTraits = BackendTraits {
        own_kernel: true,
        own_root: true,
        uid_zero: true,
        moves_grants: true,
        // The gateway is outside of the machine.
        egress: true,
        startup: Startup::Milliseconds,
        ..BackendTraits::UNKNOWN
    };

    type Config = ();

    fn plan((): &(), spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        let root = ROOT
            .get()
            .ok_or_else(|| IsolationError::Internal("create a sandbox: the root directory of the guest is not set".to_owned()))?;
        container::plan_over(root, spec)
    }
}

/// Creates sandboxes over one directory of a guest, and holds the copies of granted files.
pub(super) struct GuestRoot {
    backend: SharedKernelBackend<GuestBackendKind>,
    /// The directory that becomes the sandbox's root.
    pub(super) root: PathBuf,
    /// Copies of granted files, by their number.
    copies: Mutex<BTreeMap<u32, GuestCopy>>,
}

impl GuestRoot {
    pub(super) fn new(root: &Path) -> Arc<Self> {
        ROOT.get_or_init(|| root.to_path_buf());
        Arc::new(Self { backend: SharedKernelBackend::configured(root, ()), root: root.to_path_buf(), copies: Mutex::default() })
    }

    /// Creates a sandbox. Returns the sockets of its gateway too, which is outside of the machine.
    pub(super) async fn make(
        &self,
        spec: SandboxSpec,
        trust: Option<TrustPlan>,
    ) -> Result<(Arc<SharedKernelSandbox>, NamespaceSockets), IsolationError> {
        self.backend.create_without_gateway(spec, trust).await
    }

    /// Locks the copies of granted files.
    pub(super) async fn copies(&self) -> MutexGuard<'_, BTreeMap<u32, GuestCopy>> {
        self.copies.lock().await
    }

    /// Probes the guest: creates sandboxes like that of the payload, attacks them and exceeds their limits. The check that
    /// changes the root is left out, because the root belongs to the sandbox.
    pub(super) async fn probe(&self) -> Result<Vec<Evidence>, IsolationError> {
        let io =
            |source| IsolationError::Io { context: "create the target directory of the probe in the guest".to_owned(), source };
        let place = ProbeDir::make().map_err(io)?;
        let mut evidence = probe::attack(&self.backend, &place.0).await?;
        evidence.extend(probe::limits(&self.backend).await);
        Ok(sanitize_evidence(evidence))
    }
}

/// A `tmpfs` outside of every sandbox's root, as the target of the probe's attacks. Unmounted when dropped.
struct ProbeDir(PathBuf);

impl ProbeDir {
    fn make() -> io::Result<Self> {
        let place = std::env::temp_dir().join(format!("agentd-probe-place-{}", std::process::id()));
        std::fs::create_dir_all(&place)?;
        rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
        Ok(Self(place))
    }
}

impl Drop for ProbeDir {
    fn drop(&mut self) {
        // A directory that cannot be removed disappears with the machine.
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).or_warn("unmount", &self.0);
        std::fs::remove_dir(&self.0).or_warn("remove mount point", &self.0);
    }
}
