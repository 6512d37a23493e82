//! `agentd run --explain`: prints the plan of the sandbox.

use super::{args::RequireArg, selection::Selected};
use agentd_core::{Claim, IsolationError, PlanLine, SandboxSpec, escape};
use std::fmt::Write;

/// Returns the plan as text: the backend, its proven and required claims, and how it would isolate `spec`.
///
/// # Errors
/// The backend's error, if it cannot plan `spec`.
pub(crate) fn text(selected: &Selected, required: &[RequireArg], spec: &SandboxSpec) -> Result<String, IsolationError> {
    let planned = selected.backend.explain(spec)?;
    let mut lines = vec![PlanLine::new("backend", selected.backend.name())];
    lines.extend(selected.proven.iter().map(|proven| {
        let claims: Vec<String> =
            Claim::ALL.into_iter().filter(|claim| proven.has(*claim)).map(|claim| claim.to_string()).collect();
        PlanLine::new("proven", claims.join(" "))
    }));
    lines.extend(required.iter().map(|required| PlanLine::new("required", required.name())));
    lines.extend(planned);
    Ok(print(&lines))
}

fn print(lines: &[PlanLine]) -> String {
    let mut out = String::new();
    for PlanLine { subject, detail } in lines {
        // Writing to a string cannot fail.
        writeln!(out, "{subject:<12} {}", escape::text(detail)).unwrap_or_default();
    }
    out
}
