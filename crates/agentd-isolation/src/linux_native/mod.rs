//! `linux-native`: the host's own file tree, fenced, for root and for ordinary users.
//!
//! Namespaces take away the host's processes, network and ipc; a private mount view takes away the names of what is not granted;
//! Landlock refuses what the view still names; seccomp refuses system calls that no ordinary program makes; a cgroup holds the
//! limits. The payload has no capability and is never uid 0 of the host.

mod plan;

pub(crate) use plan::SCRATCH_BYTES;
pub use plan::SYSTEM_DIRECTORIES;

use crate::{launcher, probe, sandbox::LinkedSandbox, tracker::Tracker};
use agentd_core::{BackendCapabilities, IsolationBackend, IsolationError, Profile, Sandbox, SandboxId, SandboxSpec};
use agentd_supervisor::plan::SandboxPlan;
use async_trait::async_trait;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

/// See the head of this module.
pub struct LinuxNativeBackend {
    me: Weak<Self>,
    live: Tracker,
    work_root: PathBuf,
}

impl LinuxNativeBackend {
    /// The canonical name.
    pub const NAME: &'static str = "linux-native";

    /// A backend whose probe makes its targets below `work_root`.
    pub fn new(work_root: &Path) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), live: Tracker::default(), work_root: work_root.to_path_buf() })
    }

    /// What a spec comes to on this machine: a value to be shown, compared and carried out.
    pub fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        plan::plan(spec)
    }

    async fn create_linked(&self, spec: SandboxSpec) -> Result<Arc<LinkedSandbox>, IsolationError> {
        let launcher = launcher::get()?;
        let ordered = launcher.create(plan::plan(&spec)?).await?;
        let me = self.me.upgrade().ok_or_else(|| IsolationError::Lost("backend".to_owned()))?;
        let sandbox = LinkedSandbox::open(ordered, me, spec.limits).await?;
        self.live.add(&sandbox);
        Ok(sandbox)
    }
}

#[async_trait]
impl IsolationBackend for LinuxNativeBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        let mut proven = probe::probe(self, |spec| self.create_linked(spec), None, &self.work_root).await?;
        proven.available_profiles = vec![Profile::Strict, Profile::Default, Profile::Permissive];
        Ok(proven)
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
        let sandbox = self.create_sandbox(SandboxSpec::default()).await?;
        sandbox.destroy().await
    }
}
