//! The sandboxes that the principal of an intent may use.

use super::{
    super::super::{data, failure::Failure, sandbox as command_line, selection::Selected},
    describe::describe,
    owned::{Owner, workspace},
    settings::BACKEND,
};
use agentd_core::{Access, ControlReport};
use agentd_daemon::{Client, DaemonError};
use agentd_engine::{Execution, SandboxFailure, WorkspaceAccess};
use agentd_sandboxes::{Record, SandboxStore};
use agentd_server::SandboxReach;
use serde_json::Value;

/// An operation that was carried out.
#[derive(Default)]
pub(super) struct Done {
    pub value: Value,
    pub controls: Vec<ControlReport>,
    pub notices: Vec<String>,
}

impl From<Value> for Done {
    fn from(value: Value) -> Self {
        Self { value, ..Self::default() }
    }
}

/// The sandboxes that the principal of an intent may use.
pub(super) struct OwnSandboxes {
    pub store: SandboxStore,
    pub client: Client,
    pub owner: Owner,
    pub selected: Selected,
}

impl OwnSandboxes {
    /// Opens the sandboxes of the principal of an intent.
    ///
    /// # Errors
    /// The policies exclude the backend of named sandboxes, or the backend does not work on this host.
    pub async fn open(execution: &Execution<'_>, reach: SandboxReach) -> Result<Self, Failure> {
        if !execution.terms().effective.backends.contains(BACKEND) {
            let text = "sandbox: only the backend container keeps sandboxes, and the request or the policies exclude it — permit \
                        the backend container";
            return Err(text.into());
        }
        let store = SandboxStore::open(&data::sandboxes()?)?;
        let client = command_line::client()?;
        let selected = command_line::proven(&client).await?;
        Ok(Self { store, client, owner: Owner::of(execution.valid().intent.principal.id(), reach), selected })
    }

    /// Returns the failure of a request to the daemon. It names sandboxes as their principal does.
    pub fn failed(&self, error: &DaemonError) -> SandboxFailure {
        let code = if matches!(error, DaemonError::ProcessesLost { .. }) { "sandbox-lost" } else { "failed" };
        SandboxFailure { code, message: self.owner.text(&error.to_string()) }
    }

    /// Describes a sandbox.
    pub async fn described(&self, name: &str) -> Result<Value, SandboxFailure> {
        let record = self.owner.find(&self.store, name)?;
        let status = self.client.status().await.map_err(|error| self.failed(&error))?;
        Ok(describe(&record, &status, &self.owner))
    }
}

/// Returns the first thing that a sandbox has and that the terms of an intent do not permit.
pub(super) fn forbidden(execution: &Execution<'_>, record: &Record) -> Option<String> {
    let permitted = execution.valid().capability.bounds.workspace;
    let shown = workspace(record).map_or(WorkspaceAccess::None, |grant| match grant.access {
        Access::ReadOnly => WorkspaceAccess::ReadOnly,
        _ => WorkspaceAccess::ReadWrite,
    });
    if shown > permitted {
        return Some("it shows a directory of the host that the capability must not use in this way".to_owned());
    }
    execution.terms().forbidden(&record.about.spec, BACKEND)
}
