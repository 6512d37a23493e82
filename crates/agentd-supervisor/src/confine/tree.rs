//! The file tree of the sandbox: the host's tree, a view of the host's tree, or the sandbox's own root.

use super::{
    Inherited,
    message::{ConfineChannel, Ids},
    record::{ControlRecord, noted},
};
use crate::plan::{SandboxPlan, Tree};
use agentd_core::{Control, ControlError, ControlReport};
use agentd_kernel::mount::{self, OwnTrees, ViewBase, ViewPlan, device::Devices, root::RootPlan};
use std::os::fd::OwnedFd;

/// Builds the tree of the plan and enters it. `base` is the part of a view that was built before. Returns false if the control
/// for mounts is missing, and the commands therefore see the host's tree instead of the planned one.
pub(super) fn enter(
    inherited: &Inherited<'_>,
    ids: &Ids,
    base: Option<ViewBase>,
    go: ConfineChannel,
    record: &mut ControlRecord<'_>,
) -> Result<bool, ControlError> {
    let plan = inherited.plan;
    // Cloned here, while the host's mount tree is still complete.
    let own = match inherited.cgroup {
        Some(cgroup) if plan.namespaces.enabled => cgroup.trees()?,
        _ => Vec::new(),
    };
    let fallback = if plan.allow_degraded && plan.namespaces.enabled { Some(mount::Fallback::keep()?) } else { None };
    let mut go = is_mapped(plan, ids).then_some(go);
    match &plan.tree {
        Tree::Host => {}
        Tree::Root(root) => enter_root(root, own, go.as_mut(), record)?,
        Tree::View(view) => enter_view((view, base), own, go.as_mut(), record)?,
    }
    let entered = !record.is_missing(Control::Mounts);
    if let Some(fallback) = fallback.filter(|_| !entered) {
        fallback.restore()?;
    }
    if !entered && plan.tree.trust().is_some() {
        // Without the trust stores, programs would trust no inspected host.
        let failed = ControlError::new(Control::Mounts, "show the certificates of inspected hosts", None);
        return Err(failed.remedy("allow mount namespaces, or grant no method, path or secret"));
    }
    Ok(entered)
}

/// Returns true if the launcher sends id-mapped trees: it runs as root, and the plan has something to map.
fn is_mapped(plan: &SandboxPlan, ids: &Ids) -> bool {
    let root_is_mapped = plan.tree.root().is_some_and(|root| root.base.trees() > 0 || !root.devices.is_empty());
    ids.privileged && (root_is_mapped || !plan.tree.grants().is_empty())
}

/// Enters the sandbox's own root. This step cannot be degraded: the payload is root in the sandbox and keeps capabilities, which
/// are harmless only in a separate root. `go` sends the trees if they are id-mapped.
fn enter_root(
    root: &RootPlan,
    own: OwnTrees,
    go: Option<&mut ConfineChannel>,
    record: &mut ControlRecord<'_>,
) -> Result<(), ControlError> {
    let RootTrees { stack, devices, grants } = match go {
        Some(go) => RootTrees::mapped(root, go.trees()?),
        None => RootTrees::callers(root)?,
    };
    let notes = mount::root::build(root, stack, devices, own)?.enter(grants)?;
    let (status, detail) = noted(notes, root.describe());
    record.controls.push(ControlReport { control: Control::Mounts, status, detail });
    Ok(())
}

/// Detached trees from which a root is built.
struct RootTrees {
    stack: Vec<OwnedFd>,
    devices: Option<Devices>,
    grants: Vec<OwnedFd>,
}

impl RootTrees {
    /// Sorts the trees that the launcher has sent; see [`super::ConfineMessage::Trees`].
    fn mapped(root: &RootPlan, trees: Vec<OwnedFd>) -> Self {
        let mut trees = trees.into_iter();
        let stack = trees.by_ref().take(root.base.trees()).collect();
        let devices = if root.devices.is_empty() { None } else { trees.next().map(Devices::Own) };
        Self { stack, devices, grants: trees.collect() }
    }

    /// Clones the trees without id maps.
    fn callers(root: &RootPlan) -> Result<Self, ControlError> {
        let devices = if root.devices.is_empty() { None } else { Some(Devices::callers(&root.devices)?) };
        let stack = mount::root::clone_stack(root)?;
        let grants = mount::clone_grants(&root.grants, &mount::open_grants(&root.grants)?)?;
        Ok(Self { stack, devices, grants })
    }
}

/// Enters a view of the host's tree. `go` sends the trees of the grants if they are id-mapped.
fn enter_view(
    (view, base): (&ViewPlan, Option<ViewBase>),
    own: OwnTrees,
    go: Option<&mut ConfineChannel>,
    record: &mut ControlRecord<'_>,
) -> Result<(), ControlError> {
    // A grant whose path now leads elsewhere is not a missing control: it ends the sandbox even if degraded isolation is allowed.
    let opened = if go.is_some() { Vec::new() } else { mount::open_grants(&view.grants)? };
    record.control(Control::Mounts, || {
        // The launcher clones the trees of the grants while the view is built. Without the launcher's trees, this process clones
        // the trees before it builds the view.
        let own_trees = if go.is_some() { Vec::new() } else { mount::clone_grants(&view.grants, &opened)? };
        let base = base.map_or_else(|| ViewBase::build(view.scratch_bytes), Ok)?;
        let built = mount::build(view, base, own)?;
        let notes = built.attach(go.map_or(Ok(own_trees), ConfineChannel::trees)?)?;
        Ok(noted(notes, format!("{} masks, {} grants", view.masks.len(), view.grants.len())))
    })
}
