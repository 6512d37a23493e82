//! The backends whose sandboxes share the host's kernel: the launcher makes them all, and what tells one from another is the plan.

use crate::{
    launcher,
    probe::{self, Attackable},
    sandbox::LinkedSandbox,
    tracker::Tracker,
};
use agentd_core::{
    BackendCapabilities, Command, Evidence, IsolationBackend, IsolationError, Layer, Outcome, Profile, Sandbox, SandboxId,
    SandboxSpec,
};
use agentd_kernel::{idmap::Subordinate, privileges::Capabilities};
use agentd_supervisor::plan::SandboxPlan;
use async_trait::async_trait;
use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

/// What one of them is.
pub trait Kind: Send + Sync + 'static {
    /// Its canonical name.
    const NAME: &'static str;
    /// The capabilities that a payload keeps behind the boundary; `None` where there is none.
    const BOUNDARY: Option<Capabilities>;
    /// Whether a sandbox has a machine of its own, with its programs, accounts and ids.
    const OWN_MACHINE: bool = false;
    /// What a spec comes to on this machine.
    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError>;
}

/// A backend of this kind.
pub struct LinkedBackend<K> {
    me: Weak<Self>,
    live: Tracker<LinkedSandbox>,
    work_root: PathBuf,
    kind: PhantomData<K>,
}

impl<K: Kind> LinkedBackend<K> {
    /// The canonical name.
    pub const NAME: &'static str = K::NAME;

    /// A backend whose probe makes its targets below `work_root`.
    pub fn new(work_root: &Path) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            live: Tracker::default(),
            work_root: work_root.to_path_buf(),
            kind: PhantomData,
        })
    }

    /// What a spec comes to on this machine: a value to be shown, compared and carried out.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for what this backend cannot give.
    pub fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        K::plan(spec)
    }

    /// What the attack suite does in a sandbox of this backend. Without a boundary, an attack that does not succeed proves nothing
    /// where it is held. The attacks only show that a way is open; they change nothing.
    pub async fn attack(&self) -> Result<Vec<Evidence>, IsolationError> {
        probe::attack(self, &self.work_root).await
    }

    pub(crate) async fn create_linked(&self, spec: SandboxSpec) -> Result<Arc<LinkedSandbox>, IsolationError> {
        let launcher = launcher::get()?;
        let ordered = launcher.create(K::plan(&spec)?).await?;
        let me = self.me.upgrade().ok_or_else(|| IsolationError::Lost("backend".to_owned()))?;
        let sandbox = LinkedSandbox::open(ordered, me, spec.limits).await?;
        self.live.add(&sandbox);
        Ok(sandbox)
    }
}

#[async_trait]
impl<K: Kind> Attackable for LinkedBackend<K> {
    fn own_root(&self) -> Option<Capabilities> {
        K::BOUNDARY.filter(|kept| *kept != Capabilities::NONE)
    }

    fn own_machine(&self) -> bool {
        K::OWN_MACHINE
    }

    fn has_more_ids_without_grants(&self) -> bool {
        // As root, all sandboxes have them.
        self.own_root().is_some() && !K::OWN_MACHINE && !rustix::process::geteuid().is_root() && Subordinate::of_caller().is_ok()
    }

    async fn attack_in(&self, spec: SandboxSpec, command: Command) -> Result<Outcome, IsolationError> {
        let sandbox = self.create_linked(spec).await?;
        let outcome = sandbox.attack(command).await;
        sandbox.destroy().await?;
        outcome
    }
}

#[async_trait]
impl<K: Kind> IsolationBackend for LinkedBackend<K> {
    fn name(&self) -> &str {
        K::NAME
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        if K::BOUNDARY.is_none() {
            return Ok(BackendCapabilities::from_evidence(K::NAME, Vec::new()));
        }
        let mut proven = probe::probe(self, &self.work_root).await?;
        proven.available_profiles = vec![Profile::Strict, Profile::Default, Profile::Permissive];
        let sandbox = self.create_linked(SandboxSpec::default()).await?;
        proven
            .platform_features
            .extend(sandbox.layers().iter().filter(|made| made.layer == Layer::Idmap).map(|made| made.detail.clone()));
        sandbox.destroy().await?;
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
        self.create_linked(SandboxSpec::default()).await?.destroy().await
    }
}
