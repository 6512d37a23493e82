//! Streaming execs. The caller serves the streams and controls the command through a handle.

use super::{
    running::Exec,
    transport::{ExecControl, Transport},
};
use agentd_core::{EndReason, ExecHandle, ExecStreams, IsolationError, Outcome, PtySize};
use agentd_log::LogFailure as _;
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

/// A handle on an exec that runs in its own task. Limits are enforced even if no caller awaits the handle.
struct Handle<C> {
    control: C,
    terminal: bool,
    streams: ExecStreams,
    /// Requests to end the exec.
    requests: mpsc::UnboundedSender<EndReason>,
    /// Receives the outcome; `None` after the outcome was returned.
    outcome: Option<oneshot::Receiver<Result<Outcome, IsolationError>>>,
}

/// Runs a started exec in its own task and returns a handle on it. The task awaits `afterwards` once the outcome has been
/// reported.
pub fn spawn<T: Transport>(
    mut exec: Exec<T>,
    streams: ExecStreams,
    afterwards: impl Future<Output = ()> + Send + 'static,
) -> Box<dyn ExecHandle> {
    let (requests, requested) = mpsc::unbounded_channel();
    let (sender, outcome) = oneshot::channel();
    let control = exec.transport.control();
    let mut exec = exec.ended_by(requested);
    tokio::spawn(async move {
        let outcome = exec.wait().await;
        // Sending fails if the caller dropped the handle. Without a handle, only the log receives an error.
        if let Err(Err(error)) = sender.send(outcome) {
            Err::<(), _>(error).or_debug("wait for a command", "dropped handle");
        }
        drop(exec);
        afterwards.await;
    });
    Box::new(Handle { control, terminal: streams.pty.is_some(), streams, requests, outcome: Some(outcome) })
}

#[async_trait]
impl<C: ExecControl> ExecHandle for Handle<C> {
    fn take_streams(&mut self) -> ExecStreams {
        std::mem::take(&mut self.streams)
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.control.signal(signal)
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        if !self.terminal {
            return Err(IsolationError::Invalid {
                what: "terminal size".to_owned(),
                reason: "the command has no terminal — request one with Command::pty".to_owned(),
            });
        }
        self.control.resize(size)
    }

    async fn end(&self, reason: EndReason) -> Result<(), IsolationError> {
        // Sending fails if the exec has ended; in that case there is nothing to end.
        self.requests.send(reason).or_unreceived("the request to end a command");
        Ok(())
    }

    async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        // A cancelled call does not lose the outcome: a later call receives it.
        let Some(receiver) = &mut self.outcome else { return Err(IsolationError::AlreadyWaited) };
        let outcome = receiver.await;
        self.outcome = None;
        outcome.unwrap_or_else(|_| {
            Err(IsolationError::Internal(
                "run a command: the task that waits for the command ended without an outcome".to_owned(),
            ))
        })
    }
}
