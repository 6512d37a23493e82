//! Blocking work of async functions. It runs on a thread for blocking operations, so that the other tasks of the runtime proceed.

use agentd_core::IsolationError;

tokio::task_local! {
    /// Set in the only task of a runtime.
    static SOLE_TASK: ();
}

/// Runs blocking work on a thread for blocking operations.
///
/// # Errors
/// The error of `work`; [`IsolationError::Internal`] if it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IsolationError> + Send + 'static,
) -> Result<T, IsolationError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(IsolationError::Internal(format!("run a blocking task: {error}"))),
    }
}

/// Runs a future as the only task of its runtime, as a command line does. `planning` then runs on the thread of the runtime,
/// because no other task waits for that thread. A program without threads also starts its launcher faster: by a fork.
pub async fn as_sole_task<F: Future>(future: F) -> F::Output {
    SOLE_TASK.scope((), future).await
}

/// Runs `work` on a thread for blocking operations, as [`blocking`] does. In a task of [`as_sole_task`], runs `work` on the
/// calling thread. `work` reads files: it plans a sandbox, probes a backend or looks for a proof. It must not wait for another
/// task.
///
/// # Errors
/// As [`blocking`].
pub(crate) async fn planning<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IsolationError> + Send + 'static,
) -> Result<T, IsolationError> {
    if SOLE_TASK.try_with(|()| ()).is_ok() { work() } else { blocking(work).await }
}

#[cfg(test)]
#[path = "blocking_tests.rs"]
mod tests;
