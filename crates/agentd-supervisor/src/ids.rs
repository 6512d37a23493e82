//! Who the payload is on the host: decided by the launcher from the plan and from who the launcher is, and written to the new process's
//! user namespace.

use crate::plan::{SandboxPlan, Tree};
use agentd_core::{Access, LayerError, LayerStatus};
use agentd_kernel::{
    idmap::{self, Claim, Identity, Subordinate},
    mount::root::{Base, RootPlan, Top},
    namespace::Ids,
};

/// What became of it.
pub(crate) struct Mapped {
    pub identity: Identity,
    /// How the layer stands, and what it is in words.
    pub map: (LayerStatus, String),
    /// Ids that are the sandbox's until this is dropped.
    pub claim: Option<Claim>,
}

impl Mapped {
    fn to(identity: Identity, detail: impl Into<String>) -> Self {
        Self { identity, map: (LayerStatus::Enforced, detail.into()), claim: None }
    }

    fn with(self, claim: Claim) -> Self {
        Self { claim: Some(claim), ..self }
    }
}

/// Writes the id maps of process `pid`, which is in new namespaces if the plan has any.
pub(crate) fn map_ids(plan: &SandboxPlan, pid: i32, privileged: bool) -> Result<Mapped, LayerError> {
    let mapped = match &plan.tree {
        Tree::Root(_) if privileged && plan.namespaces.ids == Ids::Same => {
            Mapped::to(Identity::same(), "uid 0 inside, own host ids")
        }
        Tree::Root(_) if privileged => {
            let claim = Claim::take()?;
            Mapped::to(claim.identity, "uid 0 inside, own host ids").with(claim)
        }
        Tree::Root(root) => return map_root(plan, root, pid),
        _ if privileged => Mapped::to(Identity::own(pid), "uid 1000 inside, own host ids"),
        _ => {
            let caller = Identity::caller();
            Mapped::to(caller, format!("uid {} inside, the caller's host uid", caller.uid))
        }
    };
    if plan.namespaces.enabled {
        idmap::write_maps(pid, mapped.identity, privileged)?;
    }
    Ok(mapped)
}

/// As an ordinary user's: the payload is root by name and the caller in truth. With subordinate ids it can become others.
fn map_root(plan: &SandboxPlan, root: &RootPlan, pid: i32) -> Result<Mapped, LayerError> {
    let caller = Identity::caller().as_root();
    let only = |why: String| format!("uid 0 inside is the caller's host uid, and there is no other: {why}");
    let found = may_have_more(root).map_err(str::to_owned).and_then(|()| Subordinate::of_caller());
    let (subordinate, claim) = match found {
        Ok(subordinate) => {
            let claim = subordinate.claim();
            (subordinate, claim)
        }
        Err(why) => {
            idmap::write_maps(pid, caller, false)?;
            return Ok(Mapped::to(caller, only(why)));
        }
    };
    match subordinate.write_uids(pid, claim.identity) {
        Ok(()) => {
            subordinate.write_gids(pid, claim.identity)?;
            let detail = describe(&claim);
            Ok(Mapped::to(claim.identity, detail).with(claim))
        }
        // Nothing is written yet.
        Err(error) if plan.allow_degraded => {
            idmap::write_maps(pid, caller, false)?;
            let status = LayerStatus::Missing(error);
            Ok(Mapped { map: (status, only("subordinate ids cannot be used".to_owned())), ..Mapped::to(caller, "") })
        }
        Err(error) => Err(error),
    }
}

/// Whether what is written there may belong to others than the caller; else why not. Nothing that stays may: the caller could not even
/// remove it.
fn may_have_more(root: &RootPlan) -> Result<(), &'static str> {
    if root.grants.iter().any(|grant| grant.access == Access::ReadWrite) {
        return Err("what is written in a granted directory belongs to the caller");
    }
    if matches!(root.base, Base::Stack { top: Some(Top::Directory(_)), .. }) {
        return Err("what a named sandbox keeps belongs to the caller");
    }
    Ok(())
}

fn describe(claim: &Claim) -> String {
    let Some(rest) = claim.identity.rest else { return String::new() };
    let whose =
        if claim.is_shared() { "shared with all sandboxes of the caller's that have no others" } else { "no other sandbox's" };
    let last = rest.host_uid + rest.count - 1;
    format!("uid 0 inside is the caller's host uid, 1 to {} are {} to {last}, {whose}", rest.count, rest.host_uid)
}
