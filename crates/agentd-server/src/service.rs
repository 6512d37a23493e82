//! Submits the requests of all transports to the engine, and has admitted intents executed.

use crate::{
    call::{CallEvent, CallStreams},
    caller::Caller,
    executor::{ExecutionCall, Executor, SandboxReach},
    request::{ExecuteRequest, InvalidRequest},
    running_intents::RunningIntents,
};
use agentd_engine::{CapabilityRegistry, EndedIntent, Engine, EngineError, Execution, Submitted};
use agentd_log::{LogFailure as _, measure::Stage};
use agentd_state::{IdempotencyKey, IntentId};
use std::{path::PathBuf, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// The parts of a service.
pub struct ServiceParts {
    /// The engine.
    pub engine: Engine,
    /// Executes admitted intents.
    pub executor: Box<dyn Executor>,
    /// The directories, without links, at or below which callers other than the user may name a workspace.
    pub workspaces: Vec<PathBuf>,
}

/// Executes the requests of all transports. Clones share one service.
#[derive(Clone)]
pub struct Service {
    parts: Arc<ServiceParts>,
    /// The intents that are executed. Each runs in a task of its own, so that it is recorded when its caller has gone.
    running: TaskTracker,
    /// The same intents by identifier, once they are recorded.
    intents: RunningIntents,
    /// Cancelled when the daemon accepts no further request.
    draining: CancellationToken,
    /// Cancelled when the daemon ends: every intent is then cancelled.
    stopping: CancellationToken,
}

/// An intent that has ended, as a transport returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedIntent {
    /// The end of the intent.
    pub ended: EndedIntent,
    /// Messages about the run, such as refused destinations and changed protected paths.
    pub notices: Vec<String>,
}

/// The reason why a request has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The request is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The caller cancelled the request before it was admitted.
    #[error("the request was cancelled before it was admitted")]
    Cancelled,
    /// The daemon ends, and accepts no request.
    #[error("the daemon is stopping — send the request again, with the same idempotency key")]
    Stopping,
    /// The engine cannot admit or record.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The task of the intent panicked. This is a bug.
    #[error("the execution ended unexpectedly: {0} — report this as a bug of agentd")]
    Panicked(String),
}

impl Service {
    /// Returns a service of these parts.
    pub fn new(parts: ServiceParts) -> Self {
        Self {
            parts: Arc::new(parts),
            running: TaskTracker::new(),
            intents: RunningIntents::default(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        &self.parts.engine
    }

    /// Returns the capabilities.
    pub fn capabilities(&self) -> &CapabilityRegistry {
        self.parts.engine.capabilities()
    }

    /// Returns true once the daemon accepts no further request.
    pub fn is_stopping(&self) -> bool {
        self.running.is_closed()
    }

    /// Returns once the daemon accepts no further request.
    pub async fn until_stopping(&self) {
        self.draining.cancelled().await;
    }

    /// Cancels an intent of the caller that waits for an approval or is executed. Returns false if the caller has no such intent,
    /// whether or not another principal has it.
    pub fn cancel(&self, caller: &Caller, intent: IntentId) -> bool {
        self.intents.cancel(intent, &caller.principal.id())
    }

    /// Accepts no further request, and returns when all intents have ended.
    pub async fn drain(&self) {
        self.close();
        self.running.wait().await;
    }

    fn close(&self) {
        self.running.close();
        self.draining.cancel();
    }

    /// Cancels all intents that are executed or wait.
    pub fn cancel_all(&self) {
        self.close();
        self.stopping.cancel();
    }

    /// Admits and executes a request, and returns its end. The intent is executed in a task of its own: it is recorded even if
    /// the caller drops the returned future. A caller that has gone cancels `streams.cancel`.
    ///
    /// # Errors
    /// [`ServiceError`]. A request that is refused by the engine is no error, but an intent that has ended.
    pub async fn execute(
        &self,
        caller: &Caller,
        request: ExecuteRequest,
        key: Option<IdempotencyKey>,
        streams: CallStreams,
    ) -> Result<ServedIntent, ServiceError> {
        if self.is_stopping() {
            return Err(ServiceError::Stopping);
        }
        let (service, caller) = (self.clone(), caller.clone());
        let task = async move { service.serve(&caller, request, key, streams).await };
        match self.running.spawn(task.in_current_span()).await {
            Ok(served) => served,
            Err(error) => Err(ServiceError::Panicked(error.to_string())),
        }
    }

    async fn serve(
        &self,
        caller: &Caller,
        request: ExecuteRequest,
        key: Option<IdempotencyKey>,
        mut streams: CallStreams,
    ) -> Result<ServedIntent, ServiceError> {
        let stopping = self.stopping.clone();
        let cancel = streams.cancel.clone();
        // Lasts as long as the intent.
        let _forwards = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            stopping.cancelled().await;
            cancel.cancel();
        }));
        let backend = request.backend.clone();
        let intent = request.intent(caller, key, &self.parts.workspaces)?;
        let engine = &self.parts.engine;
        let submitted = tokio::select! {
            biased;
            () = streams.cancel.cancelled() => {
                // An intent that was recorded is not executed, and ends as interrupted.
                engine.recover().await.or_warn("end the intents that were cancelled", "of this daemon");
                return Err(ServiceError::Cancelled);
            }
            submitted = engine.submit(intent) => submitted?,
        };
        let id = match &submitted {
            Submitted::Execute(execution) => Some(execution.id()),
            Submitted::Hold(held) => Some(held.id()),
            Submitted::Ended(_) => None,
        };
        // Lasts until the intent has ended.
        let _entry = id.map(|id| self.intents.enter(id, caller.principal.id(), streams.cancel.clone()));
        let execution = match submitted {
            Submitted::Ended(ended) => return Ok(ServedIntent { ended, notices: Vec::new() }),
            Submitted::Execute(execution) => *execution,
            Submitted::Hold(held) => {
                let event = CallEvent::Held { intent: held.id().to_string(), expires: held.expires().to_string() };
                streams.send(event).await;
                let state = tokio::select! {
                    biased;
                    () = streams.cancel.cancelled() => {
                        return Ok(ServedIntent { ended: held.cancel().await?, notices: Vec::new() });
                    }
                    state = held.decided().instrument(Stage::Queue.span()) => state?,
                };
                match held.resolve(&state).await? {
                    Ok(execution) => execution,
                    Err(ended) => return Ok(ServedIntent { ended, notices: Vec::new() }),
                }
            }
        };
        let reach = match caller.is_operator {
            true => SandboxReach::All,
            false => SandboxReach::Listed([&[self.parts.workspaces.clone()][..], &caller.scope.workspaces].concat()),
        };
        self.run(execution, ExecutionCall { streams, backend, reach }).await
    }

    async fn run(&self, execution: Execution<'_>, mut call: ExecutionCall) -> Result<ServedIntent, ServiceError> {
        call.streams.send(CallEvent::Begun { intent: execution.id().to_string() }).await;
        let (ended, notices) = self.parts.executor.execute(execution, call).await?;
        Ok(ServedIntent { ended, notices })
    }
}

impl CallStreams {
    /// Sends an event, unless the caller has gone. A caller that does not read delays this function until it is cancelled.
    pub(crate) async fn send(&mut self, event: CallEvent) {
        let Some(events) = &self.events else { return };
        let gone = tokio::select! {
            sent = events.send(event) => sent.is_err(),
            () = self.cancel.cancelled() => false,
        };
        if gone {
            self.events = None;
        }
    }
}
