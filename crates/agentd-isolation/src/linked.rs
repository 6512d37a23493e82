//! The backends whose sandboxes share the host's kernel: the launcher makes them all, and what tells one from another is the plan.

use crate::{
    launcher,
    layered::{Home, LayeredSandbox},
    probe::{self, Attackable},
    sandbox::LinkedSandbox,
    tracker::Tracker,
};
use agentd_core::{
    BackendCapabilities, Command, Evidence, IsolationBackend, IsolationError, Layer, Limits, Outcome, Profile, Sandbox,
    SandboxId, SandboxSpec, Writable,
};
use agentd_kernel::{idmap::Subordinate, privileges::Capabilities};
use agentd_supervisor::plan::SandboxPlan;
use async_trait::async_trait;
use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};
use tokio::sync::OnceCell;

/// Whether the caller is an ordinary user with subordinate ids that `container` can use: what is proven depends on it.
pub fn has_subordinate_ids() -> bool {
    // As root, all sandboxes have ids of their own.
    !rustix::process::geteuid().is_root() && Subordinate::of_caller().is_ok()
}

/// What one of them is.
pub trait Kind: Send + Sync + 'static {
    /// Its canonical name.
    const NAME: &'static str;
    /// The capabilities that a payload keeps behind the boundary; `None` where there is none.
    const BOUNDARY: Option<Capabilities>;
    /// Whether a sandbox has a machine of its own, with its programs, accounts and ids.
    const OWN_MACHINE: bool = false;
    /// Whether it runs over layers on disk.
    const LAYERS: bool = false;
    /// What a spec comes to on this machine.
    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError>;
}

/// A backend of this kind.
pub struct LinkedBackend<K> {
    me: Weak<Self>,
    live: Tracker<LinkedSandbox>,
    layered: Arc<Tracker<LayeredSandbox>>,
    /// Where their layers are, once there are some.
    home: OnceCell<Arc<Home>>,
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
            layered: Arc::default(),
            home: OnceCell::new(),
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

    fn me(&self) -> Result<Arc<Self>, IsolationError> {
        self.me.upgrade().ok_or_else(|| IsolationError::Lost("backend".to_owned()))
    }

    async fn create_layered(&self, spec: SandboxSpec) -> Result<Arc<LayeredSandbox>, IsolationError> {
        let make = || async {
            let work_root = self.work_root.clone();
            match tokio::task::spawn_blocking(move || Home::below(&work_root)).await {
                Ok(home) => home,
                Err(error) => Err(IsolationError::Lost(format!("a thread that waited for a disk: {error}"))),
            }
        };
        let home = self.home.get_or_try_init(make).await?.clone();
        LayeredSandbox::create(home, self.me()?, &self.layered, spec).await
    }

    pub(crate) async fn create_linked(&self, spec: SandboxSpec) -> Result<Arc<LinkedSandbox>, IsolationError> {
        self.create_planned(K::plan(&spec)?, spec.limits).await
    }

    /// A sandbox of a plan of this kind, for what a spec has no words for; `limits` are those that it was made from.
    pub(crate) async fn create_planned(&self, plan: SandboxPlan, limits: Limits) -> Result<Arc<LinkedSandbox>, IsolationError> {
        let launcher = launcher::get()?;
        let ordered = launcher.create(plan).await?;
        let me = self.me()?;
        let sandbox = LinkedSandbox::open(ordered, me, limits).await?;
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
        self.own_root().is_some() && !K::OWN_MACHINE && has_subordinate_ids()
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
        if K::LAYERS {
            match probe::snapshots(self).await {
                Ok(()) => proven.snapshots = true,
                Err(why) => proven.platform_features.push(format!("no snapshots: {why}")),
            }
        }
        Ok(proven)
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        if K::LAYERS && spec.writable == Writable::Layers {
            return Ok(self.create_layered(spec).await?);
        }
        Ok(self.create_linked(spec).await?)
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        Ok([self.live.ids().await, self.layered.ids().await].concat())
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        match self.live.get(id).await {
            None => Ok(self.layered.get(id).await),
            found => Ok(found),
        }
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        let linked = self.live.destroy_all().await;
        self.layered.destroy_all().await.and(linked)
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.create_linked(SandboxSpec::default()).await?.destroy().await
    }
}
