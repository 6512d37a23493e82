//! What a spec comes to: one for the machine's host side, one for the sandbox in the guest, and the machine between them.

use crate::grants;
use agentd_core::{Access, Grant, IsolationError, Network, Root, SandboxSpec, Writable};
use agentd_gondolin::Installation;
use agentd_kernel::mount::GrantPlan;
use agentd_supervisor::protocol;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where grants are shown, on the host side and in the guest.
const GRANTS: &str = "/grants";

/// Grants beside those of the user's.
const OWN_GRANTS: usize = 3;

/// Memory of a machine whose sandbox has no limit.
const MEMORY_MIB: u64 = 1024;

/// What a guest's kernel, daemons and agent take beside the sandbox.
const GUEST_MIB: u64 = 320;

/// Processors of a machine whose sandbox has no quota, where the host has as many.
const PROCESSORS: usize = 2;

/// The machine, as `machine.mjs` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MachinePlan {
    pub memory_mib: u64,
    pub cpus: usize,
    /// The directory that is shown in the guest at the same place; none when nothing is granted.
    pub grants: Option<&'static str>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// For Node and QEMU.
    pub host: SandboxSpec,
    pub machine: MachinePlan,
    /// For the agent in the guest.
    pub guest: SandboxSpec,
}

/// Refuses what a machine of Gondolin's cannot give; gives the grants, resolved.
pub(super) fn check(spec: &SandboxSpec) -> Result<Vec<GrantPlan>, IsolationError> {
    let invalid = |what: &str, reason: &str| Err(IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() });
    if spec.root != Root::Host {
        return invalid(
            "root",
            "a machine of Gondolin's has the root that was set up for all: use the container backend for an image",
        );
    }
    if spec.writable != Writable::Memory {
        return invalid(
            "writable",
            "a machine of Gondolin's keeps nothing that is changed in its root: use the container backend",
        );
    }
    if spec.network != Network::Off {
        return invalid("network", "a machine of Gondolin's is not connected to the host's network");
    }
    crate::fallback::check(&spec.limits)?;
    grants::resolve(&spec.grants, protocol::MAX_FDS - OWN_GRANTS)
}

/// What a spec comes to with this installation.
pub(super) fn plan(spec: &SandboxSpec, installed: &Installation) -> Result<Plan, IsolationError> {
    let resolved = check(spec)?;
    let places = places(&resolved);
    let own = |path: PathBuf, target: &str| Grant {
        path,
        target: Some(PathBuf::from(target)),
        access: Access::ReadOnly,
        protect: Vec::new(),
    };
    let mut host = vec![
        own(installed.node(), "/agentd/node"),
        own(installed.package(), "/agentd/package"),
        own(installed.guest(), "/agentd/guest"),
    ];
    let mut guest = Vec::new();
    for (grant, place) in resolved.into_iter().zip(places) {
        let shown = |path: PathBuf, target: PathBuf| Grant {
            path,
            target: Some(target),
            access: grant.access,
            protect: grant.protect.clone(),
        };
        host.push(shown(grant.path.clone(), place.clone()));
        guest.push(shown(place, grant.target.clone()));
    }
    let machine = MachinePlan {
        memory_mib: spec.limits.memory.map_or(MEMORY_MIB, |bytes| bytes.0.div_ceil(1 << 20).saturating_add(GUEST_MIB)),
        cpus: processors(spec),
        grants: (!guest.is_empty()).then_some(GRANTS),
    };
    Ok(Plan {
        host: SandboxSpec { grants: host, ..SandboxSpec::default() },
        machine,
        guest: SandboxSpec { grants: guest, ..spec.clone() },
    })
}

/// As many as a quota can use, and no more than the host has.
fn processors(spec: &SandboxSpec) -> usize {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = spec.limits.cpu_quota.map_or(PROCESSORS, |quota| usize::try_from(quota.0.div_ceil(1000)).unwrap_or(PROCESSORS));
    wanted.clamp(1, there)
}

/// Where each grant is shown below [`GRANTS`]: one that lies in another, in that, so that what is read-only or protected there is so for the
/// machine as a whole; else under its number, whatever bytes its own name has.
fn places(grants: &[GrantPlan]) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    for (number, grant) in grants.iter().enumerate() {
        let around =
            grants[..number].iter().rposition(|outer| grant.target.starts_with(&outer.target) && grant.target != outer.target);
        let place = match around {
            Some(outer) => places[outer].join(grant.target.strip_prefix(&grants[outer].target).unwrap_or(&grant.target)),
            None => Path::new(GRANTS).join(number.to_string()),
        };
        places.push(place);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_in_another_is_shown_in_that() {
        let grant = |target: &str| GrantPlan {
            path: "/p".into(),
            target: target.into(),
            access: Access::ReadOnly,
            protect: Vec::new(),
            owner: (0, 0),
        };
        let grants = ["/w", "/x", "/w/a/b", "/w/a/b/c", "/wide"].map(grant);
        let shown = ["/grants/0", "/grants/1", "/grants/0/a/b", "/grants/0/a/b/c", "/grants/4"];
        assert_eq!(places(&grants), shown.map(PathBuf::from));
    }
}
