//! `agentd state`, `agentd approvals`, `agentd approve` and `agentd deny`.

use super::{
    args::{ApprovalsArgs, DecideArgs, StateCommand},
    data,
    failure::Failure,
    records, writer,
};
use agentd_core::escape;
use agentd_records::Timestamp;
use agentd_state::{Approval, DecideApproval, IntentId, Retention, StateError, StateReport, StateStore};
use std::io::Write as _;

/// Exit code: the store is damaged.
const DAMAGED: u8 = 1;

/// The fewest digits that identify an intent.
const MIN_DIGITS: usize = 4;

/// Opens the store of this user; returns `None` if there is none yet.
///
/// # Errors
/// If there is no data folder, or the store cannot be opened.
fn store() -> Result<Option<StateStore>, Failure> {
    Ok(StateStore::open_existing(&data::folder()?.join("state"), Retention::default())?)
}

/// Runs a subcommand of `agentd state`. Returns the exit code.
pub(crate) async fn state(command: &StateCommand) -> Result<u8, Failure> {
    let StateCommand::Check { json } = command;
    match check().await {
        Ok(report) => print(report.as_ref(), *json),
        Err(failure) => match failure.downcast_ref::<StateError>() {
            Some(error @ (StateError::Damaged(_) | StateError::Lost { .. } | StateError::Foreign(_))) => {
                writer::message(format_args!("{error}"));
                Ok(DAMAGED)
            }
            // The store could not be examined, so nothing is known about it.
            _ => Err(failure),
        },
    }
}

async fn check() -> Result<Option<StateReport>, Failure> {
    let Some(store) = store()? else { return Ok(None) };
    Ok(Some(store.check().await?))
}

fn print(report: Option<&StateReport>, json: bool) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    let Some(report) = report else {
        let text = if json { "null" } else { "there is no store yet: no intent was recorded" };
        writeln!(out, "{text}")?;
        return Ok(0);
    };
    let StateReport { schema, transactions, in_flight, orphaned, waiting, ended, approvals, principals, problems } = report;
    if json {
        let object = serde_json::json!({
            "schema": schema,
            "transactions": transactions,
            "in_flight": in_flight,
            "orphaned": orphaned,
            "waiting": waiting,
            "ended": ended,
            "approvals": approvals,
            "principals": principals,
            "problems": problems,
        });
        writeln!(out, "{}", escape::json(&format!("{object:#}")))?;
    } else if problems.is_empty() {
        writeln!(out, "the store is sound: schema version {schema}, {transactions} transactions")?;
        writeln!(out, "intents: {in_flight} in flight, {orphaned} whose process died, {ended} ended")?;
        writeln!(out, "waiting for a place: {waiting}; approvals: {approvals}; principals and groups: {principals}")?;
    }
    if problems.is_empty() {
        return Ok(0);
    }
    for problem in problems {
        writer::message(format_args!("state: {}", escape::text(problem)));
    }
    let error = StateError::Damaged(format!("{} problems were found", problems.len()));
    writer::message(format_args!("{error}"));
    Ok(DAMAGED)
}

/// Runs `agentd approvals`. Returns the exit code.
pub(crate) async fn approvals(args: &ApprovalsArgs) -> Result<u8, Failure> {
    let pending = match store()? {
        Some(store) => store.pending_approvals(Timestamp::now()).await?,
        None => Vec::new(),
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let list: Vec<_> = pending.iter().map(as_json).collect();
        writeln!(out, "{}", escape::json(&format!("{:#}", serde_json::Value::from(list))))?;
        return Ok(0);
    }
    if pending.is_empty() {
        writeln!(out, "no intent waits for an approval")?;
    }
    for Approval { intent, principal, digest, text, expires, .. } in &pending {
        writeln!(out, "{intent}  {}", escape::text(&principal.to_string()))?;
        writeln!(out, "  expires {expires}; intent sha256:{digest}")?;
        for line in text.lines() {
            writeln!(out, "  | {}", escape::text(line))?;
        }
    }
    Ok(0)
}

fn as_json(approval: &Approval) -> serde_json::Value {
    let Approval { intent, principal, digest, text, requested, expires, .. } = approval;
    serde_json::json!({
        "id": intent.to_string(),
        "principal": principal,
        "intent": digest,
        "text": text,
        "requested": requested,
        "expires": expires,
    })
}

/// Runs `agentd approve` or `agentd deny`. Returns the exit code.
pub(crate) async fn decide(args: &DecideArgs, approve: bool) -> Result<u8, Failure> {
    let missing = || format!("no intent {:?} waits for an approval — `agentd approvals` lists those that do", args.id);
    let store = store()?.ok_or_else(missing)?;
    let now = Timestamp::now();
    let intent = match args.id.parse() {
        Ok(intent) => intent,
        Err(_) => find(&args.id, &store.pending_approvals(now).await?)?.ok_or_else(missing)?,
    };
    store.decide(DecideApproval { intent, approve, by: records::principal()?, now }).await?;
    writeln!(std::io::stdout(), "{intent} {}", if approve { "approved" } else { "denied" })?;
    Ok(0)
}

/// Returns the only intent whose identifier starts with `digits`.
fn find(digits: &str, pending: &[Approval]) -> Result<Option<IntentId>, Failure> {
    let mut found = pending.iter().map(|approval| approval.intent).filter(|intent| intent.to_string().starts_with(digits));
    match (found.next(), found.next()) {
        _ if digits.len() < MIN_DIGITS => Err(format!("{digits:?}: too short — name at least {MIN_DIGITS} digits").into()),
        (Some(_), Some(_)) => Err(format!("{digits:?}: more than one intent starts with these digits — name more digits").into()),
        (found, _) => Ok(found),
    }
}
