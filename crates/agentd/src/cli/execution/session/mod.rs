//! Executes a cell of code in an interpreter session.

mod exchange;
mod name;
mod open;
mod streams;

use super::{
    super::{failure::message, host_approvals, protection, stops::Stops},
    advice,
    executed::{ExecutedIntent, end_cancelled},
    live::LiveCaller,
};
use agentd_engine::{CellResult, EndedIntent, EngineError, Executed, Execution, RunResult, SessionCall};
use agentd_log::LogFailure as _;
use exchange::ExecutedCell;
use open::{NotOpened, OpenedSession};
use serde_json::{Map, Value, json};

/// Executes a cell, and records its end.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(super) async fn execute(
    execution: Execution<'_>,
    cell: SessionCall,
    caller: &LiveCaller,
    stops: &mut Stops,
) -> Result<ExecutedIntent, EngineError> {
    let opened = tokio::select! {
        biased;
        _ = stops.next() => Err(NotOpened::Stopped),
        opened = open::open(&execution, &cell) => opened,
    };
    let OpenedSession { client, name, handle, language, is_new, selected, mut started } = match opened {
        Ok(opened) => opened,
        Err(not_opened) => return Ok(ExecutedIntent::not_begun(end(execution, &cell, not_opened).await?)),
    };
    let mut notices: Vec<String> = protection::lines(started.before()).collect();
    let notify = caller.notify();
    started.announce_waiting_hosts(move |waiting| notify(host_approvals::line(waiting)));
    let controls = started.controls().to_vec();
    let limits = &execution.terms().effective.limits;
    let was_live = caller.is_live(execution.valid());
    let executed = exchange::execute(started, &cell, limits, caller.output(execution.valid()), stops).await;
    let executed = executed.map_err(|failure| message(&*failure));
    let ExecutedCell { outcome, digests, report, lost, protected } = match executed {
        Ok(executed) => executed,
        Err(message) => return Ok(ExecutedIntent::not_begun(execution.fail(&message).await?)),
    };
    notices.extend(protection::lines(&protected));
    if lost.is_some()
        && let Some(report) = client.remove(&name).await.or_warn("remove lost session", &name)
    {
        notices.extend(protection::lines(&report));
    }
    let mut session = Map::new();
    session.insert(
        "session".to_owned(),
        json!({ "handle": handle, "language": language.name(), "sandbox": name, "new": is_new, "lost": lost.is_some() }),
    );
    // The report has a JSON form: it was read from one.
    if let Ok(Value::Object(report)) = serde_json::to_value(report) {
        session.extend(report);
    }
    let ended = execution
        .finish(Executed {
            backend: selected.backend.name(),
            controls: &controls,
            evidence: selected.proven.as_ref().map_or(&[][..], |proven| proven.evidence.as_slice()),
            egress: None,
            ran: RunResult::Cell(Box::new(CellResult { outcome, digests, session, lost })),
        })
        .await?;
    Ok(ExecutedIntent { ended, was_live, notices, stopped: None })
}

/// Ends an intent whose session was not opened.
async fn end(execution: Execution<'_>, cell: &SessionCall, not_opened: NotOpened) -> Result<EndedIntent, EngineError> {
    let text = match not_opened {
        NotOpened::Exceeds(excess) => return execution.refuse_session(excess).await,
        NotOpened::Lost(cause) => {
            let text = format!("session {}: {cause}; the next cell with this handle begins a new session", cell.handle);
            return execution.fail_with("session-lost", &text).await;
        }
        NotOpened::Stopped => return end_cancelled(execution).await,
        NotOpened::Failed(failure) => advice::of_call(&message(&*failure)),
    };
    execution.fail(&text).await
}
