//! Creates and forks named sandboxes, within the limit of a principal.

use super::{
    super::super::{data, failure::message, selection::Selected},
    failure::failed,
    own_sandboxes::{Done, OwnSandboxes},
    settings::settings,
};
use agentd_core::ControlStatus;
use agentd_disk::Lock;
use agentd_engine::{Execution, SandboxFailure};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Name, Record, StoreError};

/// The most sandboxes of a principal, without its interpreter sessions.
const MAX_SANDBOXES: usize = 32;

/// The times after which a sandbox is removed, in seconds.
pub(super) struct Lifetimes {
    pub idle: Option<u64>,
    pub total: Option<u64>,
}

/// Creates a sandbox under the terms of an intent.
pub(super) async fn create(
    own: &OwnSandboxes,
    execution: &Execution<'_>,
    name: &str,
    lifetimes: Lifetimes,
) -> Result<Done, SandboxFailure> {
    let stored = own.owner.new_name(name)?;
    let selected: &Selected = &own.selected;
    let mut settings = settings(execution, selected).map_err(|failure| failed(message(&*failure)))?;
    settings.idle_ttl = lifetimes.idle;
    settings.total_ttl = lifetimes.total;
    let _lock = own.reserve(name, &stored).await?;
    let controls = own.client.create(&stored, settings, selected.proven.is_some()).await.map_err(|error| own.failed(&error))?;
    if let Some(missing) = controls.iter().find(|report| matches!(report.status, ControlStatus::Missing(_))) {
        // Only the first error is reported.
        own.client.remove(&stored).await.or_warn("remove sandbox without all controls", &stored);
        return Err(failed(format!("create sandbox {name}: control {}: missing", missing.control)));
    }
    Ok(Done { controls, ..own.described(name).await?.into() })
}

/// Creates a sandbox from another one, or from a snapshot of it.
pub(super) async fn fork(
    own: &OwnSandboxes,
    record: &Record,
    snapshot: Option<&Name>,
    new: &str,
) -> Result<Done, SandboxFailure> {
    let stored = own.owner.new_name(new)?;
    let _lock = own.reserve(new, &stored).await?;
    own.client.fork(&record.name, snapshot, &[stored]).await.map_err(|error| own.failed(&error))?;
    Ok(own.described(new).await?.into())
}

impl OwnSandboxes {
    /// Checks that the principal may have another sandbox of this name, and prevents others from being created meanwhile.
    async fn reserve(&self, name: &str, stored: &Name) -> Result<Lock, SandboxFailure> {
        let path = data::folder().map_err(failed)?.join("named-sandboxes.lock");
        let lock = tokio::task::spawn_blocking(move || Lock::take(&path)).await.map_err(failed)?.map_err(failed)?;
        match self.store.record(stored) {
            Err(StoreError::NotFound { .. }) => {}
            // A damaged sandbox has its name, too.
            Ok(_) | Err(_) => {
                let message = format!("create sandbox {name}: the caller has a sandbox of this name — use another name");
                return Err(SandboxFailure { code: "sandbox-exists", message });
            }
        }
        let records = self.store.list().map_err(|error| failed(self.owner.text(&error.to_string())))?;
        let is_counted = |record: &&Record| self.owner.belongs(record) && !record.name.as_str().starts_with("session-");
        if records.iter().flatten().filter(is_counted).count() >= MAX_SANDBOXES {
            let message = format!("create sandbox {name}: the caller has {MAX_SANDBOXES} sandboxes, the maximum — terminate one");
            return Err(SandboxFailure { code: "too-many-sandboxes", message });
        }
        Ok(lock)
    }
}
