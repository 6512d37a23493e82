//! What a sandbox will be, resolved: the value that `agentd run --explain` prints and the launcher carries out.

use agentd_kernel::{
    cgroup::CgroupPlan,
    landlock::LandlockPlan,
    mount::{ViewPlan, root::RootPlan},
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
    /// The mount view of the host's own tree.
    pub view: ViewPlan,
    /// A root of its own instead, in which the payload is root.
    pub root: Option<RootPlan>,
    /// The capabilities it keeps, in its own user namespace.
    pub capabilities: Capabilities,
    /// The Landlock rules.
    pub landlock: LandlockPlan,
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
