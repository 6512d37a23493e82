//! `host-direct`: no boundary. Commands run as the caller, with the same care for trees, limits, output and environment as
//! everywhere else, and every isolation bit false. It must be asked for by name.

use crate::{
    fallback,
    linked::{Kind, LinkedBackend},
};
use agentd_core::{IsolationError, Network, Root, SandboxSpec, Writable};
use agentd_kernel::{
    cgroup::CgroupPlan,
    namespace::{Ids, NamespacePlan},
    privileges::Capabilities,
};
use agentd_supervisor::plan::{SandboxPlan, Tree};

/// See the head of this module.
pub type HostDirectBackend = LinkedBackend<HostDirect>;

/// The kind of [`HostDirectBackend`].
pub struct HostDirect;

impl Kind for HostDirect {
    const NAME: &'static str = "host-direct";
    const BOUNDARY: Option<Capabilities> = None;

    /// Refuses what only another file tree than the host's could be: a command that was written for an image must not meet the host
    /// instead.
    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        let invalid = |what: &str, reason: &str| IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() };
        if spec.root != Root::Host {
            return Err(invalid("root", "host-direct runs on the host's own tree: use the container backend for an image"));
        }
        if spec.grants.iter().any(|grant| grant.target.as_ref().is_some_and(|target| *target != grant.path)) {
            return Err(invalid("grant", "host-direct shows nothing elsewhere than where it is"));
        }
        if spec.writable != Writable::Memory {
            return Err(invalid(
                "writable",
                "host-direct has no root of its own whose changes could be kept: use the container backend",
            ));
        }
        fallback::check(&spec.limits)?;
        let mut cgroup = CgroupPlan::from_limits(&spec.limits);
        let rlimit_notes = fallback::cpu_time(&mut cgroup).into_iter().collect();
        Ok(SandboxPlan {
            namespaces: NamespacePlan { enabled: false, network: Network::Host, ids: Ids::Apart },
            tree: Tree::Host,
            capabilities: Capabilities::NONE,
            landlock: None,
            seccomp: None,
            cgroup,
            process_rlimit: None,
            rlimit_notes,
            allow_degraded: spec.allow_degraded,
        })
    }
}
