//! The seam between the service and the backends.

use crate::call::CallStreams;
use agentd_engine::{EndedIntent, EngineError, Execution};
use async_trait::async_trait;
use std::path::PathBuf;

/// How an admitted intent is executed, in addition to its terms.
#[derive(Debug)]
pub struct ExecutionCall {
    /// The connection with the caller.
    pub streams: CallStreams,
    /// The backend that the caller names.
    pub backend: Option<String>,
    /// The named sandboxes that the caller may use.
    pub reach: SandboxReach,
}

/// The named sandboxes that a caller may use, among those of the caller's principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxReach {
    /// All of them. The caller is the user who runs the daemon, and sees those of all principals in lists.
    All,
    /// Those that were created by an intent, and show only directories of the host that are at or below a directory of each list.
    /// A model may write the requests, and the user may have sandboxes with other directories.
    Listed(Vec<Vec<PathBuf>>),
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
