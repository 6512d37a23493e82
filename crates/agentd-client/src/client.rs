//! The calls of a client.

use crate::{error::ClientError, execution::ExecutionStream};
use agentd_proto::{
    limits::{MAX_REQUEST, MAX_RESPONSE},
    v1::{self, agentd_client::AgentdClient},
};
use serde::Serialize;
use std::time::Duration;
use tonic::{Request, metadata::AsciiMetadataValue, transport::Channel};

/// A client of one daemon. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    calls: AgentdClient<Channel>,
    timeout: Option<Duration>,
    traceparent: Option<AsciiMetadataValue>,
    /// The metadata `authorization`.
    credential: Option<AsciiMetadataValue>,
}

/// Returns a request to use a capability with these parameters. Its fields have the options.
///
/// # Errors
/// [`ClientError::Parameters`] if the parameters have no JSON form.
pub fn request(capability: &str, parameters: &impl Serialize) -> Result<v1::ExecuteRequest, ClientError> {
    let parameters_json = serde_json::to_string(parameters).map_err(ClientError::Parameters)?;
    Ok(v1::ExecuteRequest { capability: capability.to_owned(), parameters_json, ..Default::default() })
}

impl Client {
    pub(crate) fn new(channel: Channel, credential: Option<AsciiMetadataValue>) -> Self {
        let calls = AgentdClient::new(channel).max_encoding_message_size(MAX_REQUEST).max_decoding_message_size(MAX_RESPONSE);
        Self { calls, timeout: None, traceparent: None, credential }
    }

    /// Returns a client whose calls have this deadline, counted from their begin. The daemon then ends the intent.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// Returns a client whose calls belong to this span (W3C Trace Context).
    ///
    /// # Errors
    /// [`ClientError::TraceParent`] if a header cannot contain the text.
    pub fn with_traceparent(&self, traceparent: &str) -> Result<Self, ClientError> {
        let value = traceparent.try_into().map_err(|_| ClientError::TraceParent)?;
        Ok(Self { traceparent: Some(value), ..self.clone() })
    }

    /// Executes a capability, and returns its outcome. An intent that waits for an approval delays the return. The intent ends
    /// when the returned future is dropped.
    ///
    /// # Errors
    /// [`ClientError::Call`]; its reason is the word of the refusal if the intent was refused.
    pub async fn execute(&self, request: v1::ExecuteRequest) -> Result<v1::Outcome, ClientError> {
        let response = self.calls().execute(self.call(request)).await?;
        response.into_inner().outcome.ok_or(ClientError::Incomplete)
    }

    /// Begins to execute a capability, with its output and its input as streams. The intent ends when the returned value is
    /// dropped.
    ///
    /// # Errors
    /// [`ClientError::Call`]. A refusal is no error, but the outcome that the stream returns.
    pub async fn execute_stream(&self, request: v1::ExecuteRequest) -> Result<ExecutionStream, ClientError> {
        ExecutionStream::begin(self, request).await
    }

    /// Ends an intent of this principal, and returns before it has ended.
    ///
    /// # Errors
    /// [`ClientError::Call`] with the reason `unknown-intent` if no such intent of this principal waits or is executed.
    pub async fn cancel(&self, intent: &str) -> Result<(), ClientError> {
        let request = v1::CancelRequest { intent: intent.to_owned() };
        self.calls().cancel(self.call(request)).await?;
        Ok(())
    }

    /// Returns all capabilities, in the order of their names.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn capabilities(&self) -> Result<Vec<v1::Capability>, ClientError> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListCapabilitiesRequest { page_size: 0, page_token };
            let page = self.calls().list_capabilities(self.call(request)).await?.into_inner();
            all.extend(page.capabilities);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Returns one capability. `name` has the version, such as `shell.exec.v1`.
    ///
    /// # Errors
    /// [`ClientError::Call`] with the reason `unknown-capability` if there is none.
    pub async fn capability(&self, name: &str) -> Result<v1::Capability, ClientError> {
        let request = v1::GetCapabilityRequest { name: name.to_owned() };
        let reply = self.calls().get_capability(self.call(request)).await?;
        reply.into_inner().capability.ok_or(ClientError::Incomplete)
    }

    /// Returns whether the daemon accepts intents, and its version.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn health(&self) -> Result<v1::HealthResponse, ClientError> {
        let reply = self.calls().health(self.call(v1::HealthRequest {})).await?;
        Ok(reply.into_inner())
    }

    /// Returns all intents that wait for an approval: those of this principal, or those of all if it runs the daemon.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn approvals(&self) -> Result<Vec<v1::Approval>, ClientError> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListApprovalsRequest { page_size: 0, page_token };
            let page = self.calls().list_approvals(self.call(request)).await?.into_inner();
            all.extend(page.approvals);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Approves or denies an intent that waits. Only the user who runs the daemon may decide.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub async fn decide(&self, intent: &str, decision: v1::ApprovalDecision) -> Result<(), ClientError> {
        let request = v1::DecideApprovalRequest { intent: intent.to_owned(), decision: decision.into() };
        self.calls().decide_approval(self.call(request)).await?;
        Ok(())
    }

    pub(crate) fn calls(&self) -> AgentdClient<Channel> {
        self.calls.clone()
    }

    pub(crate) fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        if let Some(traceparent) = &self.traceparent {
            request.metadata_mut().insert("traceparent", traceparent.clone());
        }
        if let Some(credential) = &self.credential {
            request.metadata_mut().insert("authorization", credential.clone());
        }
        request
    }
}
