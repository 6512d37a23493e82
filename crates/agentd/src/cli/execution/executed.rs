//! An intent that was executed.

use agentd_engine::{EndedIntent, EngineError, Execution};

/// An intent that was executed.
pub(in super::super) struct ExecutedIntent {
    /// Its end.
    pub ended: EndedIntent,
    /// True if the caller got the output while it was written.
    pub was_live: bool,
    /// Lines about refused destinations and changed protected paths.
    pub notices: Vec<String>,
    /// The first request to stop that arrived.
    pub stopped: Option<i32>,
}

impl ExecutedIntent {
    /// Returns an intent that has ended before anything was executed.
    pub(super) fn not_begun(ended: EndedIntent) -> Self {
        Self { ended, was_live: false, notices: Vec::new(), stopped: None }
    }
}

/// Records the end of an intent that was stopped before its command started.
pub(super) async fn end_cancelled(execution: Execution<'_>) -> Result<EndedIntent, EngineError> {
    execution.fail_with("cancelled", "the intent was cancelled before its command started").await
}
