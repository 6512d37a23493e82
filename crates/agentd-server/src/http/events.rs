//! The events of an execution, as server-sent events (HTML Living Standard, section 9.2).

use super::{
    intents::{Submission, object, submit},
    state::HttpState,
};
use crate::call::{CallEvent, CallStreams};
use axum::response::{
    IntoResponse as _, Response,
    sse::{Event, KeepAlive, Sse},
};
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The type of server-sent events.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// The number of events that may wait for the client before the command is blocked.
const WAITING: usize = 16;

/// The interval of comments while nothing happens, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The header that keeps a proxy from collecting events.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The events on their way to the client. When the client has gone, the intent is cancelled.
struct EventStream {
    events: mpsc::Receiver<Event>,
    _gone: DropGuard,
}

impl Stream for EventStream {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context).map(|event| event.map(Ok))
    }
}

/// Executes a request, and returns a response with its events: `held`, `begun`, `stdout`, `stderr` and `notice`, and at last
/// `ended` with the object of the intent, or `error` with a problem.
pub(super) fn stream(state: &HttpState, submission: Submission) -> Response {
    let cancel = CancellationToken::new();
    let (sender, events) = mpsc::channel(WAITING);
    let body = EventStream { events, _gone: cancel.clone().drop_guard() };
    tokio::spawn(execute(state.clone(), submission, cancel, sender));
    let mut response = Sse::new(body).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(NO_BUFFERING, HeaderValue::from_static("no"));
    response
}

async fn execute(state: HttpState, submission: Submission, cancel: CancellationToken, client: mpsc::Sender<Event>) {
    let (sender, mut received) = mpsc::channel(1);
    let mut served = std::pin::pin!(submit(&state, submission, CallStreams { events: Some(sender), input: None, cancel }));
    let mut is_open = true;
    let served = loop {
        tokio::select! {
            // Events come before the end that follows them.
            biased;
            event = received.recv(), if is_open => match event {
                // Sending fails if the client has gone. The intent is cancelled then.
                Some(event) => drop(client.send(event_of(event)).await),
                None => is_open = false,
            },
            served = &mut served => break served,
        }
    };
    while let Ok(event) = received.try_recv() {
        drop(client.send(event_of(event)).await);
    }
    let last = match served {
        Ok(served) => event("ended", &Value::Object(object(served))),
        Err(problem) => event("error", &serde_json::to_value(problem).unwrap_or_default()),
    };
    drop(client.send(last).await);
}

fn event_of(happened: CallEvent) -> Event {
    match happened {
        CallEvent::Held { intent, expires } => event("held", &json!({ "intent": intent, "expires": expires })),
        CallEvent::Begun { intent } => event("begun", &json!({ "intent": intent })),
        CallEvent::Stdout(bytes) => event("stdout", &output(&bytes)),
        CallEvent::Stderr(bytes) => event("stderr", &output(&bytes)),
        CallEvent::Notice(text) => event("notice", &json!({ "text": text })),
    }
}

fn event(name: &str, data: &Value) -> Event {
    // JSON has no line breaks, which would end the data.
    Event::default().event(name).data(data.to_string())
}

/// Returns bytes as text, or in Base64 if they are not UTF-8.
fn output(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": data_encoding::BASE64.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_exact() {
        assert_eq!(output("ä\n".as_bytes()), json!({ "text": "ä\n" }));
        assert_eq!(output(b"\xff\n"), json!({ "base64": "/wo=" }));
    }
}
