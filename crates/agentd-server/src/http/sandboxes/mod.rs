//! `/v1/sandboxes`: the named sandboxes of the caller. Each request is an intent with one of the capabilities `sandbox.*`, so
//! that policies, quotas, idempotency keys and records apply. Commands run in a sandbox by `POST /v1/intents` with `sandbox`.

pub(super) mod collection;
pub(super) mod files;
pub(super) mod states;

use super::{
    intents::{Submission, key, submit, trace},
    problem::{INVALID, Problem},
    state::HttpState,
};
use crate::{call::CallStreams, caller::Caller, request::ExecuteRequest, sandboxes::result};
use axum::{
    Json,
    extract::{Query, rejection::QueryRejection},
};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Carries out an operation, and returns its result.
async fn operate<T: DeserializeOwned>(
    state: &HttpState,
    caller: Caller,
    headers: &HeaderMap,
    request: ExecuteRequest,
) -> Result<Json<T>, Problem> {
    let submission = Submission { caller, request, key: key(headers)?, trace: trace(headers) };
    let cancel = CancellationToken::new();
    // The server drops this future when the connection ends.
    let _gone = cancel.clone().drop_guard();
    let served = submit(state, submission, CallStreams { events: None, input: None, cancel }).await?;
    result(served).map(Json).map_err(|object| match *object {
        Value::Object(object) => Problem::of_intent(object),
        _ => Problem::new(INVALID, "the intent has no object"),
    })
}

/// Returns the query of a request.
fn parsed<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::new(INVALID, error.body_text()))
}
