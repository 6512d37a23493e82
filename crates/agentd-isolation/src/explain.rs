//! Describes the plan of a sandbox in words, for every backend whose sandboxes the launcher creates.

use crate::container;
use agentd_core::{IsolationError, PlanLine, SandboxSpec};
use agentd_kernel::{
    cgroup::CgroupPlan,
    mount::{
        ViewPlan,
        root::{Base, RootPlan, Upper},
    },
};
use agentd_supervisor::plan::{SandboxPlan, Tree};
use std::path::{Path, PathBuf};

/// Returns the description of each control of a plan.
pub(crate) fn describe(plan: &SandboxPlan) -> Vec<PlanLine> {
    let mut lines = vec![PlanLine::new("namespaces", plan.namespaces.describe())];
    match &plan.tree {
        Tree::Host => {}
        Tree::View(view) => lines.extend(of_view(view)),
        Tree::Root(root) => lines.extend(of_root(root)),
    }
    for grant in plan.tree.grants() {
        lines.push(PlanLine::grant(&grant.path, &grant.target, grant.access));
        for protected in grant.protect.iter().filter(|name| grant.path.join(name).exists()) {
            lines.push(PlanLine::new("protected", format!("{} (read-only)", grant.target.join(protected).display())));
        }
    }
    if plan.landlock.as_ref().is_some_and(|landlock| landlock.listable) {
        lines.push(PlanLine::new("landlock", "/ (directories can be listed)"));
    }
    let rules = plan.landlock.iter().flat_map(|landlock| &landlock.rules);
    lines.extend(rules.map(|rule| PlanLine::new("landlock", format!("{} ({})", rule.path.display(), rule.access))));
    if let Some(seccomp) = plan.seccomp {
        let set_ids = if seccomp.set_ids { "" } else { "; setting set-user-id and set-group-id bits is refused" };
        let profile = seccomp.profile;
        lines.push(PlanLine::new("seccomp", format!("{profile}: {} system calls allowed{set_ids}", seccomp.allowed().len())));
    }
    lines.push(PlanLine::new("cgroup", plan.cgroup.describe()));
    if let Some(limit) = plan.process_rlimit {
        lines.push(PlanLine::new("rlimit", format!("RLIMIT_NPROC {limit}, counted in the sandbox's user namespace")));
    }
    lines.extend(plan.rlimit_notes.iter().map(|note| PlanLine::new("rlimit", note)));
    lines.push(PlanLine::new("privileges", plan.capabilities.describe()));
    lines
}

/// Returns the description of a sandbox inside a virtual machine, over the machine's root.
///
/// # Errors
/// As [`container::plan_over`].
pub fn inside_machine(spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
    let planned = container::plan_over(Path::new("/"), spec)?;
    // The guest's kernel has every cgroup controller, whatever the host lacks.
    let cgroup = CgroupPlan::from_limits(&spec.limits, planned.cgroup.own_threads);
    Ok(describe(&SandboxPlan { cgroup, process_rlimit: None, rlimit_notes: Vec::new(), ..planned }))
}

fn of_view(view: &ViewPlan) -> Vec<PlanLine> {
    let mut lines = vec![
        PlanLine::new("masked", list(&view.masks)),
        PlanLine::new("home", format!("{} (private, empty)", view.home.display())),
        PlanLine::new("names", view.names.describe()),
    ];
    lines.extend(view.links.iter().map(link));
    lines
}

fn of_root(root: &RootPlan) -> Vec<PlanLine> {
    let mut lines = Vec::new();
    if let Base::Stack { layers, .. } = &root.base {
        lines.extend(layers.iter().map(|layer| PlanLine::new("layer", format!("{} (unchanged)", layer.display()))));
    }
    let changes = match &root.base {
        Base::Stack { upper: Some(Upper::Directory(upper)), .. } => format!("private; changes go to {}", upper.display()),
        Base::Stack { upper: Some(Upper::Volume(bytes)), .. } => {
            format!("private; at most {} MiB of changes, on disk", bytes >> 20)
        }
        Base::Stack { upper: None, .. } => {
            format!("private; at most {} MiB of changes, in memory", root.scratch_bytes >> 20)
        }
        Base::Directory(path) => format!("{} of the machine", path.display()),
    };
    lines.push(PlanLine::new("root", changes));
    lines.push(PlanLine::new("home", root.home.display().to_string()));
    if !root.system.is_empty() {
        lines.push(PlanLine::new("system", format!("{} (read-only)", list(&root.system))));
    }
    lines.extend(root.etc.map(|etc| PlanLine::new("etc", etc.describe())));
    lines.extend(root.names.iter().map(|names| PlanLine::new("names", names.describe())));
    lines.extend(root.links.iter().map(link));
    lines
}

fn link((path, target): &(PathBuf, PathBuf)) -> PlanLine {
    PlanLine::new("link", format!("{} → {}", path.display(), target.display()))
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}
