//! Executes a cell of code in an interpreter session.

mod exchange;
mod name;
mod open;
mod streams;

use super::super::{failure::Failure, failure::message, protection, stops::Stops};
use agentd_engine::{EndedIntent, Executed, Execution, Ran, RanCell, SessionCall};
use agentd_log::LogFailure as _;
use exchange::ExecutedCell;
use open::{NotOpened, OpenedSession};
use serde_json::{Map, Value, json};

/// Executes a cell, and records its end. The caller reads its output live if `live` is true.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(super) async fn execute(
    execution: Execution<'_>,
    cell: SessionCall,
    live: bool,
    stops: &mut Stops,
) -> Result<EndedIntent, Failure> {
    let opened = tokio::select! {
        biased;
        signal = stops.next() => Err(NotOpened::Failed(format!("agentd received signal {signal} before the start").into())),
        opened = open::open(&execution, &cell) => opened,
    };
    let OpenedSession { client, name, handle, language, is_new, selected, started } = match opened {
        Ok(opened) => opened,
        Err(NotOpened::Exceeds(excess)) => return Ok(execution.refuse_session(excess).await?),
        Err(NotOpened::Lost(cause)) => {
            let text = format!("session {}: {cause}; the next cell with this handle begins a new session", cell.handle);
            return Ok(execution.fail_with("session-lost", &text).await?);
        }
        Err(NotOpened::Failed(failure)) => return Ok(execution.fail(&message(&*failure)).await?),
    };
    protection::warn(started.before());
    let controls = started.controls().to_vec();
    let limits = &execution.terms().effective.limits;
    let ExecutedCell { outcome, digests, report, lost, protected } =
        match exchange::execute(started, &cell, limits, live, stops).await {
            Ok(executed) => executed,
            Err(failure) => return Ok(execution.fail(&message(&*failure)).await?),
        };
    protection::warn(&protected);
    if lost.is_some()
        && let Some(report) = client.remove(&name).await.or_warn("remove lost session", &name)
    {
        protection::warn(&report);
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
            ran: Ran::Cell(Box::new(RanCell { outcome, digests, session, lost })),
        })
        .await?;
    Ok(ended)
}
