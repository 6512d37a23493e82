//! The seam between the service and the backends.

use crate::call::CallStreams;
use agentd_engine::{EndedIntent, EngineError, Execution};
use async_trait::async_trait;

/// How an admitted intent is executed, in addition to its terms.
#[derive(Debug)]
pub struct ExecutionCall {
    /// The connection with the caller.
    pub streams: CallStreams,
    /// The backend that the caller names.
    pub backend: Option<String>,
    /// True if the caller is the user who runs the daemon, who sees the sandboxes of all principals.
    pub is_operator: bool,
}

/// Executes admitted intents in sandboxes. The program that composes the backends implements it.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Executes an intent under its terms, and records its end. Returns the end, and messages for the caller about the run, such
    /// as refused destinations and changed protected paths.
    ///
    /// # Errors
    /// [`EngineError`]: the end cannot be recorded. Nothing else is an error, because a recorded outcome must reach its caller.
    async fn execute(&self, execution: Execution<'_>, call: ExecutionCall) -> Result<(EndedIntent, Vec<String>), EngineError>;
}
