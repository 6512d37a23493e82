//! Errors as problem details (RFC 9457).

use crate::service::ServiceError;
use agentd_engine::EngineError;
use agentd_state::StateError;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// The statuses by code. The codes of intents that are refused are the words that receipts and the audit log contain.
pub(super) const STATUSES: [(&str, StatusCode); 35] = [
    ("unknown-capability", StatusCode::NOT_FOUND),
    (OUTSIDE_SCOPE, StatusCode::FORBIDDEN),
    ("invalid-parameters", StatusCode::UNPROCESSABLE_ENTITY),
    ("invalid-network", StatusCode::UNPROCESSABLE_ENTITY),
    ("key-conflict", StatusCode::CONFLICT),
    ("denied", StatusCode::FORBIDDEN),
    ("exceeds-policy", StatusCode::FORBIDDEN),
    ("quota-exceeded", StatusCode::TOO_MANY_REQUESTS),
    ("not-approved", StatusCode::FORBIDDEN),
    ("approval-expired", StatusCode::FORBIDDEN),
    ("cancelled", StatusCode::CONFLICT),
    (INVALID, StatusCode::BAD_REQUEST),
    (UNAUTHENTICATED, StatusCode::UNAUTHORIZED),
    (TOO_MANY_FAILURES, StatusCode::TOO_MANY_REQUESTS),
    (NO_PATH, StatusCode::NOT_FOUND),
    (NO_METHOD, StatusCode::METHOD_NOT_ALLOWED),
    (TOO_LONG, StatusCode::PAYLOAD_TOO_LARGE),
    (TOO_SLOW, StatusCode::REQUEST_TIMEOUT),
    ("unknown-intent", StatusCode::NOT_FOUND),
    ("not-an-approver", StatusCode::FORBIDDEN),
    ("no-approval", StatusCode::NOT_FOUND),
    ("approval-decided", StatusCode::CONFLICT),
    ("unknown-sandbox", StatusCode::NOT_FOUND),
    ("unknown-snapshot", StatusCode::NOT_FOUND),
    ("sandbox-exists", StatusCode::CONFLICT),
    ("snapshot-exists", StatusCode::CONFLICT),
    ("sandbox-lost", StatusCode::CONFLICT),
    ("too-many-sandboxes", StatusCode::TOO_MANY_REQUESTS),
    ("reserved-name", StatusCode::UNPROCESSABLE_ENTITY),
    ("invalid-content", StatusCode::UNPROCESSABLE_ENTITY),
    ("failed", StatusCode::CONFLICT),
    ("interrupted", StatusCode::CONFLICT),
    ("result-lost", StatusCode::CONFLICT),
    ("busy", StatusCode::SERVICE_UNAVAILABLE),
    ("stopping", StatusCode::SERVICE_UNAVAILABLE),
];

/// The request does not have the required form.
pub(super) const INVALID: &str = "invalid-request";
/// The caller is not authenticated.
pub(super) const UNAUTHENTICATED: &str = "unauthenticated";
/// The credential does not permit the capability or the transport.
pub(super) const OUTSIDE_SCOPE: &str = "outside-scope";
/// Too many credentials of the address were not valid.
pub(super) const TOO_MANY_FAILURES: &str = "too-many-failures";
/// The path does not exist.
pub(super) const NO_PATH: &str = "no-such-path";
/// The path does not have the method.
pub(super) const NO_METHOD: &str = "no-such-method";
/// The body is too long.
pub(super) const TOO_LONG: &str = "too-long";
/// The body arrives too slowly.
pub(super) const TOO_SLOW: &str = "too-slow";
/// The daemon failed, and the caller can do nothing about it.
const INTERNAL: &str = "internal";

/// Returns the status of a code. A code that the table lacks is a refusal of a newer engine, or an internal error.
fn status(code: &str) -> StatusCode {
    let unknown = if code == INTERNAL { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::FORBIDDEN };
    STATUSES.iter().find(|(word, _)| *word == code).map_or(unknown, |(_, status)| *status)
}

/// An error as problem details.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: `code` tells the kinds apart.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What failed, and what to do.
    detail: String,
    /// The kind of error.
    code: String,
    /// The violations of the schema, each with a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    violations: Option<Box<Value>>,
    /// The time in milliseconds after which the request may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The object of the refused intent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    intent: Option<Box<Map<String, Value>>>,
}

impl Problem {
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let status = status(code);
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            violations: None,
            retry_after_ms: None,
            intent: None,
        }
    }

    /// Returns the problem with the time after which the request may succeed.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// Returns the problem for an error that the caller can do nothing about. Its text is about files of the daemon, so it is
    /// logged instead.
    fn internal(error: &impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request has no outcome");
        Self::new(INTERNAL, "the daemon failed to execute or to record the request — ask the operator for the daemon's log")
    }

    /// Returns the problem for the object of an intent that was refused, or whose operation failed.
    pub fn of_intent(object: Map<String, Value>) -> Self {
        let error = object.get("error").cloned().unwrap_or_default();
        let text = |name: &str| error[name].as_str().unwrap_or("refused").to_owned();
        let code = text("code");
        Self {
            violations: error.get("violations").cloned().map(Box::new),
            retry_after_ms: error["retry_after_ms"].as_u64(),
            intent: Some(Box::new(object)),
            ..Self::new(&code, text("message"))
        }
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Invalid(_) => Self::new(INVALID, error.to_string()),
            ServiceError::Cancelled => Self::new("cancelled", error.to_string()),
            ServiceError::Stopping => Self::new("stopping", error.to_string()),
            ServiceError::Engine(engine) => engine.into(),
            _ => Self::internal(&error),
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::State(StateError::Busy(_) | StateError::Full) => {
                tracing::warn!(%error, "the request was not recorded");
                let detail = "the daemon cannot record the request at present — send it again, with the same idempotency key";
                return Self { retry_after_ms: Some(1000), ..Self::new("busy", detail) };
            }
            EngineError::State(StateError::NoApproval(_) | StateError::UnknownIntent(_)) => "no-approval",
            EngineError::State(StateError::Decided(_) | StateError::Expired(_) | StateError::NotInFlight(_)) => {
                "approval-decided"
            }
            _ => return Self::internal(&error),
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after_ms.map(|ms| HeaderValue::from(ms.div_ceil(1000)));
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// Answers a request for a path that does not exist.
pub(super) async fn no_such_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(NO_PATH, format!("{path}: no such path — GET /openapi.json lists the paths"))
}

/// Answers a request with a method that the path does not have.
pub(super) async fn no_such_method() -> Problem {
    Problem::new(NO_METHOD, "the path has no such method — GET /openapi.json lists the methods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn refusal_becomes_a_problem_with_its_members() {
        let error = json!({ "code": "quota-exceeded", "message": "quota: wait", "retry_after_ms": 1500 });
        let object = json!({ "intent": "1", "error": error });
        let response = Problem::of_intent(object.as_object().unwrap().clone()).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["code"], &body["detail"], &body["intent"]["intent"]),
            (&json!("quota-exceeded"), &json!("quota: wait"), &json!("1"))
        );
    }
}
