//! The resolved plan of a sandbox: `agentd run --explain` prints it, and the launcher carries it out.

use agentd_kernel::{
    cgroup::CgroupPlan,
    gateway::GatewayPorts,
    landlock::LandlockPlan,
    mount::{
        GrantPlan, ViewPlan,
        root::{Base, RootPlan},
        trust::TrustPlan,
    },
    namespace::NamespacePlan,
    privileges::Capabilities,
    seccomp::SeccompPlan,
};
use serde::{Deserialize, Serialize};

/// All controls of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The namespaces.
    pub namespaces: NamespacePlan,
    /// The ports at which the gateway has sockets, if the network is limited to granted hosts.
    pub gateway_ports: GatewayPorts,
    /// The file tree.
    pub tree: Tree,
    /// The capabilities that the payload keeps in the sandbox's own user namespace.
    pub capabilities: Capabilities,
    /// The Landlock rules; `None` for none.
    pub landlock: Option<LandlockPlan>,
    /// The system call filter; `None` for none.
    pub seccomp: Option<SeccompPlan>,
    /// Limits of the whole sandbox.
    pub cgroup: CgroupPlan,
    /// `RLIMIT_NPROC` of the supervisor, which commands inherit; set if no cgroup counts tasks. When the supervisor sees that
    /// many tasks, it ends all running commands, and reports that they reached the process limit.
    pub process_rlimit: Option<u64>,
    /// Descriptions of limits that are weaker than requested.
    pub rlimit_notes: Vec<String>,
    /// If true, a control that cannot be applied is reported instead of ending the sandbox.
    pub allow_degraded: bool,
}

impl SandboxPlan {
    /// Returns true if every mount of the sandbox is private memory or part of the system. The sandbox then has no granted
    /// directory, no kept upper directory, and no device to detach. The end of such a sandbox does not wait for the teardown of
    /// its mounts (`docs/decisions/0004-tear-down-private-mounts-asynchronously.md`).
    pub(crate) fn ends_alone(&self) -> bool {
        let keeps = self.tree.root().is_some_and(|root| !matches!(root.base, Base::Stack { upper: None, .. }));
        self.namespaces.enabled && self.tree.grants().is_empty() && !keeps
    }
}

/// The parts of a plan that are known before the sandbox is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedPlan {
    /// The namespaces.
    pub namespaces: NamespacePlan,
    /// The system call filter. A plan with another filter can also be applied, but takes longer.
    pub seccomp: SeccompPlan,
    /// The size limit of the private directories, if the tree is expected to be a view; see [`ViewPlan::scratch_bytes`].
    pub view: Option<u64>,
}

impl ExpectedPlan {
    /// Returns true if a first process that was started for this expectation can apply `plan`. The process is in no control
    /// group, because a process must enter its group before it creates its cgroup namespace.
    pub(crate) fn suits(&self, plan: &SandboxPlan) -> bool {
        let suits_view = self.view.is_none_or(|bytes| {
            let is_same = matches!(&plan.tree, Tree::View(view) if view.scratch_bytes == bytes);
            // Degraded isolation might require reverting early steps, and these cannot be reverted.
            is_same && plan.capabilities == Capabilities::NONE && !plan.allow_degraded
        });
        self.namespaces == plan.namespaces && plan.cgroup.is_empty() && suits_view
    }
}

/// The file tree of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// The host's tree, unchanged.
    Host,
    /// A restricted view of the host's tree.
    View(ViewPlan),
    /// A separate root, in which the payload is root.
    Root(RootPlan),
}

impl Tree {
    /// Returns the host paths that are mounted in the sandbox, parents before children.
    pub fn grants(&self) -> &[GrantPlan] {
        match self {
            Self::Host => &[],
            Self::View(view) => &view.grants,
            Self::Root(root) => &root.grants,
        }
    }

    /// Returns the trust stores of the payload, if its TLS is inspected.
    pub fn trust(&self) -> Option<&TrustPlan> {
        match self {
            Self::Host => None,
            Self::View(view) => view.trust.as_ref(),
            Self::Root(root) => root.trust.as_ref(),
        }
    }

    /// Adds the trust stores of the payload. Without a boundary, there is no place for them.
    pub fn set_trust(&mut self, trust: TrustPlan) {
        match self {
            Self::Host => {}
            Self::View(view) => view.trust = Some(trust),
            Self::Root(root) => root.trust = Some(trust),
        }
    }

    /// Returns the root, if the sandbox has a separate one.
    pub fn root(&self) -> Option<&RootPlan> {
        match self {
            Self::Root(root) => Some(root),
            _ => None,
        }
    }
}
