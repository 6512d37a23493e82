//! What makes sandboxes in a guest, over a directory of it.

use super::{copies::Held, told::shown};
use crate::{
    container,
    linked::{Kind, LinkedBackend},
    probe,
    sandbox::LinkedSandbox,
};
use agentd_core::{Evidence, IsolationError, SandboxSpec};
use agentd_kernel::privileges::Capabilities;
use agentd_supervisor::plan::SandboxPlan;
use rustix::mount::{MountFlags, UnmountFlags};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use tokio::sync::{Mutex, MutexGuard};

/// The directory that becomes the root of sandboxes, of which a guest has one.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// The kind of sandboxes in a guest.
pub struct Over;

impl Kind for Over {
    const NAME: &'static str = "guest";
    const BOUNDARY: Option<Capabilities> = Some(Capabilities::OWN_ROOT);
    const OWN_MACHINE: bool = true;

    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        let root = ROOT.get().ok_or_else(|| IsolationError::Lost("the root of the guest".to_owned()))?;
        container::plan_over(root, spec)
    }
}

/// See the head of this module.
pub(super) struct Inside {
    backend: Arc<LinkedBackend<Over>>,
    /// The directory that becomes the sandbox's root.
    pub(super) root: PathBuf,
    /// What was copied here, by its number.
    copies: Mutex<BTreeMap<u32, Held>>,
}

impl Inside {
    pub(super) fn new(root: &Path) -> Arc<Self> {
        ROOT.get_or_init(|| root.to_path_buf());
        Arc::new(Self { backend: LinkedBackend::new(root), root: root.to_path_buf(), copies: Mutex::default() })
    }

    /// Makes a sandbox.
    pub(super) async fn make(&self, spec: SandboxSpec) -> Result<Arc<LinkedSandbox>, IsolationError> {
        self.backend.create_linked(spec).await
    }

    /// What was copied here.
    pub(super) async fn copies(&self) -> MutexGuard<'_, BTreeMap<u32, Held>> {
        self.copies.lock().await
    }

    /// Attacks such a sandbox, and exceeds its limits. Changing the root is no attack: it is the sandbox's own.
    pub(super) async fn probe(&self) -> Result<Vec<Evidence>, IsolationError> {
        let io = |source| IsolationError::Io { context: "a place for the probe in the guest".to_owned(), source };
        let place = Place::make().map_err(io)?;
        let mut evidence = probe::attack(&*self.backend, &place.0).await?;
        evidence.extend(probe::limits(&*self.backend).await);
        Ok(shown(evidence))
    }
}

/// A file system in memory, which no root is of: what is there is outside of every sandbox. Gone when dropped.
struct Place(PathBuf);

impl Place {
    fn make() -> io::Result<Self> {
        let place = std::env::temp_dir().join(format!("agentd-probe-place-{}", std::process::id()));
        std::fs::create_dir_all(&place)?;
        rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
        Ok(Self(place))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed ends with the machine.
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).ok();
        std::fs::remove_dir(&self.0).ok();
    }
}
