//! The errors of calls, with the details that the daemon sends.

use std::{error::Error as _, time::Duration};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

/// The reason why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A header cannot contain the trace context.
    #[error("trace context: not visible ASCII characters — use the form 00-TRACE-SPAN-01")]
    TraceParent,
    /// A header cannot contain the API key. The text does not repeat it.
    #[error("API key: not visible ASCII characters — pass the whole line that `agentd key create` has printed")]
    Key,
    /// The URL names no daemon, or one that would be reached by plain text.
    #[error("connect to agentd: {url:?}: neither https nor a loopback address — use https://HOST:PORT")]
    Url {
        /// The URL.
        url: String,
    },
    /// The daemon cannot be reached.
    #[error("connect to agentd: {address}: {source} — start it with `agentd serve`, or name its socket or URL")]
    Connect {
        /// The path of the socket, or the URL.
        address: String,
        /// The cause.
        source: tonic::transport::Error,
    },
    /// The parameters have no JSON form.
    #[error("parameters: {0}")]
    Parameters(#[source] serde_json::Error),
    /// The daemon, or the connection with it, returned an error.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The daemon sent a reply without a part that it must have.
    #[error("the reply of the daemon is incomplete — use a client of the daemon's version")]
    Incomplete,
}

/// The error of a call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The code of gRPC.
    pub code: Code,
    /// The reason, such as `denied` or `quota-exceeded` (`docs/grpc.md`). Empty if the connection failed.
    pub reason: String,
    /// The same in words.
    pub message: String,
    /// The intent, if it was recorded as refused.
    pub intent: Option<String>,
    /// The fields of the request at fault.
    pub fields: Vec<FieldError>,
    /// The time after which a repeated call can succeed.
    pub retry_after: Option<Duration>,
}

/// A field of a request at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field. `parameters_json` is followed by the JSON pointer of the value.
    pub field: String,
    /// The rule that the value violates.
    pub message: String,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status.into()))
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        if is_overdue(&status) {
            return Self {
                code: Code::DeadlineExceeded,
                reason: "deadline-exceeded".to_owned(),
                message: "the deadline of the call has passed, and the intent is cancelled — allow more time".to_owned(),
                intent: None,
                fields: Vec::new(),
                retry_after: None,
            };
        }
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|request| request.field_violations.as_slice()).unwrap_or_default();
        let field = |one: &tonic_types::FieldViolation| FieldError { field: one.field.clone(), message: one.description.clone() };
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            intent: info.and_then(|info| info.metadata.get("intent").cloned()),
            fields: violations.iter().map(field).collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

/// Returns true if the channel ended the call, because its deadline has passed. The channel states another code.
fn is_overdue(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}
