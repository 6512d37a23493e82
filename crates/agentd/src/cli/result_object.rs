//! Prints the result object of `agentd run --json`. A run prints one object, with the changes of protected paths.

use super::{
    protection,
    stops::Stops,
    stream,
    writer::{self, OutputPiece},
};
use agentd_core::{EndReason, IsolationError, escape};
use agentd_isolation::protect::Report;
use agentd_log::LogFailure as _;
use std::{sync::atomic::Ordering, time::Duration};

/// The state of a run's result object when an error ends the run.
#[derive(Default)]
pub(crate) struct ResultObject {
    /// The changes of protected paths, if a sandbox was created.
    pub protected: Report,
    /// True once the object has been printed, or printing it failed, so that no second object is printed.
    pub printed: bool,
}

/// Returns the object of a run that ended with an error.
pub(crate) fn error(message: &str, reason: Option<EndReason>) -> serde_json::Value {
    serde_json::json!({ "reason": reason, "exit_code": null, "signal": null, "error": message })
}

/// Prints an object with a report of protected paths. Gives up if the object is not read within `limit`. If the object does not
/// reach the reader, the report is printed as warnings. Returns the number of a signal that asked agentd to stop during that
/// time.
///
/// # Errors
/// [`IsolationError::Io`] if standard output cannot be written.
pub(crate) async fn print(
    mut object: serde_json::Value,
    report: &Report,
    stops: &mut Stops,
    limit: Option<Duration>,
) -> Result<Option<i32>, IsolationError> {
    protection::add_to(&mut object, report);
    let printed = write(&object, stops, limit).await;
    if !matches!(printed, Ok((true, _))) {
        protection::warn(report);
    }
    printed.map(|(_, stop)| stop)
}

/// Writes the object. Returns whether all of it was written, and the number of a signal that came during that time.
async fn write(
    object: &serde_json::Value,
    stops: &mut Stops,
    limit: Option<Duration>,
) -> Result<(bool, Option<i32>), IsolationError> {
    let (sender, mut written, gone) = writer::start();
    let text = format!("{}\n", escape::json(&format!("{object:#}")));
    // Sending cannot fail: the channel is empty, and the writer waits for a first piece.
    sender.send(OutputPiece::Out(text.into_bytes())).await.or_unreceived("result object");
    drop(sender);
    let stop = stream::drain(&mut written, stops, limit).await?;
    let ended = written.is_terminated() || matches!(written.try_recv(), Ok(Ok(())));
    Ok((ended && !gone.out.load(Ordering::Relaxed), stop))
}
