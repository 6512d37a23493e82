//! `agentd state`, `agentd approvals`, `agentd approve` and `agentd deny`.

use super::{
    args::{ApprovalsArgs, ApprovalsCommand, DecideArgs, StateCommand},
    data,
    failure::Failure,
    records, writer,
};
use agentd_core::escape;
use agentd_records::Timestamp;
use agentd_state::{Approval, DecideApproval, IntentId, Retention, StateError, StateReport, StateStore};
use std::io::{self, Write as _};

/// Exit code: the store is damaged.
const DAMAGED: u8 = 1;

/// The fewest digits that identify an intent.
const MIN_DIGITS: usize = 4;

/// The most characters of the text of an intent in the list.
const MAX_LISTED: usize = 8192;

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
    let mut out = io::stdout().lock();
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
    if let Some(ApprovalsCommand::Show { id, json }) = &args.command {
        return show(id, *json).await;
    }
    let pending = match store()? {
        Some(store) => store.pending_approvals(Timestamp::now()).await?,
        None => Vec::new(),
    };
    let mut out = io::stdout().lock();
    if args.json {
        let list: Vec<_> = pending.iter().map(as_json).collect();
        writeln!(out, "{}", escape::json(&format!("{:#}", serde_json::Value::from(list))))?;
        return Ok(0);
    }
    if pending.is_empty() {
        writeln!(out, "no intent waits for an approval")?;
    }
    for approval in &pending {
        print_approval(&mut out, approval, MAX_LISTED)?;
    }
    Ok(0)
}

/// Prints an intent that waits for an approval, and at most this number of characters of its text.
fn print_approval(out: &mut impl io::Write, approval: &Approval, most: usize) -> io::Result<()> {
    let Approval { intent, principal, digest, text, expires, .. } = approval;
    writeln!(out, "{intent}  {}", escape::text(&principal.to_string()))?;
    writeln!(out, "  expires {expires}; intent sha256:{digest}")?;
    let end = text.char_indices().nth(most).map_or(text.len(), |(end, _)| end);
    let (listed, rest) = text.split_at(end);
    for line in listed.lines() {
        writeln!(out, "  | {}", escape::text(line))?;
    }
    if !rest.is_empty() {
        writeln!(out, "  {} more characters — `agentd approvals show {intent}` prints them", rest.chars().count())?;
    }
    Ok(())
}

/// Prints one intent that waits for an approval. Returns the exit code.
async fn show(id: &str, json: bool) -> Result<u8, Failure> {
    let (store, intent) = waiting(id).await?;
    let approval = store.approval(intent, Timestamp::now()).await?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", escape::json(&format!("{:#}", as_json(&approval))))?;
    } else {
        print_approval(&mut out, &approval, usize::MAX)?;
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
    let (store, intent) = waiting(&args.id).await?;
    store.decide(DecideApproval { intent, approve, by: records::principal()?, now: Timestamp::now() }).await?;
    writeln!(io::stdout(), "{intent} {}", if approve { "approved" } else { "denied" })?;
    Ok(0)
}

/// Returns the store, and the intent with this identifier or with these first digits.
async fn waiting(id: &str) -> Result<(StateStore, IntentId), Failure> {
    let missing = || format!("no intent {id:?} waits for an approval — `agentd approvals` lists those that do");
    let store = store()?.ok_or_else(missing)?;
    let intent = match id.parse() {
        Ok(intent) => intent,
        Err(_) => find(id, &store.pending_approvals(Timestamp::now()).await?)?.ok_or_else(missing)?,
    };
    Ok((store, intent))
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
