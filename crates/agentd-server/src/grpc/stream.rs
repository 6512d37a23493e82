//! `ExecuteStream`: one request with streams in both directions.
//!
//! The channels are short: a client that does not read delays its own command, and a command that does not read delays its own
//! client. Nothing else waits for either.

use super::{
    call::ExecuteCall,
    failure,
    outcome::outcome,
    translate::{self, StreamInput},
};
use crate::{
    call::{CallEvent, CallInput, CallStreams},
    service::Service,
};
use agentd_proto::v1::{self, execute_stream_request, execute_stream_response::Message};
use agentd_telemetry::record_end;
use futures_util::Stream;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

/// Messages that one side has sent and the other has not taken.
const QUEUED: usize = 4;

/// The longest wait for the first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);

type Reply = Result<v1::ExecuteStreamResponse, Status>;
type Inputs = Streaming<v1::ExecuteStreamRequest>;

/// The replies to one call. The intent is cancelled when the value is dropped, because the client has gone.
pub(super) struct Replies {
    replies: mpsc::Receiver<Reply>,
    _cancels: DropGuard,
}

impl Stream for Replies {
    type Item = Reply;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        self.replies.poll_recv(context)
    }
}

/// Begins to execute the request that the first message has. The replies begin before that message is received.
pub(super) fn execute(service: &Service, request: Request<Inputs>) -> Result<Response<Replies>, Status> {
    let call = ExecuteCall::of(&request)?;
    let (sender, replies) = mpsc::channel(QUEUED);
    let cancel = CancellationToken::new();
    let mut response = Response::new(Replies { replies, _cancels: cancel.clone().drop_guard() });
    call.identify(response.metadata_mut());
    let (service, inputs) = (service.clone(), request.into_inner());
    tokio::spawn(async move {
        let last = tokio::select! {
            last = answered(&service, &call, inputs, &sender, &cancel) => last,
            overdue = call.overdue() => Err(overdue),
        };
        cancel.cancel();
        // Nobody receives the reply if the client has gone.
        let _ = sender.send(last).await;
    });
    Ok(response)
}

/// Executes the request, and returns the last reply.
async fn answered(
    service: &Service,
    call: &ExecuteCall,
    mut inputs: Inputs,
    replies: &mpsc::Sender<Reply>,
    cancel: &CancellationToken,
) -> Reply {
    let (request, key) = translate::request(first(&mut inputs).await?)?;
    let (events, received) = mpsc::channel(QUEUED);
    let (sender, input) = mpsc::channel(QUEUED);
    let streams = CallStreams { events: Some(events), input: Some(input), cancel: cancel.clone() };
    let execution = async {
        let served = service.execute(&call.caller, request, key, streams).await;
        served.inspect(|served| record_end(&served.ended.object))
    };
    // The events end with the execution.
    let ended = async { tokio::join!(execution.instrument(call.trace.span()), relay(received, replies)).0 };
    let served = tokio::select! {
        served = ended => served.map_err(|error| failure::of_service(&error))?,
        broken = forward(inputs, sender, cancel) => return Err(broken),
    };
    Ok(reply(Message::Ended(outcome(served))))
}

/// Receives the request of a call.
async fn first(inputs: &mut Inputs) -> Result<v1::ExecuteRequest, Status> {
    let missing = || failure::invalid("execute", "execute: the first message has no request — send the request first".to_owned());
    match tokio::time::timeout(FIRST_MESSAGE, inputs.message()).await {
        Ok(message) => match message?.and_then(|message| message.message) {
            Some(execute_stream_request::Message::Execute(request)) => Ok(request),
            _ => Err(missing()),
        },
        Err(_) => Err(failure::failure("deadline-exceeded", "no request was received in 30 s — send the request first")),
    }
}

/// Sends the events of an intent to the client.
async fn relay(mut events: mpsc::Receiver<CallEvent>, replies: &mpsc::Sender<Reply>) {
    while let Some(event) = events.recv().await {
        let message = match event {
            CallEvent::Held { intent, expires } => Message::Held(v1::Held { intent, expires }),
            CallEvent::Begun { intent } => Message::Begun(v1::Begun { intent }),
            CallEvent::Stdout(bytes) => Message::Stdout(bytes),
            CallEvent::Stderr(bytes) => Message::Stderr(bytes),
            CallEvent::Notice(text) => Message::Notice(text),
        };
        if replies.send(Ok(reply(message))).await.is_err() {
            return;
        }
    }
}

/// Sends the inputs of the client to the command. Returns the error of a client that has gone or has violated the protocol.
/// After the end of the client's stream, the function does not return.
async fn forward(mut inputs: Inputs, sender: mpsc::Sender<CallInput>, cancel: &CancellationToken) -> Status {
    let mut command = Some(sender);
    loop {
        let input = match inputs.message().await {
            Ok(Some(message)) => match translate::input(message) {
                Ok(StreamInput::Input(input)) => input,
                Ok(StreamInput::Cancel) => {
                    cancel.cancel();
                    continue;
                }
                Err(invalid) => return invalid,
            },
            Ok(None) => {
                if let Some(command) = &command {
                    // A command that has ended reads nothing.
                    let _ = command.send(CallInput::EndOfStdin).await;
                }
                return std::future::pending().await;
            }
            Err(broken) => return broken,
        };
        let sent = match &command {
            Some(command) => command.send(input).await,
            None => continue,
        };
        if sent.is_err() {
            command = None;
        }
    }
}

fn reply(message: Message) -> v1::ExecuteStreamResponse {
    v1::ExecuteStreamResponse { message: Some(message) }
}
