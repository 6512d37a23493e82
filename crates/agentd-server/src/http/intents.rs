//! `/v1/intents`: executes capabilities.

use super::{
    body,
    events::{self, EVENT_STREAM},
    intent_schema::IntentObject,
    problem::{INVALID, Problem},
    state::HttpState,
};
use crate::{call::CallStreams, caller::Caller, request::ExecuteRequest, service::ServedIntent};
use agentd_state::{IdempotencyKey, IntentId};
use agentd_telemetry::{IntentTrace, record_end};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// The header with the idempotency key.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header with the span of the caller, and that of the request in the response (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request, with the identities that its headers name.
pub(super) struct Submission {
    pub caller: Caller,
    pub request: ExecuteRequest,
    pub key: Option<IdempotencyKey>,
    pub trace: IntentTrace,
}

/// Executes a capability. With `Accept: text/event-stream`, the response has the events of the execution. The end of the
/// connection cancels the intent.
#[utoipa::path(
    post,
    path = "/v1/intents",
    params(
        ("Idempotency-Key" = Option<String>, Header, max_length = 128, description = "A repeated request with this key and the same \
            content returns the outcome of the first"),
        ("traceparent" = Option<String>, Header, description = "The span of the caller (W3C Trace Context)"),
    ),
    request_body = ExecuteRequest,
    responses(
        (status = OK, description = "The intent has ended", content(
            (IntentObject = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
        (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json", description = "Try again"),
    )
)]
pub(super) async fn execute(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = key(&headers)?;
    let trace = trace(&headers);
    let request = body::received(&state, &headers, body).await?;
    let own = HeaderValue::from_str(&trace.own().to_string()).ok();
    let submission = Submission { caller, request, key, trace };
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    let mut response = if accepts_events(accepted) {
        events::stream(&state, submission)
    } else {
        let cancel = CancellationToken::new();
        // The server drops this future when the connection ends.
        let _gone = cancel.clone().drop_guard();
        let served = submit(&state, submission, CallStreams { events: None, input: None, cancel }).await?;
        if served.ended.object["status"] == "refused" {
            return Err(Problem::of_intent(object(served)));
        }
        Json(object(served)).into_response()
    };
    if let Some(own) = own {
        response.headers_mut().insert(TRACEPARENT, own);
    }
    Ok(response)
}

/// Executes a request in its span.
pub(super) async fn submit(state: &HttpState, submission: Submission, streams: CallStreams) -> Result<ServedIntent, Problem> {
    let Submission { caller, request, key, trace } = submission;
    let span = trace.span();
    let served = state.service().execute(&caller, request, key, streams).instrument(span.clone()).await?;
    span.in_scope(|| record_end(&served.ended.object));
    Ok(served)
}

/// Returns the JSON object of an intent that has ended.
pub(super) fn object(served: ServedIntent) -> Map<String, Value> {
    let ServedIntent { ended, notices } = served;
    let mut object = match ended.object {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    object.insert("notices".to_owned(), notices.into());
    let receipt = ended.receipt.as_deref().and_then(|receipt| serde_json::from_str(receipt).ok());
    object.insert("receipt".to_owned(), receipt.unwrap_or_default());
    object
}

/// Cancels an intent that waits or is executed.
#[utoipa::path(
    delete,
    path = "/v1/intents/{intent}",
    params(("intent" = String, Path, description = "The identifier of the intent")),
    responses(
        (status = NO_CONTENT, description = "The intent is being cancelled"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The caller has no such intent"),
    )
)]
pub(super) async fn cancel(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    intent: Path<String>,
) -> Result<StatusCode, Problem> {
    let is_cancelled = intent.parse::<IntentId>().is_ok_and(|intent| state.service().cancel(&caller, intent));
    if is_cancelled {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new("unknown-intent", "no such intent of the caller waits or is executed"))
}

/// Returns the trace of a request.
pub(super) fn trace(headers: &HeaderMap) -> IntentTrace {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    IntentTrace::of_headers(text(TRACEPARENT), text(TRACESTATE))
}

/// Returns the idempotency key of a request.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let invalid = |error: String| Problem::new(INVALID, format!("Idempotency-Key: {error}"));
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(invalid("the header occurs twice — send one key".to_owned()));
    }
    let text = key.to_str().map_err(|_| invalid("not ASCII text — use letters and digits".to_owned()))?;
    text.parse().map(Some).map_err(|error: agentd_state::InvalidKey| invalid(error.to_string()))
}

/// Returns true if a client prefers events: it names their type.
fn accepts_events(accepted: &str) -> bool {
    accepted.split(',').any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sent_only_if_the_client_names_their_type() {
        for (accepted, expected) in [
            ("", false),
            ("*/*", false),
            ("application/json", false),
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.5", true),
            ("text/event-streams", false),
        ] {
            assert_eq!(accepts_events(accepted), expected, "{accepted}");
        }
    }

    #[test]
    fn key_is_one_valid_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(key(&headers).unwrap(), None);
        headers.insert(KEY, HeaderValue::from_static("run-17"));
        assert_eq!(key(&headers).unwrap(), "run-17".parse().ok());
        headers.append(KEY, HeaderValue::from_static("run-18"));
        assert!(key(&headers).is_err());
        headers.insert(KEY, HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(key(&headers).is_err());
        headers.insert(KEY, HeaderValue::from_static(""));
        assert!(key(&headers).is_err());
    }
}
