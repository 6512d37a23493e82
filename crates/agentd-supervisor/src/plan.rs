//! What a sandbox will be, resolved: the value that `agentd run --explain` prints and the launcher carries out.

use agentd_kernel::{
    cgroup::CgroupPlan,
    landlock::LandlockPlan,
    mount::{
        GrantPlan, ViewPlan,
        root::{Base, RootPlan},
    },
    namespace::NamespacePlan,
    privileges::Capabilities,
    seccomp::SeccompPlan,
};
use serde::{Deserialize, Serialize};

/// Every layer of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The namespaces.
    pub namespaces: NamespacePlan,
    /// The file tree.
    pub tree: Tree,
    /// The capabilities it keeps, in its own user namespace.
    pub capabilities: Capabilities,
    /// The Landlock rules; `None` for none.
    pub landlock: Option<LandlockPlan>,
    /// The system call filter; `None` for none.
    pub seccomp: Option<SeccompPlan>,
    /// Limits of the whole sandbox.
    pub cgroup: CgroupPlan,
    /// Tasks that the supervisor may see at once before it reports the process limit, where no cgroup counts them
    /// (`RLIMIT_NPROC` of the payload).
    pub process_rlimit: Option<u64>,
    /// What of the limits holds less than it says, in words.
    pub rlimit_notes: Vec<String>,
    /// Whether a layer that cannot be applied is reported instead of ending the sandbox.
    pub allow_degraded: bool,
}

impl SandboxPlan {
    /// Whether all that is mounted in it is its own memory or the system's, so that nobody waits for its mounts to be gone: no directory of
    /// the caller's, none that is kept, no device that is detached.
    pub(crate) fn ends_alone(&self) -> bool {
        let keeps = self.tree.root().is_some_and(|root| !matches!(root.base, Base::Stack { top: None, .. }));
        self.namespaces.enabled && self.tree.grants().is_empty() && !keeps
    }
}

/// What a sandbox sees of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// The host's, as it is.
    Host,
    /// A view of the host's own.
    View(ViewPlan),
    /// A root of its own, in which the payload is root.
    Root(RootPlan),
}

impl Tree {
    /// The host's paths that are shown in it, parents before children.
    pub fn grants(&self) -> &[GrantPlan] {
        match self {
            Self::Host => &[],
            Self::View(view) => &view.grants,
            Self::Root(root) => &root.grants,
        }
    }

    /// The root, where it is one of the sandbox's own.
    pub fn root(&self) -> Option<&RootPlan> {
        match self {
            Self::Root(root) => Some(root),
            _ => None,
        }
    }
}
