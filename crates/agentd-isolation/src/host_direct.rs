//! `host-direct`: no boundary. Commands run as the caller, with the same care for trees, limits, output and environment as
//! everywhere else, and every isolation bit false. It must be asked for by name.

use crate::{launcher, probe, sandbox::LinkedSandbox, tracker::Tracker};
use agentd_core::{
    BackendCapabilities, Evidence, IsolationBackend, IsolationError, Network, Root, Sandbox, SandboxId, SandboxSpec,
};
use agentd_kernel::{
    cgroup::CgroupPlan, landlock::LandlockPlan, mount::ViewPlan, namespace::NamespacePlan, privileges::Capabilities,
};
use agentd_supervisor::plan::SandboxPlan;
use async_trait::async_trait;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

/// See the head of this module.
pub struct HostDirectBackend {
    me: Weak<Self>,
    live: Tracker,
}

impl HostDirectBackend {
    /// The canonical name.
    pub const NAME: &'static str = "host-direct";

    /// A backend. `work_root` is not used: it makes no files.
    pub fn new(_work_root: &Path) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), live: Tracker::default() })
    }

    /// What a spec comes to here.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for what only another file tree than the host's could be: a command that was written for an image
    /// must not meet the host instead.
    pub fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        let invalid = |what: &str, reason: &str| IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() };
        if spec.root != Root::Host {
            return Err(invalid("root", "host-direct runs on the host's own tree: use the container backend for an image"));
        }
        if spec.grants.iter().any(|grant| grant.target.as_ref().is_some_and(|target| *target != grant.path)) {
            return Err(invalid("grant", "host-direct shows nothing elsewhere than where it is"));
        }
        crate::fallback::check(&spec.limits)?;
        let mut cgroup = CgroupPlan::from_limits(&spec.limits);
        let rlimit_notes = crate::fallback::cpu_time(&mut cgroup).into_iter().collect();
        Ok(SandboxPlan {
            namespaces: NamespacePlan { enabled: false, network: Network::Host },
            view: ViewPlan {
                enabled: false,
                masks: Vec::new(),
                shown: Vec::new(),
                home: PathBuf::new(),
                grants: Vec::new(),
                scratch_bytes: 0,
            },
            root: None,
            capabilities: Capabilities::NONE,
            landlock: LandlockPlan { enabled: false, rules: Vec::new(), network: Network::Host },
            seccomp: None,
            cgroup,
            process_rlimit: None,
            rlimit_notes,
            allow_degraded: spec.allow_degraded,
        })
    }

    /// What the attack suite does where there is no boundary: an attack that does not succeed here proves nothing where it is held.
    /// The attacks only show that a way is open; they change nothing.
    pub async fn attack(&self, work_root: &Path) -> Result<Vec<Evidence>, IsolationError> {
        probe::attack(|spec| self.create_linked(spec), None, work_root).await
    }

    async fn create_linked(&self, spec: SandboxSpec) -> Result<Arc<LinkedSandbox>, IsolationError> {
        let launcher = launcher::get()?;
        let ordered = launcher.create(Self::plan(&spec)?).await?;
        let me = self.me.upgrade().ok_or_else(|| IsolationError::Lost("backend".to_owned()))?;
        let sandbox = LinkedSandbox::open(ordered, me, spec.limits).await?;
        self.live.add(&sandbox);
        Ok(sandbox)
    }
}

#[async_trait]
impl IsolationBackend for HostDirectBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        Ok(BackendCapabilities::from_evidence(Self::NAME, Vec::new()))
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        Ok(self.create_linked(spec).await?)
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
        launcher::get().map(drop)
    }
}
