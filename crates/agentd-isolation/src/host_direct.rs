//! `host-direct`: no boundary. Commands run as the caller. Process trees, limits, output and environment are handled as by every
//! other backend, but no isolation claim is proven. [`crate::select::choose_backend`] never selects this backend; it must be
//! requested by name.

use crate::{
    fallback, grants,
    shared_kernel::{BackendKind, SharedKernelBackend},
};
use agentd_core::{BackendTraits, IsolationError, NetworkMode, Root, SandboxSpec, Startup, Writable};
use agentd_kernel::{
    cgroup::CgroupPlan,
    gateway::GatewayPorts,
    namespace::{Ids, NamespacePlan},
    privileges::Capabilities,
};
use agentd_supervisor::plan::{SandboxPlan, Tree};
use std::path::Path;

/// The `host-direct` backend: runs commands as the caller, without any isolation. Limits, output and process trees are handled as
/// by every other backend.
pub type HostDirectBackend = SharedKernelBackend<HostDirect>;

/// The [`BackendKind`] of [`HostDirectBackend`].
pub struct HostDirect;

impl HostDirectBackend {
    /// Creates the backend. `work_root` is the directory for its files.
    pub fn new(work_root: &Path) -> Self {
        Self::configured(work_root, ())
    }
}

impl BackendKind for HostDirect {
    const NAME: &'static str = "host-direct";
    const TRAITS: BackendTraits = BackendTraits {
        boundary: false,
        host_tools: true,
        degradable: true,
        startup: Startup::Milliseconds,
        ..BackendTraits::UNKNOWN
    };

    type Config = ();

    /// Plans a sandbox on the host's own tree. Refuses every part of a spec that needs a different file tree: a command written
    /// for an image must not run on the host instead.
    fn plan((): &(), spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        let invalid = |what: &str, reason: &str| IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() };
        if spec.root != Root::Host {
            return Err(invalid(
                "root file system",
                "host-direct runs on the host's file tree — use the container backend for an image",
            ));
        }
        if spec.grants.iter().any(|grant| grant.target.as_ref().is_some_and(|target| *target != grant.path)) {
            return Err(invalid(
                "grant",
                "host-direct cannot show a grant at another path — drop the target, or use the container backend",
            ));
        }
        grants::refuse_copy_on_write(&spec.grants, Self::NAME)?;
        if spec.writable != Writable::Memory {
            return Err(invalid(
                "storage of changes",
                "host-direct has no private root whose changes could be kept — use the container backend",
            ));
        }
        fallback::check(&spec.limits)?;
        let mut cgroup = CgroupPlan::from_limits(&spec.limits, 1);
        let rlimit_notes = fallback::cpu_time(&mut cgroup).into_iter().collect();
        Ok(SandboxPlan {
            namespaces: NamespacePlan { enabled: false, network: NetworkMode::Host, ids: Ids::Dedicated },
            gateway_ports: GatewayPorts::default(),
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
