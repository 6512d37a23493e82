//! Receives the body of a request, within bounds of size and time.

use super::{
    problem::{INVALID, Problem, TOO_LONG, TOO_SLOW},
    state::HttpState,
};
use agentd_records::json;
use axum::body::{Body, to_bytes};
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The longest body in bytes: the longest parameters of an intent, with room for the other members.
pub(super) const MAX_BODY: usize = 17 << 20;

/// The time within which the whole body must arrive.
const TIME: Duration = Duration::from_secs(60);

/// Receives and parses a JSON body. A member that occurs twice in an object is refused, because programs differ in which one they
/// take.
///
/// # Errors
/// [`Problem`] for a body of another type, that is too long or slow, or that does not have the form.
pub(super) async fn received<T: DeserializeOwned>(state: &HttpState, headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(INVALID, "the body is not JSON — send the header 'Content-Type: application/json'"));
    }
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|length| length > MAX_BODY) {
        return Err(too_long());
    }
    // A semaphore that is never closed.
    let _place = state.bodies.acquire().await;
    let bytes = match tokio::time::timeout(TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_too_long(&error) => return Err(too_long()),
        Ok(Err(error)) => return Err(Problem::new(INVALID, format!("receive the body: {error}"))),
        Err(_) => return Err(Problem::new(TOO_SLOW, "the body did not arrive within 60 s — send it without pauses")),
    };
    json::parse(&bytes).map_err(|error| Problem::new(INVALID, format!("the body: {error} — compare it with /openapi.json")))
}

fn is_too_long(error: &axum::Error) -> bool {
    use std::error::Error as _;
    error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

fn too_long() -> Problem {
    Problem::new(TOO_LONG, "the body is longer than 17 MiB — pass large content in a file of the workspace")
}
