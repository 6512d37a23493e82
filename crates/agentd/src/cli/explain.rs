//! `agentd run --explain`: prints the plan of the sandbox.

use super::{args::RequireArg, selection::Selected};
use agentd_core::{
    Claim, Control, ControlStatus, IsolationBackend, IsolationError, Network, NetworkMode, PlanLine, SandboxSpec, escape,
};
use std::fmt::Write;

/// Returns the plan as text: the backend, its proven and required claims, and how it would isolate `spec`.
///
/// # Errors
/// The backend's error if the backend cannot plan `spec` or set up the network.
pub(crate) async fn text(selected: &Selected, required: &[RequireArg], spec: &SandboxSpec) -> Result<String, IsolationError> {
    let planned = selected.backend.explain(spec)?;
    let mut lines = vec![PlanLine::new("backend", selected.backend.name())];
    lines.extend(selected.proven.iter().map(|proven| {
        let claims: Vec<String> =
            Claim::ALL.into_iter().filter(|claim| proven.has(*claim)).map(|claim| claim.to_string()).collect();
        PlanLine::new("proven", claims.join(" "))
    }));
    lines.extend(required.iter().map(|required| PlanLine::new("required", required.name())));
    lines.extend(planned);
    if spec.network.mode() == NetworkMode::Egress {
        lines.push(recorded(&*selected.backend, &spec.network).await?);
    }
    Ok(print(&lines))
}

/// Describes which attempts to connect will be recorded. This depends on the raw sockets that the kernel and an outer sandbox
/// permit. To find out, this function creates an empty sandbox with the network.
async fn recorded(backend: &dyn IsolationBackend, network: &Network) -> Result<PlanLine, IsolationError> {
    let sandbox = backend.create_sandbox(SandboxSpec { network: network.clone(), ..SandboxSpec::default() }).await?;
    let missing = sandbox.controls().iter().find_map(|report| match &report.status {
        ControlStatus::Partial(why) if report.control == Control::Network => Some(why.clone()),
        _ => None,
    });
    sandbox.destroy().await?;
    let all = if backend.traits().own_kernel {
        "each connection, and each refused attempt that the agent in the machine reports"
    } else {
        "each connection, and each attempt that is refused"
    };
    Ok(PlanLine::new("recorded", missing.unwrap_or_else(|| all.to_owned())))
}

fn print(lines: &[PlanLine]) -> String {
    let mut out = String::new();
    for PlanLine { subject, detail } in lines {
        // Writing to a string cannot fail.
        writeln!(out, "{subject:<12} {}", escape::text(detail)).unwrap_or_default();
    }
    out
}
