//! `agentd run --explain`: the plan of every layer.

use agentd_core::{Access, IsolationError, SandboxSpec};
use agentd_isolation::{Base, ContainerBackend, GondolinBackend, HostDirectBackend, LinuxNativeBackend, RootPlan, Top, Tree};
use std::{fmt::Write, path::PathBuf};

/// A line of the plan: its layer, and what it says.
type Line = (&'static str, String);

/// The plan as text.
pub(crate) fn text(backend: &str, spec: &SandboxSpec) -> Result<String, IsolationError> {
    let plan = match backend {
        LinuxNativeBackend::NAME => LinuxNativeBackend::plan(spec)?,
        ContainerBackend::NAME => ContainerBackend::plan(spec)?,
        HostDirectBackend::NAME => {
            HostDirectBackend::plan(spec)?;
            let boundary = "none: the command runs as the caller".to_owned();
            return Ok(print(vec![("backend", backend.to_owned()), ("boundary", boundary)]));
        }
        GondolinBackend::NAME => {
            GondolinBackend::check(spec)?;
            return Ok(print(machine(spec)));
        }
        other => {
            return Err(IsolationError::Unsupported { backend: other.to_owned(), operation: "--explain" });
        }
    };
    let mut lines = vec![("backend", backend.to_owned()), ("namespaces", plan.namespaces.describe())];
    match &plan.tree {
        Tree::Host => {}
        Tree::View(view) => {
            lines.push(("masked", list(&view.masks)));
            lines.push(("home", format!("{} (private, empty)", view.home.display())));
        }
        Tree::Root(root) => own_root(root, &mut lines),
    }
    for grant in plan.tree.grants() {
        let moved = if grant.target == grant.path { String::new() } else { format!(" at {}", grant.target.display()) };
        lines.push(("grant", format!("{}{moved} ({})", grant.path.display(), access(grant.access))));
        for protected in grant.protect.iter().filter(|name| grant.path.join(name).exists()) {
            lines.push(("protected", format!("{} (read-only)", grant.target.join(protected).display())));
        }
    }
    let rules = plan.landlock.iter().flat_map(|landlock| &landlock.rules);
    lines.extend(rules.map(|rule| ("landlock", format!("{} ({})", rule.path.display(), access(rule.access)))));
    if let Some(seccomp) = plan.seccomp {
        let set_ids = if seccomp.set_ids { "" } else { "; no set-id bits, which would be the caller's" };
        let profile = format!("{:?}", seccomp.profile).to_lowercase();
        lines.push(("seccomp", format!("{profile}: {} system calls allowed{set_ids}", seccomp.allowed().len())));
    }
    lines.push(("cgroup", plan.cgroup.describe()));
    if let Some(limit) = plan.process_rlimit {
        lines.push(("rlimit", format!("RLIMIT_NPROC {limit}, counted in the sandbox's user namespace")));
    }
    lines.extend(plan.rlimit_notes.into_iter().map(|note| ("rlimit", note)));
    lines.push(("privileges", plan.capabilities.describe()));
    Ok(print(lines))
}

/// What a spec comes to in a machine of Gondolin's. What is in the guest is planned there.
fn machine(spec: &SandboxSpec) -> Vec<Line> {
    let mut lines = vec![
        ("backend", GondolinBackend::NAME.to_owned()),
        ("machine", "its own kernel, and the root that `agentd gondolin setup` made; changes are thrown away".to_owned()),
        ("host side", "Node and QEMU in a sandbox as container makes them, with loopback only".to_owned()),
        ("inside", "a sandbox as container makes them, over the machine's root".to_owned()),
    ];
    lines.extend(spec.grants.iter().map(|grant| ("grant", format!("{} ({})", grant.path.display(), access(grant.access)))));
    lines
}

fn own_root(root: &RootPlan, lines: &mut Vec<Line>) {
    if let Base::Stack { layers, .. } = &root.base {
        lines.extend(layers.iter().map(|layer| ("layer", format!("{} (unchanged)", layer.display()))));
    }
    let changes = match &root.base {
        Base::Stack { top: Some(Top::Directory(top)), .. } => format!("its own; changes go to {}", top.display()),
        Base::Stack { top: Some(Top::Volume(bytes)), .. } => {
            format!("its own; at most {} MiB of it written, on disk", bytes >> 20)
        }
        Base::Stack { top: None, .. } => {
            format!("its own; at most {} MiB of it written, in memory", root.scratch_bytes >> 20)
        }
        Base::Directory(path) => format!("{} itself", path.display()),
    };
    lines.push(("root", changes));
    lines.push(("home", root.home.display().to_string()));
    if !root.system.is_empty() {
        lines.push(("system", format!("{} (read-only)", list(&root.system))));
    }
    if !root.files.is_empty() {
        lines.push(("files", format!("{} (made)", list(root.files.iter().map(|(path, _)| path)))));
    }
    lines.extend(root.links.iter().map(|(path, target)| ("link", format!("{} → {}", path.display(), target.display()))));
}

fn access(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "read-only",
        Access::ReadWrite => "read-write",
    }
}

fn list<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    paths.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn print(lines: Vec<Line>) -> String {
    let mut out = String::new();
    for (name, value) in lines {
        // Writing to a string does not fail.
        writeln!(out, "{name:<12} {value}").unwrap_or_default();
    }
    out
}
