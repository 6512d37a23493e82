//! The streams of one execution.

use crate::{client::Client, error::ClientError};
use agentd_proto::v1::{self, execute_stream_request as sent, execute_stream_response as received};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;

/// Inputs that were not sent yet. A command that does not read delays [`CommandInput`].
const QUEUED: usize = 4;

/// The longest message with bytes for standard input.
const MAX_CHUNK: usize = 64 << 10;

/// An event of an execution.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ExecutionEvent {
    /// The intent waits for an approval.
    Held(v1::Held),
    /// The intent is executed.
    Begun(v1::Begun),
    /// The command wrote to its standard output, or to its terminal.
    Stdout(Bytes),
    /// The command wrote to its standard error.
    Stderr(Bytes),
    /// A message about the run that needs attention now, such as a connection that waits for an approval.
    Notice(String),
    /// The outcome, which is the last event.
    Ended(Box<v1::Outcome>),
}

/// An execution with streams. The intent ends when the value is dropped within a runtime of tokio.
#[derive(Debug)]
pub struct ExecutionStream {
    replies: Streaming<v1::ExecuteStreamResponse>,
    input: Option<CommandInput>,
    client: Client,
    /// The intent, once it is known.
    intent: Option<String>,
    has_ended: bool,
    /// Ends the messages to the daemon, also while a clone of the input exists.
    _ends_messages: DropGuard,
}

/// The input of a command. The end of standard input is sent when all clones are dropped.
#[derive(Debug, Clone)]
pub struct CommandInput(mpsc::Sender<v1::ExecuteStreamRequest>);

/// The command has ended, or the connection is broken: nobody receives its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the execution has ended, so it takes no input")]
pub struct NoInput;

impl CommandInput {
    /// Sends bytes to standard input. The parameters must request streamed input.
    ///
    /// # Errors
    /// [`NoInput`].
    pub async fn stdin(&self, mut bytes: Bytes) -> Result<(), NoInput> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(MAX_CHUNK));
            self.send(sent::Message::Stdin(chunk)).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// [`NoInput`].
    pub async fn end_of_stdin(&self) -> Result<(), NoInput> {
        self.send(sent::Message::EndOfStdin(v1::EndOfStdin {})).await
    }

    /// Changes the size of the terminal. The parameters must request a terminal.
    ///
    /// # Errors
    /// [`NoInput`].
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), NoInput> {
        self.send(sent::Message::Resize(v1::TerminalSize { rows: rows.into(), columns: columns.into() })).await
    }

    /// Sends a signal to the process group of the command (`signal(7)`).
    ///
    /// # Errors
    /// [`NoInput`].
    pub async fn signal(&self, number: i32) -> Result<(), NoInput> {
        self.send(sent::Message::Signal(number)).await
    }

    /// Ends the intent. The outcome follows.
    ///
    /// # Errors
    /// [`NoInput`].
    pub async fn cancel(&self) -> Result<(), NoInput> {
        self.send(sent::Message::Cancel(v1::CancelExecution {})).await
    }

    async fn send(&self, message: sent::Message) -> Result<(), NoInput> {
        self.0.send(v1::ExecuteStreamRequest { message: Some(message) }).await.map_err(|_| NoInput)
    }
}

impl ExecutionStream {
    /// Begins an execution. The request is the first message.
    pub(crate) async fn begin(client: &Client, request: v1::ExecuteRequest) -> Result<Self, ClientError> {
        let (sender, receiver) = mpsc::channel(QUEUED);
        let gone = CancellationToken::new();
        let first = v1::ExecuteStreamRequest { message: Some(sent::Message::Execute(request)) };
        let messages = tokio_stream::once(first).chain(ReceiverStream::new(receiver)).take_until(gone.clone().cancelled_owned());
        let ends_messages = gone.drop_guard();
        let replies = client.calls().execute_stream(client.call(messages)).await?.into_inner();
        Ok(Self {
            replies,
            input: Some(CommandInput(sender)),
            client: client.clone(),
            intent: None,
            has_ended: false,
            _ends_messages: ends_messages,
        })
    }

    /// Takes the input of the command. A second call returns `None`. While nobody takes it, standard input stays open.
    pub fn take_input(&mut self) -> Option<CommandInput> {
        self.input.take()
    }

    /// Returns the next event; `None` after the outcome.
    ///
    /// # Errors
    /// [`ClientError::Call`], and [`ClientError::Incomplete`] if the daemon sends no outcome.
    pub async fn next(&mut self) -> Result<Option<ExecutionEvent>, ClientError> {
        if self.has_ended {
            return Ok(None);
        }
        futures_util::StreamExt::next(self).await.transpose()
    }

    fn event(&mut self, reply: v1::ExecuteStreamResponse) -> Result<ExecutionEvent, ClientError> {
        Ok(match reply.message.ok_or(ClientError::Incomplete)? {
            received::Message::Held(held) => {
                self.intent = Some(held.intent.clone());
                ExecutionEvent::Held(held)
            }
            received::Message::Begun(begun) => {
                self.intent = Some(begun.intent.clone());
                ExecutionEvent::Begun(begun)
            }
            received::Message::Stdout(bytes) => ExecutionEvent::Stdout(bytes),
            received::Message::Stderr(bytes) => ExecutionEvent::Stderr(bytes),
            received::Message::Notice(text) => ExecutionEvent::Notice(text),
            received::Message::Ended(outcome) => {
                self.has_ended = true;
                ExecutionEvent::Ended(Box::new(outcome))
            }
        })
    }
}

impl Stream for ExecutionStream {
    type Item = Result<ExecutionEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = match std::task::ready!(Pin::new(&mut self.replies).poll_next(context)) {
            Some(Ok(reply)) => self.event(reply),
            Some(Err(status)) => Err(status.into()),
            None => Err(ClientError::Incomplete),
        };
        // Nothing follows an error.
        self.has_ended |= next.is_err();
        Poll::Ready(Some(next))
    }
}

impl Drop for ExecutionStream {
    fn drop(&mut self) {
        // HTTP/2 keeps the call open until all input was sent, which a command that reads nothing prevents.
        let Some(intent) = self.intent.take().filter(|_| !self.has_ended) else { return };
        let (Ok(runtime), client) = (Handle::try_current(), self.client.clone()) else { return };
        runtime.spawn(async move {
            // The intent may have ended meanwhile.
            let _ = client.cancel(&intent).await;
        });
    }
}
