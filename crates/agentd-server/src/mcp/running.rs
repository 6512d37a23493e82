//! A call of a capability's tool, which a task executes.

use super::{
    live_output::{LiveBytes, LiveOutput},
    slots::CallSlot,
};
use crate::{
    call::{CallEvent, CallStreams},
    caller::Caller,
    request::ExecuteRequest,
    service::{ServedIntent, Service},
};
use agentd_telemetry::{IntentTrace, TraceContext, record_end};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

/// Events that the task has not handled yet. A command that writes faster is delayed.
const EVENTS: usize = 64;

/// The longest line of output in a message about the progress, in bytes.
const MAX_LINE: usize = 200;

/// The state of a call.
#[derive(Debug, Clone)]
pub(super) enum CallState {
    /// The engine has not decided yet.
    Submitted,
    /// A user must approve the intent.
    Waiting {
        /// The identifier of the intent.
        intent: String,
        /// When the intent ends without a decision.
        expires: String,
    },
    /// The intent is executed.
    Running,
    /// The intent has ended, or could not be submitted.
    Ended(Arc<EndedCall>),
}

/// The end of a call.
#[derive(Debug)]
pub(super) struct EndedCall {
    /// The intent, or why it could not be submitted.
    pub served: Result<ServedIntent, String>,
    /// Counts the bytes of the output as long as the result is kept.
    _output: Option<LiveOutput>,
}

/// How far a call is.
#[derive(Debug, Clone)]
pub(super) struct CallProgress {
    /// The state.
    pub state: CallState,
    /// The number of bytes that the command has written.
    pub bytes: u64,
    /// The last line that the command has written.
    pub last_line: String,
}

/// A call that runs or waits. It is cancelled when the value is dropped.
#[derive(Debug)]
pub(super) struct RunningCall {
    /// The name of the capability.
    pub capability: String,
    /// The identity of the call's span, for the client.
    pub trace: TraceContext,
    progress: watch::Receiver<CallProgress>,
    cancel: CancellationToken,
    _cancels: DropGuard,
}

impl RunningCall {
    /// Begins to execute a request. `parent` is the span of the client.
    pub fn begin(
        service: &Service,
        caller: &Caller,
        request: ExecuteRequest,
        slot: CallSlot,
        (parent, live): (Option<&TraceContext>, &Arc<LiveBytes>),
    ) -> Self {
        let trace = IntentTrace::below(parent.cloned());
        let span = trace.span();
        let started = CallProgress { state: CallState::Submitted, bytes: 0, last_line: String::new() };
        let (sender, progress) = watch::channel(started);
        let (events, received) = mpsc::channel(EVENTS);
        let cancel = CancellationToken::new();
        let (service, caller, capability) = (service.clone(), caller.clone(), request.capability.clone());
        let streams = CallStreams { events: Some(events), input: None, cancel: cancel.clone() };
        let mut output = LiveOutput::new(live.clone());
        let task = async move {
            let execution = service.execute(&caller, request, None, streams);
            let mut served = observed(execution, received, &sender, &mut output).await;
            if let Ok(served) = &mut served {
                record_end(&served.ended.object);
                served.ended.object["result"] = output.complete(served.ended.object["result"].take());
            }
            drop(slot);
            let ended = EndedCall { served, _output: Some(output) };
            sender.send_modify(|progress| progress.state = CallState::Ended(Arc::new(ended)));
        };
        tokio::spawn(task.instrument(span));
        Self { capability, trace: trace.own().clone(), progress, _cancels: cancel.clone().drop_guard(), cancel }
    }

    /// Returns how far the call is.
    pub fn progress(&self) -> CallProgress {
        self.progress.borrow().clone()
    }

    /// Waits until the state is another one than `Submitted` or `Running`, and, if the call has been decided, than `Waiting`.
    /// Returns the state.
    pub async fn settled(&self, is_decided: bool) -> CallState {
        let is_settled = |progress: &CallProgress| match progress.state {
            CallState::Submitted | CallState::Running => false,
            CallState::Waiting { .. } => !is_decided,
            CallState::Ended(_) => true,
        };
        let mut progress = self.progress.clone();
        match progress.wait_for(is_settled).await {
            Ok(progress) => progress.state.clone(),
            Err(_) => {
                let served = Err("the task of the call ended — report this as a bug of agentd".to_owned());
                CallState::Ended(Arc::new(EndedCall { served, _output: None }))
            }
        }
    }

    /// Ends the call: an intent that waits is not executed, and the processes of one that runs are killed.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// Executes a request and notes its events.
async fn observed<E: std::fmt::Display>(
    execution: impl Future<Output = Result<ServedIntent, E>>,
    mut events: mpsc::Receiver<CallEvent>,
    progress: &watch::Sender<CallProgress>,
    output: &mut LiveOutput,
) -> Result<ServedIntent, String> {
    let mut execution = std::pin::pin!(execution);
    let mut noted = |event: CallEvent| {
        output.note(&event);
        progress.send_modify(|progress| note(progress, event));
    };
    let served = loop {
        tokio::select! {
            served = &mut execution => break served,
            Some(event) = events.recv() => noted(event),
        }
    };
    while let Ok(event) = events.try_recv() {
        noted(event);
    }
    served.map_err(|error| error.to_string())
}

fn note(progress: &mut CallProgress, event: CallEvent) {
    match event {
        CallEvent::Held { intent, expires } => progress.state = CallState::Waiting { intent, expires },
        CallEvent::Begun { .. } => progress.state = CallState::Running,
        CallEvent::Stdout(bytes) | CallEvent::Stderr(bytes) => {
            progress.bytes = progress.bytes.saturating_add(bytes.len() as u64);
            let text = String::from_utf8_lossy(&bytes);
            if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                progress.last_line = shortened(line);
            }
        }
        CallEvent::Notice(line) => progress.last_line = shortened(&line),
    }
}

fn shortened(line: &str) -> String {
    line[..line.floor_char_boundary(MAX_LINE)].to_owned()
}
