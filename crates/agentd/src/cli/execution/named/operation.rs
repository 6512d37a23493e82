//! Carries out operations on the named sandboxes of a principal.

use super::{
    super::{
        super::{failure::message, protection, sandbox as command_line},
        executed::ExecutedIntent,
    },
    create::{self, Lifetimes},
    describe::describe,
    failure::failed,
    files,
    own_sandboxes::{Done, OwnSandboxes, forbidden},
    settings::BACKEND,
};
use agentd_engine::{EngineError, Executed, Execution, RunResult, SandboxCall, SandboxFailure};
use agentd_sandboxes::{ChangeKind, Name, Record};
use agentd_server::SandboxReach;
use serde_json::{Value, json};

/// The number of sandboxes of a list, unless the caller states another.
const LISTED: usize = 50;

/// The number of changes of a list, unless the caller states another.
const CHANGES: usize = 1000;

/// Carries out an operation, and records its end. It is not interrupted: a request that the daemon has received is carried out
/// anyway.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(in super::super) async fn execute(
    execution: Execution<'_>,
    call: SandboxCall,
    reach: SandboxReach,
) -> Result<ExecutedIntent, EngineError> {
    let own = OwnSandboxes::open(&execution, reach).await.map_err(|failure| message(&*failure));
    let own = match own {
        Ok(own) => own,
        Err(message) => return Ok(ExecutedIntent::not_begun(execution.fail(&message).await?)),
    };
    if let SandboxCall::Resume { sandbox } | SandboxCall::Fork { sandbox, .. } = &call
        && let Ok(record) = own.owner.find(&own.store, sandbox)
        && let Some(excess) = forbidden(&execution, &record)
    {
        return Ok(ExecutedIntent::not_begun(execution.refuse_sandbox(excess).await?));
    }
    let done = own.carry_out(&execution, call).await;
    let (ran, controls, notices) = match done {
        Ok(Done { value, controls, notices }) => (Ok(value), controls, notices),
        Err(failure) => (Err(failure), Vec::new(), Vec::new()),
    };
    let evidence = own.selected.proven.as_ref().map_or(&[][..], |proven| proven.evidence.as_slice());
    let executed = Executed { backend: BACKEND, controls: &controls, evidence, egress: None, ran: RunResult::Sandbox(ran) };
    Ok(ExecutedIntent { ended: execution.finish(executed).await?, was_live: false, notices, stopped: None })
}

impl OwnSandboxes {
    async fn carry_out(&self, execution: &Execution<'_>, call: SandboxCall) -> Result<Done, SandboxFailure> {
        let client = &self.client;
        let find = |name: &str| self.owner.find(&self.store, name);
        let done = match call {
            SandboxCall::Create { sandbox, idle_ttl_s, ttl_s } => {
                let lifetimes = Lifetimes { idle: idle_ttl_s, total: ttl_s };
                return create::create(self, execution, &sandbox, lifetimes).await;
            }
            SandboxCall::List { limit, after } => {
                return Ok(self.list(limit.unwrap_or(LISTED), &after.unwrap_or_default()).await?.into());
            }
            SandboxCall::Get { sandbox } => return Ok(self.described(&sandbox).await?.into()),
            SandboxCall::Inspect { sandbox } => return Ok(self.inspected(&sandbox)?.into()),
            SandboxCall::Fork { sandbox, snapshot, new } => {
                let record = find(&sandbox)?;
                let snapshot = snapshot.map(|snapshot| saved(&record, &snapshot)).transpose()?;
                return create::fork(self, &record, snapshot.as_ref(), &new).await;
            }
            SandboxCall::Diff { sandbox, since, limit } => {
                let record = find(&sandbox)?;
                let since = since.map(|since| saved(&record, &since)).transpose()?;
                return Ok(self.changes(&record, since.as_ref(), limit.unwrap_or(CHANGES)).await?.into());
            }
            SandboxCall::Terminate { sandbox } => {
                let report = client.remove(&find(&sandbox)?.name).await.map_err(|error| self.failed(&error))?;
                let notices = protection::lines(&report).collect();
                return Ok(Done { notices, ..json!({ "sandbox": sandbox }).into() });
            }
            SandboxCall::Read { sandbox, path, offset, length } => {
                return Ok(files::read(client, &find(&sandbox)?.name, &path, (offset, length)).await?.into());
            }
            SandboxCall::Write { sandbox, path, text, base64 } => {
                return Ok(files::write(client, &find(&sandbox)?.name, &path, (text, base64)).await?.into());
            }
            SandboxCall::Suspend { sandbox } => (client.pause(&find(&sandbox)?.name).await, sandbox),
            SandboxCall::Resume { sandbox } => (client.resume(&find(&sandbox)?.name).await, sandbox),
            SandboxCall::Snapshot { sandbox, snapshot } => {
                let (record, snapshot) = (find(&sandbox)?, snapshot.parse().map_err(failed)?);
                if record.snapshots.contains_key(&snapshot) {
                    let message = format!("save snapshot {snapshot}: sandbox {sandbox} has it already — use another name");
                    return Err(SandboxFailure { code: "snapshot-exists", message });
                }
                (client.snapshot(&record.name, &snapshot).await, sandbox)
            }
            SandboxCall::Restore { sandbox, snapshot } => {
                let record = find(&sandbox)?;
                (client.restore(&record.name, &saved(&record, &snapshot)?).await, sandbox)
            }
        };
        let (done, sandbox) = done;
        done.map_err(|error| self.failed(&error))?;
        Ok(self.described(&sandbox).await?.into())
    }

    /// Lists the sandboxes of the principal, or of all principals for the user who runs the daemon. A damaged one is left out.
    async fn list(&self, limit: usize, after: &str) -> Result<Value, SandboxFailure> {
        let status = self.client.status().await.map_err(|error| self.failed(&error))?;
        let records = self.store.list().map_err(|error| failed(self.owner.text(&error.to_string())))?;
        let named = records.iter().flatten().filter_map(|record| {
            let name = self.owner.listed(record)?;
            Some((name, record))
        });
        let mut named: Vec<_> = named.filter(|(name, _)| *name > after).collect();
        named.sort_by_key(|(name, _)| *name);
        let next = named.get(limit).and(named.get(limit.saturating_sub(1))).map(|(name, _)| *name);
        let page: Vec<_> = named.iter().take(limit).map(|(_, record)| describe(record, &status, &self.owner)).collect();
        Ok(json!({ "sandboxes": page, "next": next }))
    }

    fn inspected(&self, name: &str) -> Result<Value, SandboxFailure> {
        self.owner.find(&self.store, name)?;
        let proven = self.selected.proven.as_ref();
        let claims = proven.map(|proven| {
            json!({
                "filesystem_isolation": proven.filesystem_isolation,
                "network_isolation": proven.network_isolation,
                "process_isolation": proven.process_isolation,
                "resource_limits": proven.resource_limits,
                "syscall_filtering": proven.syscall_filtering,
                "kernel_isolation": proven.kernel_isolation,
                "egress_filtering": proven.egress_filtering,
            })
        });
        Ok(json!({
            "sandbox": name,
            "backend": BACKEND,
            "proven": proven.is_some(),
            "claims": claims.unwrap_or_else(|| json!({})),
            "persistent": true,
            "snapshots": true,
        }))
    }

    async fn changes(&self, record: &Record, since: Option<&Name>, limit: usize) -> Result<Value, SandboxFailure> {
        let changes = command_line::changes(&self.client, record, since).await.map_err(|error| self.failed(&error))?;
        let listed = changes.iter().take(limit).map(|change| {
            let kind = match change.kind {
                ChangeKind::Added => "added",
                ChangeKind::Changed => "changed",
                ChangeKind::Removed => "removed",
            };
            json!({ "kind": kind, "path": format!("/{}", change.path.to_string_lossy()) })
        });
        Ok(json!({ "changes": listed.collect::<Vec<_>>(), "total": changes.len() }))
    }
}

/// Returns the name of a snapshot that a sandbox has.
fn saved(record: &Record, snapshot: &str) -> Result<Name, SandboxFailure> {
    let known = record.snapshots.keys().find(|known| known.as_str() == snapshot).cloned();
    known.ok_or_else(|| SandboxFailure {
        code: "unknown-snapshot",
        message: format!("find snapshot {snapshot}: the sandbox has no such snapshot — get the sandbox, which lists them"),
    })
}
