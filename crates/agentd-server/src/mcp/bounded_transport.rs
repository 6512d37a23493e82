//! Bounds what a client on standard input can make the server hold in memory.
//!
//! `rmcp` starts a task for each request it receives, and a task for each answer. This transport passes on only a number of
//! requests that are not answered yet. Further requests get an error, and while the client does not read that error, nothing more
//! is read from the client.

use rmcp::{
    ErrorData, RoleServer,
    model::{ClientNotification, ClientRequest, ErrorCode, JsonRpcMessage, RequestId},
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

/// The requests of a client that are not answered yet.
const MAX_UNANSWERED: usize = 256;

/// The code of the error for a request that is one too many.
const TOO_MANY: ErrorCode = ErrorCode(-32000);

/// A transport that passes on a bounded number of requests at a time.
pub(super) struct BoundedTransport<T> {
    inner: T,
    unanswered: Arc<Mutex<HashSet<RequestId>>>,
    /// The error that is being sent. Nothing is read meanwhile.
    refusal: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// True once the client has chosen a revision.
    has_begun: bool,
}

impl<T: Transport<RoleServer>> BoundedTransport<T> {
    /// Returns a transport above another one.
    pub fn new(inner: T) -> Self {
        Self { inner, unanswered: Arc::default(), refusal: None, has_begun: false }
    }

    /// Returns why a request is refused; `None` if it is passed on.
    fn refused(&self, id: &RequestId) -> Option<ErrorData> {
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        if unanswered.contains(id) {
            return Some(ErrorData::invalid_request("a request with this id is not answered yet — use another id", None));
        }
        if unanswered.len() >= MAX_UNANSWERED {
            let message = format!("{MAX_UNANSWERED} requests are not answered yet — wait for an answer before the next request");
            return Some(ErrorData::new(TOO_MANY, message, None));
        }
        unanswered.insert(id.clone());
        None
    }
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for BoundedTransport<T> {
    type Error = T::Error;

    fn send(&mut self, item: TxJsonRpcMessage<RoleServer>) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answered = match &item {
            JsonRpcMessage::Response(response) => Some(response.id.clone()),
            JsonRpcMessage::Error(error) => error.id.clone(),
            _ => None,
        };
        let (unanswered, sending) = (self.unanswered.clone(), self.inner.send(item));
        async move {
            let sent = sending.await;
            if let Some(id) = answered {
                unanswered.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            // Kept when this function is cancelled, so that no answer is lost.
            if let Some(refusal) = &mut self.refusal {
                refusal.await;
                self.refusal = None;
            }
            let message = self.inner.receive().await?;
            match &message {
                JsonRpcMessage::Request(request) => match self.refused(&request.id) {
                    Some(error) => {
                        let sending = self.inner.send(JsonRpcMessage::error(error, Some(request.id.clone())));
                        self.refusal = Some(Box::pin(async move {
                            // A client that has gone is noticed by the next read.
                            sending.await.ok();
                        }));
                    }
                    None => {
                        let begins =
                            !matches!(request.request, ClientRequest::DiscoverRequest(_) | ClientRequest::PingRequest(_));
                        self.has_begun |= begins;
                        return Some(message);
                    }
                },
                // Before the first request, `rmcp` ends the connection at any other message.
                _ if !self.has_begun => tracing::debug!("ignored a message before the first request"),
                JsonRpcMessage::Notification(notification) => {
                    if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                        && let Some(id) = &cancelled.params.request_id
                    {
                        // A cancelled request is not answered.
                        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                    }
                    return Some(message);
                }
                JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => return Some(message),
            }
        }
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.inner.close()
    }
}
