//! Executes intents that create, use or remove named sandboxes, with the client that `agentd sandbox` uses.
//!
//! 1. `owned` translates the names that a principal has chosen, and finds only the sandboxes of that principal.
//! 2. `settings` turns the terms of an intent into the settings of a new sandbox; `create` creates and forks sandboxes.
//! 3. `operation` carries out the other operations, `files` those on files, and `describe` returns the state as JSON.
//! 4. `command` runs the command of an intent in a sandbox.

mod command;
mod create;
mod describe;
mod files;
mod operation;
mod owned;
pub(super) mod settings;

pub(super) use command::execute as execute_command;
pub(super) use operation::execute;

use agentd_core::Access;
use agentd_engine::{Execution, SandboxFailure, WorkspaceAccess};
use agentd_sandboxes::Record;

/// The backend of named sandboxes.
pub(super) const BACKEND: &str = "container";

/// Returns the first thing that a sandbox has and that the terms of an intent do not permit.
fn forbidden(execution: &Execution<'_>, record: &Record) -> Option<String> {
    let permitted = execution.valid().capability.bounds.workspace;
    let shown = describe::workspace(record).map_or(WorkspaceAccess::None, |grant| match grant.access {
        Access::ReadOnly => WorkspaceAccess::ReadOnly,
        _ => WorkspaceAccess::ReadWrite,
    });
    if shown > permitted {
        return Some("it shows a directory of the host that the capability must not use in this way".to_owned());
    }
    execution.terms().forbidden(&record.about.spec, BACKEND)
}

/// Returns the failure of an operation for which programs have no code of their own.
fn failed(error: impl ToString) -> SandboxFailure {
    SandboxFailure { code: "failed", message: error.to_string() }
}
