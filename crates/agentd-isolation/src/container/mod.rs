//! `container`: a root of its own, in which the payload is root and which may be changed and thrown away.
//!
//! Beside what [`crate::LinuxNativeBackend`] has — namespaces, seccomp, Landlock, cgroups — the host's tree is gone (`pivot_root(2)`):
//! the root is an image's layers under a writable one, or a read-only view of the host's programs. As root's, each sandbox has
//! 65536 host ids that no other live one has; as an ordinary user's, its root is that user.

mod plan;

use crate::{launcher, probe, sandbox::LinkedSandbox, tracker::Tracker};
use agentd_core::{BackendCapabilities, IsolationBackend, IsolationError, Profile, Sandbox, SandboxId, SandboxSpec};
use agentd_kernel::privileges::Capabilities;
use agentd_supervisor::plan::SandboxPlan;
use async_trait::async_trait;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

/// See the head of this module.
pub struct ContainerBackend {
    me: Weak<Self>,
    live: Tracker,
    work_root: PathBuf,
}

impl ContainerBackend {
    /// The canonical name.
    pub const NAME: &'static str = "container";

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
impl IsolationBackend for ContainerBackend {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        let mut proven =
            probe::probe(self, |spec| self.create_linked(spec), Some(Capabilities::OWN_ROOT), &self.work_root).await?;
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
