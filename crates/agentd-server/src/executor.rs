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
    /// Those that were created by an intent and show no other directories of the host than these, and directories below them. A
    /// model may write the requests, and the user may have sandboxes with other directories.
    Listed(Vec<PathBuf>),
}

/// The reason why the end of an execution is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// The end cannot be recorded.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The sandbox cannot be destroyed.
    #[error("destroy the sandbox: {0}")]
    Destroy(#[from] agentd_core::IsolationError),
}

/// Executes admitted intents in sandboxes. The program that composes the backends implements it.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Executes an intent under its terms, and records its end. Returns the end, and messages for the caller about the run, such
    /// as refused destinations and changed protected paths.
    ///
    /// # Errors
    /// [`ExecuteError`]. The intent was executed, and its outcome may not be recorded.
    async fn execute(&self, execution: Execution<'_>, call: ExecutionCall) -> Result<(EndedIntent, Vec<String>), ExecuteError>;
}
