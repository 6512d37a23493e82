//! `agentd run --explain`: the plan of every layer.

use agentd_core::{Access, IsolationError, SandboxSpec};
use agentd_isolation::LinuxNativeBackend;
use std::fmt::Write;

/// The plan as text.
pub(crate) fn text(backend: &str, spec: &SandboxSpec) -> Result<String, IsolationError> {
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut line = |name: &str, value: String| writeln!(out, "{name:<12} {value}").unwrap_or_default();
    line("backend", backend.to_owned());
    if backend != LinuxNativeBackend::NAME {
        line("boundary", "none: the command runs as the caller".to_owned());
        return Ok(out);
    }
    let plan = LinuxNativeBackend::plan(spec)?;
    line("namespaces", plan.namespaces.describe());
    line("masked", plan.view.masks.iter().map(|m| m.display().to_string()).collect::<Vec<_>>().join(" "));
    line("home", format!("{} (private, empty)", plan.view.home.display()));
    for grant in &plan.view.grants {
        let access = if grant.access == Access::ReadOnly { "read-only" } else { "read-write" };
        line("grant", format!("{} ({access})", grant.path.display()));
        for protected in grant.protect.iter().map(|p| grant.path.join(p)).filter(|p| p.exists()) {
            line("protected", format!("{} (read-only)", protected.display()));
        }
    }
    for rule in &plan.landlock.rules {
        let access = if rule.access == Access::ReadOnly { "read-only" } else { "read-write" };
        line("landlock", format!("{} ({access})", rule.path.display()));
    }
    if let Some(seccomp) = plan.seccomp {
        line("seccomp", format!("{:?}: {} system calls allowed", seccomp.profile, seccomp.allowed().len()).to_lowercase());
    }
    line("cgroup", plan.cgroup.describe());
    if let Some(limit) = plan.process_rlimit {
        line("rlimit", format!("RLIMIT_NPROC {limit}, counted in the sandbox's user namespace"));
    }
    for note in plan.rlimit_notes {
        line("rlimit", note);
    }
    line("privileges", plan.capabilities.describe());
    Ok(out)
}
