//! The human-readable plan of a sandbox.

use crate::{Access, Network, Root, SandboxSpec, Writable};
use std::path::Path;

/// One line of a plan, as `agentd run --explain` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanLine {
    /// The control or the part of the sandbox, e.g. `landlock`.
    pub subject: &'static str,
    /// The plan for the subject. Paths are not escaped here; the printing program escapes control characters.
    pub detail: String,
}

impl PlanLine {
    /// Creates a line about `subject`.
    pub fn new(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, detail: detail.into() }
    }

    /// Creates the line of a grant that is shown at `target`.
    pub fn grant(path: &Path, target: &Path, access: Access) -> Self {
        let moved = if target == path { String::new() } else { format!(" at {}", target.display()) };
        Self::new("grant", format!("{}{moved} ({access})", path.display()))
    }
}

/// Describes the request of `spec`, for a backend that does not describe how it implements the request.
pub(crate) fn requested(spec: &SandboxSpec) -> Vec<PlanLine> {
    let root = match &spec.root {
        Root::Host => "chosen by the backend".to_owned(),
        Root::Layers(layers) => format!("an image of {} layers", layers.len()),
    };
    let writable = match &spec.writable {
        Writable::Memory => "in memory".to_owned(),
        Writable::Volume(bytes) => format!("on disk, at most {bytes}"),
        Writable::TemporaryLayers => "on disk, removed with the sandbox".to_owned(),
        Writable::KeptLayers(_) => "on disk, kept after the sandbox".to_owned(),
    };
    let network = match &spec.network {
        Network::Off => "off".to_owned(),
        Network::Host => "the host's".to_owned(),
        Network::Egress(grants) => format!("only {}", grants.join(" ")),
    };
    let mut lines = vec![
        PlanLine::new("plan", "this backend does not describe its plan; the request is:"),
        PlanLine::new("root", root),
        PlanLine::new("changes", writable),
        PlanLine::new("network", network),
        PlanLine::new("profile", spec.profile.to_string()),
    ];
    let target = |grant: &crate::Grant| grant.target.clone().unwrap_or_else(|| grant.path.clone());
    lines.extend(spec.grants.iter().map(|grant| PlanLine::grant(&grant.path, &target(grant), grant.access)));
    lines
}
