//! The settings of a new sandbox under the terms of an intent.

use super::super::{
    super::{failure::Failure, request, sandbox::text_of_environment, selection::Selected},
    sandbox::{run_args, workspace_of},
};
use agentd_core::Access;
use agentd_engine::Execution;
use agentd_sandboxes::SandboxSettings;

/// The backend of named sandboxes.
pub(in super::super) const BACKEND: &str = "container";

/// Returns the settings of a new sandbox that belongs to the principal of an intent. Its commands start in the workspace, or in
/// the home directory.
///
/// # Errors
/// The backend cannot provide the terms, or the workspace is not usable.
pub(in super::super) fn settings(execution: &Execution<'_>, selected: &Selected) -> Result<SandboxSettings, Failure> {
    let args = run_args(execution, None)?;
    let workspace = workspace_of(execution.valid());
    let backend = request::BackendDescription::new(&*selected.backend);
    let requested = request::sandbox(&args.boundary, workspace.map(|(path, _)| path), &backend, None)?;
    let writable = requested.spec.grants.iter().filter(|grant| grant.access == Access::ReadWrite);
    let expected = workspace.filter(|(_, access)| *access == Access::ReadWrite).map(|(path, _)| path);
    if !writable.map(|grant| grant.path.as_path()).eq(expected) {
        return Err("the sandbox has other writable directories than were decided — report this as a bug of agentd".into());
    }
    if let Some(excess) = execution.terms().exceeded_by(&requested.spec, BACKEND) {
        return Err(format!("the sandbox is not the one that was decided: {excess} — report this as a bug of agentd").into());
    }
    let cwd = workspace.map_or(requested.home, |(path, _)| path.to_path_buf());
    Ok(SandboxSettings {
        spec: requested.spec,
        env: text_of_environment(requested.env)?,
        cwd,
        owner: Some(execution.valid().intent.principal.id()),
        ..SandboxSettings::default()
    })
}
