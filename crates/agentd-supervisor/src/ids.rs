//! Chooses the host ids of a payload and writes them to the user namespace of the new process.
//!
//! The launcher decides from the plan and from its own privileges.

use crate::plan::{SandboxPlan, Tree};
use agentd_core::{Access, ControlError, ControlStatus};
use agentd_kernel::{
    idmap::{self, IdLease, IdMap, Subordinate},
    mount::root::{Base, RootPlan, Upper},
    namespace::Ids,
};

/// The id map that was chosen for a sandbox.
pub(crate) struct ChosenIdMap {
    pub id_map: IdMap,
    /// The report of the control `idmap`: the status, and a description of the ids in the sandbox.
    pub map: (ControlStatus, String),
    /// Reservation of the host ids; dropping it releases the ids.
    pub lease: Option<IdLease>,
}

impl ChosenIdMap {
    fn enforced(id_map: IdMap, detail: impl Into<String>) -> Self {
        Self { id_map, map: (ControlStatus::Enforced, detail.into()), lease: None }
    }

    fn with_lease(self, lease: IdLease) -> Self {
        Self { lease: Some(lease), ..self }
    }
}

/// Writes the id maps of process `pid`. A process without new namespaces keeps its ids.
pub(crate) fn map_ids(plan: &SandboxPlan, pid: i32, privileged: bool) -> Result<ChosenIdMap, ControlError> {
    let mapped = match &plan.tree {
        Tree::Root(_) if privileged && plan.namespaces.ids == Ids::Identity => {
            ChosenIdMap::enforced(IdMap::same(), "uid 0 in the sandbox, the ids of the machine")
        }
        Tree::Root(_) if privileged => {
            let lease = IdLease::take()?;
            ChosenIdMap::enforced(lease.id_map, "uid 0 in the sandbox, dedicated host ids").with_lease(lease)
        }
        Tree::Root(root) => return map_root(plan, root, pid),
        Tree::View(_) | Tree::Host => of_a_view(pid, privileged),
    };
    if plan.namespaces.enabled {
        idmap::write_maps(pid, mapped.id_map, privileged)?;
    }
    Ok(mapped)
}

/// Writes the id maps of process `pid`, whose sandbox will have a view of the host's tree.
pub(crate) fn map_ids_of_a_view(pid: i32, privileged: bool) -> Result<ChosenIdMap, ControlError> {
    let mapped = of_a_view(pid, privileged);
    idmap::write_maps(pid, mapped.id_map, privileged)?;
    Ok(mapped)
}

fn of_a_view(pid: i32, privileged: bool) -> ChosenIdMap {
    if privileged {
        return ChosenIdMap::enforced(IdMap::for_supervisor(pid), "uid 1000 in the sandbox, a dedicated host id");
    }
    let caller = IdMap::caller();
    ChosenIdMap::enforced(caller, format!("uid {} in the sandbox, the caller's host uid", caller.uid))
}

/// Maps a sandbox with its own root for an unprivileged launcher: uid 0 in the sandbox is the caller's host uid. With subordinate
/// ids (`subuid(5)`), further ids are mapped as well.
fn map_root(plan: &SandboxPlan, root: &RootPlan, pid: i32) -> Result<ChosenIdMap, ControlError> {
    let caller = IdMap::caller().as_root();
    let only = |why: String| format!("uid 0 in the sandbox is the caller's host uid, and no other id is mapped: {why}");
    let found = may_map_subordinate_ids(root).map_err(str::to_owned).and_then(|()| Subordinate::of_caller());
    let (subordinate, lease) = match found {
        Ok(subordinate) => {
            let lease = subordinate.lease();
            (subordinate, lease)
        }
        Err(why) => {
            idmap::write_maps(pid, caller, false)?;
            return Ok(ChosenIdMap::enforced(caller, only(why)));
        }
    };
    match subordinate.write_uids(pid, lease.id_map) {
        Ok(()) => {
            subordinate.write_gids(pid, lease.id_map)?;
            let detail = describe(&lease);
            Ok(ChosenIdMap::enforced(lease.id_map, detail).with_lease(lease))
        }
        // `write_uids` failed before it wrote a map, so the map of the caller alone can still be written.
        Err(error) if plan.allow_degraded => {
            idmap::write_maps(pid, caller, false)?;
            let status = ControlStatus::Missing(error);
            Ok(ChosenIdMap {
                map: (status, only("subordinate ids cannot be used".to_owned())),
                ..ChosenIdMap::enforced(caller, "")
            })
        }
        Err(error) => Err(error),
    }
}

/// Checks that files written in the sandbox may belong to ids other than the caller's; the error is the reason. Files that
/// outlive the sandbox must belong to the caller, because the caller could not remove them otherwise.
fn may_map_subordinate_ids(root: &RootPlan) -> Result<(), &'static str> {
    if root.grants.iter().any(|grant| grant.access == Access::ReadWrite) {
        return Err("files in a writable grant must belong to the caller");
    }
    if matches!(root.base, Base::Stack { upper: Some(Upper::Directory(_)), .. }) {
        return Err("files of a named sandbox must belong to the caller");
    }
    Ok(())
}

fn describe(lease: &IdLease) -> String {
    let Some(extra) = lease.id_map.extra else { return String::new() };
    let whose = if lease.is_shared() {
        "shared with all sandboxes of the caller that have no separate range"
    } else {
        "used by no other sandbox"
    };
    let last = extra.host_uid + extra.count - 1;
    format!("uid 0 in the sandbox is the caller's host uid, 1 to {} map to {} to {last}, {whose}", extra.count, extra.host_uid)
}
