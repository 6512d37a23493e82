//! Derives three plans from a spec: the sandbox on the host's side, the machine, and the sandbox in the guest.

use super::accelerator::Accelerator;
use crate::install::Installation;
use agentd_core::{Access, Bytes, Grant, GuardRule, IsolationError, Limits, Network, ObjectId, Root, SandboxSpec, Writable};
use agentd_isolation::{ContainerConfig, container, egress, fallback, grants};
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

/// The mount point of the grants, on the host's side and in the guest.
const GRANTS: &str = "/grants";

/// The disk of the sandbox, on the host's side. A snapshot is a copy of this file. The file refers to its backing disk by path,
/// so both must always have the same paths.
pub(super) const DISK: &str = "/tmp/disk.qcow2";

/// The number of grants for the installation, in addition to the grants of the spec.
const OWN_GRANTS: usize = 3;

/// The memory of a machine whose sandbox has no memory limit, MiB.
const MEMORY_MIB: u64 = 1024;

/// The memory of the guest's kernel, daemons and agent, in addition to the sandbox, MiB.
const GUEST_MIB: u64 = 320;

/// The memory of Node and QEMU in addition to the machine's memory and disk, MiB. After the start, Node takes 125 MiB and QEMU
/// 100 MiB. QEMU also needs [`TRANSLATIONS_MIB`]; the rest is for transferred data.
const MONITOR_MIB: u64 = 768;

/// The maximum size of QEMU's cache of translated code, MiB. Without this limit, the cache may take 1 GiB.
const TRANSLATIONS_MIB: u64 = 256;

/// The maximum number of tasks of Node and QEMU. Node has about 11, and QEMU some for each CPU and up to 64 for the disk.
const TASKS: u32 = 256;

/// The space for files other than the disk in the private file system of Node and QEMU, MiB: sockets, the initramfs, Node's
/// files.
const FILES_MIB: u64 = 256;

/// The CPUs of a machine whose sandbox has no CPU quota, if the host has that many.
const PROCESSORS: usize = 2;

/// The machine, in the format that `machine.mjs` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MachinePlan {
    pub memory_mib: u64,
    pub cpus: usize,
    /// The path of the disk.
    pub disk: &'static str,
    /// The accelerator with its options, in QEMU's syntax.
    pub accelerator: String,
    /// The directory that is shared with the guest under the same path; `None` without grants.
    pub grants: Option<&'static str>,
}

/// The complete plan for a spec.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The sandbox for Node and QEMU.
    pub host: SandboxSpec,
    /// The host's devices in that sandbox.
    pub devices: Vec<PathBuf>,
    /// The size of that sandbox's private file system, in bytes. The disk of the machine fits completely, so the guest cannot
    /// fill the file system.
    pub scratch_bytes: u64,
    /// The maximum size of the file with the machine's disk, in bytes.
    pub disk_bytes: u64,
    pub machine: MachinePlan,
    /// The initramfs of the installation, without agentd's program.
    pub initramfs: PathBuf,
    /// The sandbox in the guest.
    pub guest: SandboxSpec,
}

impl Plan {
    /// Returns the plan of the sandbox around Node and QEMU.
    pub(super) fn sandbox_around(&self) -> Result<SandboxPlan, IsolationError> {
        // `own_state::checked` is not called here: Node and QEMU need the installation, which is never granted to a payload.
        let mut around = container::plan(&ContainerConfig::default(), &self.host)?;
        if let Tree::Root(root) = &mut around.tree {
            root.devices.clone_from(&self.devices);
            root.scratch_bytes = self.scratch_bytes;
        }
        Ok(around)
    }
}

/// Refuses specs that a Gondolin machine cannot satisfy; returns the resolved grants.
pub(super) fn check(spec: &SandboxSpec) -> Result<Vec<GrantPlan>, IsolationError> {
    let invalid = |what: &str, reason: &str| Err(IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() });
    if spec.root != Root::Host {
        return invalid(
            "root file system",
            "not supported: all gondolin machines use the root of the installation — use the container backend for an image",
        );
    }
    if !matches!(spec.writable, Writable::Memory | Writable::TemporaryLayers) {
        return invalid(
            "storage of changes",
            "not supported: gondolin deletes the disk with the machine — use snapshots, or the container backend",
        );
    }
    if spec.network == Network::Host {
        return invalid(
            "network",
            "not supported: gondolin machines do not have the host's network — grant hosts, or use the container backend",
        );
    }
    // Fails for network grants and secrets that the gateway would refuse later.
    egress::describe_for_machine(spec)?;
    fallback::check(&spec.limits)?;
    grants::refuse_copy_on_write(&spec.grants, "gondolin")?;
    grants::resolve(&spec.grants, protocol::MAX_FDS - OWN_GRANTS)
}

/// Derives the plan for a spec, with this installation and accelerator.
pub(super) fn plan(spec: &SandboxSpec, installed: &Installation, accelerator: Accelerator) -> Result<Plan, IsolationError> {
    let resolved = check(spec)?;
    let places = places(&resolved);
    // Waive the guard for agentd's own installation, which may be at any path.
    let own = |path: PathBuf, target: &str| Grant {
        target: Some(PathBuf::from(target)),
        guard: GuardRule::Waive,
        ..Grant::new(path, Access::ReadOnly)
    };
    let mut host = vec![
        own(installed.node(), "/agentd/node"),
        own(installed.package(), "/agentd/package"),
        own(installed.guest(), "/agentd/guest"),
    ];
    let mut guest = Vec::new();
    for (grant, place) in resolved.into_iter().zip(places) {
        // The guard has checked the user's grants already, and its rules do not apply to paths in a guest.
        let shown = |path: PathBuf, target: PathBuf, object: Option<ObjectId>| Grant {
            target: Some(target),
            protect: grant.protect.clone(),
            unprotected: grant.unprotected.clone(),
            object,
            guard: GuardRule::Waive,
            ..Grant::new(path, grant.access)
        };
        host.push(shown(grant.path.clone(), place.clone(), Some(grant.object.clone())));
        guest.push(shown(place, grant.target.clone(), None));
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

/// Returns an upper bound of the metadata in the qcow2 image of a disk, in bytes (QEMU's `docs/interop/qcow2.txt`). Each cluster
/// of 64 KiB needs 8 and 2 bytes in tables. The tables take whole clusters and need entries for themselves. The header and the
/// first tables are added to this number.
fn tables(disk_bytes: u64) -> u64 {
    (disk_bytes / 4096).saturating_add(4 << 20)
}

/// Returns the limits of Node and QEMU, as far as a cgroup can enforce them. With these, an attacker who controls QEMU cannot
/// exhaust the host.
fn monitor(memory: Bytes, groups: &Hierarchy) -> Limits {
    Limits {
        memory: groups.has(Controller::Memory).then_some(memory),
        processes: groups.has(Controller::Pids).then_some(TASKS),
        ..Limits::default()
    }
}

/// Returns the number of CPUs that the quota can use, at most those of the host.
fn processors(spec: &SandboxSpec) -> usize {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = spec.limits.cpu_quota.map_or(PROCESSORS, |quota| usize::try_from(quota.0.div_ceil(1000)).unwrap_or(PROCESSORS));
    wanted.clamp(1, there)
}

/// Returns the path below [`GRANTS`] for each grant. A grant inside another grant is placed inside it, so that read-only and
/// protected paths there apply to the whole machine. Every other grant is placed under its number, so that no file name can be
/// invalid.
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
    fn grant_inside_another_grant_is_placed_inside_it() {
        let grant = |target: &str| GrantPlan::new("/p", target, Access::ReadOnly);
        let grants = ["/w", "/x", "/w/a/b", "/w/a/b/c", "/wide"].map(grant);
        let shown = ["/grants/0", "/grants/1", "/grants/0/a/b", "/grants/0/a/b/c", "/grants/4"];
        assert_eq!(places(&grants), shown.map(PathBuf::from));
    }
}
