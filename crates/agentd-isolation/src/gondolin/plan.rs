//! What a spec comes to: one for the machine's host side, one for the sandbox in the guest, and the machine between them.

use super::accelerator::Accelerator;
use crate::{ContainerBackend, grants};
use agentd_core::{Access, Bytes, Grant, IsolationError, Limits, Network, Root, SandboxSpec, Writable};
use agentd_gondolin::Installation;
use agentd_kernel::{
    cgroup::{Controller, Hierarchy},
    mount::GrantPlan,
};
use agentd_supervisor::{
    plan::{SandboxPlan, Tree},
    protocol,
};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Where grants are shown, on the host side and in the guest.
const GRANTS: &str = "/grants";

/// The disk of the sandbox, on the host side. What is saved of a machine is that file; it names the disk below it by its path, so that both
/// are always at the same places.
pub(super) const DISK: &str = "/tmp/disk.qcow2";

/// Grants beside those of the user's.
const OWN_GRANTS: usize = 3;

/// Memory of a machine whose sandbox has no limit.
const MEMORY_MIB: u64 = 1024;

/// What a guest's kernel, daemons and agent take beside the sandbox.
const GUEST_MIB: u64 = 320;

/// What Node and QEMU take beside the machine's memory and disk: 125 MiB and 100 MiB when a machine has started, and QEMU's translations
/// ([`TRANSLATIONS_MIB`]); the rest is for what passes through them.
const MONITOR_MIB: u64 = 768;

/// The most memory for what emulating makes of the guest's code. Without it, QEMU may take a gigabyte.
const TRANSLATIONS_MIB: u64 = 256;

/// Tasks of the monitor: Node has about 11, QEMU some for each processor, and up to 64 for the disk.
const TASKS: u32 = 256;

/// Files beside the machine's disk in the private file system of Node and QEMU: sockets, the initramfs with this program, what Node keeps.
const FILES_MIB: u64 = 256;

/// Processors of a machine whose sandbox has no quota, where the host has as many.
const PROCESSORS: usize = 2;

/// The machine, as `machine.mjs` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MachinePlan {
    pub memory_mib: u64,
    pub cpus: usize,
    /// Its disk.
    pub disk: &'static str,
    /// As QEMU has it, with its options.
    pub accelerator: String,
    /// The directory that is shown in the guest at the same place; none when nothing is granted.
    pub grants: Option<&'static str>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// For Node and QEMU.
    pub host: SandboxSpec,
    /// What of the host's devices they are shown.
    pub devices: Vec<PathBuf>,
    /// How much they may write to their private file system: all that a machine may to its disk, so that this is never what is full.
    pub scratch_bytes: u64,
    /// How large the file of the machine's disk can become.
    pub disk_bytes: u64,
    pub machine: MachinePlan,
    /// The initramfs that it starts from, without this program.
    pub initramfs: PathBuf,
    /// For the agent in the guest.
    pub guest: SandboxSpec,
}

impl Plan {
    /// What is around Node and QEMU.
    pub(super) fn around(&self) -> Result<SandboxPlan, IsolationError> {
        let mut around = ContainerBackend::plan(&self.host)?;
        if let Tree::Root(root) = &mut around.tree {
            root.devices.clone_from(&self.devices);
            root.scratch_bytes = self.scratch_bytes;
        }
        Ok(around)
    }
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
    if !matches!(spec.writable, Writable::Memory | Writable::Layers) {
        return invalid(
            "writable",
            "a machine of Gondolin's has a disk of its own, which goes with it: use its snapshots, or the container backend",
        );
    }
    if spec.network != Network::Off {
        return invalid("network", "a machine of Gondolin's is not connected to the host's network");
    }
    crate::fallback::check(&spec.limits)?;
    grants::resolve(&spec.grants, protocol::MAX_FDS - OWN_GRANTS)
}

/// What a spec comes to with this installation.
pub(super) fn plan(spec: &SandboxSpec, installed: &Installation, accelerator: Accelerator) -> Result<Plan, IsolationError> {
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
        disk: DISK,
        accelerator: accelerator.option(TRANSLATIONS_MIB),
        grants: (!guest.is_empty()).then_some(GRANTS),
    };
    let disk_bytes = installed.disk_bytes().saturating_add(tables(installed.disk_bytes()));
    let scratch_bytes = disk_bytes.saturating_add(FILES_MIB << 20);
    let memory = Bytes((machine.memory_mib.saturating_add(MONITOR_MIB) << 20).saturating_add(scratch_bytes));
    Ok(Plan {
        host: SandboxSpec { grants: host, limits: monitor(memory, &Hierarchy::detect()), ..SandboxSpec::default() },
        scratch_bytes,
        disk_bytes,
        devices: accelerator.device().map(PathBuf::from).into_iter().collect(),
        machine,
        initramfs: installed.initramfs(),
        guest: SandboxSpec { grants: guest, writable: Writable::default(), ..spec.clone() },
    })
}

/// What a qcow2 image (`docs/interop/qcow2.txt` of QEMU) of a disk of so many bytes takes beside what is on it, at most: 8 bytes and 2 for
/// each cluster of 64 KiB, in whole clusters, and again for those tables; its header and first tables.
fn tables(disk_bytes: u64) -> u64 {
    (disk_bytes / 4096).saturating_add(4 << 20)
}

/// What holds for Node and QEMU, where a group can hold it: an escape into them exhausts nothing of the host's.
fn monitor(memory: Bytes, groups: &Hierarchy) -> Limits {
    Limits {
        memory: groups.has(Controller::Memory).then_some(memory),
        processes: groups.has(Controller::Pids).then_some(TASKS),
        ..Limits::default()
    }
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
