//! Errors as problem details (RFC 9457).

use crate::service::ServiceError;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use serde_json::{Map, Value};

/// The kinds of errors. Each has a word, which clients may rely on, and a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BadRequest,
    Unauthenticated,
    NotAnApprover,
    NotFound,
    MethodNotAllowed,
    TooLong,
    TooSlow,
    Conflict,
    Cancelled,
    Stopping,
    Internal,
}

impl Code {
    fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Unauthenticated => "unauthenticated",
            Self::NotAnApprover => "not-an-approver",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::TooLong => "too-long",
            Self::TooSlow => "too-slow",
            Self::Conflict => "conflict",
            Self::Cancelled => "cancelled",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NotAnApprover => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict | Self::Cancelled => StatusCode::CONFLICT,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Returns the status for the code of a refused intent (`agentd_engine::Refusal::word`).
pub(super) fn status_of_refusal(code: &str) -> StatusCode {
    match code {
        "unknown-capability" => StatusCode::NOT_FOUND,
        "invalid-parameters" | "invalid-network" => StatusCode::UNPROCESSABLE_ENTITY,
        "key-conflict" | "cancelled" => StatusCode::CONFLICT,
        "quota-exceeded" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::FORBIDDEN,
    }
}

/// An error as problem details.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: `code` tells the kinds apart.
    r#type: &'static str,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What failed, and what to do.
    detail: String,
    /// The kind of error.
    code: String,
    /// The violations of the schema, each with a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    violations: Option<Value>,
    /// The time in milliseconds after which the request may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The object of the refused intent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    intent: Option<Map<String, Value>>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::of(code.status(), code.word(), detail.into())
    }

    fn of(status: StatusCode, code: &str, detail: String) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail,
            code: code.to_owned(),
            violations: None,
            retry_after_ms: None,
            intent: None,
        }
    }

    /// Returns the problem for the object of a refused intent.
    pub fn of_refused(object: Map<String, Value>) -> Self {
        let error = object.get("error").cloned().unwrap_or_default();
        let text = |name: &str| error[name].as_str().unwrap_or("refused").to_owned();
        let code = text("code");
        Self {
            violations: error.get("violations").cloned(),
            retry_after_ms: error["retry_after_ms"].as_u64(),
            intent: Some(object),
            ..Self::of(status_of_refusal(&code), &code, text("message"))
        }
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let code = match &error {
            ServiceError::Invalid(_) => Code::BadRequest,
            ServiceError::Cancelled => Code::Cancelled,
            ServiceError::Stopping => Code::Stopping,
            _ => Code::Internal,
        };
        if code == Code::Internal {
            tracing::error!(%error, "request failed");
        }
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
    Problem::new(Code::NotFound, format!("{path}: no such path — GET /openapi.json lists the paths"))
}

/// Answers a request with a method that the path does not have.
pub(super) async fn no_such_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "the path has no such method — GET /openapi.json lists the methods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn refusal_becomes_a_problem_with_its_members() {
        let error = json!({ "code": "quota-exceeded", "message": "quota: wait", "retry_after_ms": 1500 });
        let object = json!({ "intent": "1", "error": error });
        let response = Problem::of_refused(object.as_object().unwrap().clone()).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["code"], &body["detail"], &body["intent"]["intent"]), (&json!("quota-exceeded"), &json!("quota: wait"), &json!("1")));
    }
}
