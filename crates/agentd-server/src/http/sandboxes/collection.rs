//! Creates, lists, describes and terminates sandboxes.

use super::{
    super::{body, problem::Problem, state::HttpState},
    operate, parsed,
};
use crate::{
    caller::Caller,
    sandboxes::{NewSandbox, SandboxCapabilities, SandboxObject, SandboxPage, TerminatedSandbox, request},
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

/// Which page of the sandboxes is returned.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct SandboxQuery {
    /// The most sandboxes of the page.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
}

/// Creates a sandbox.
#[utoipa::path(
    post,
    path = "/v1/sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, max_length = 128, description = "A repeated request with this key and the \
        same content returns the outcome of the first")),
    request_body = NewSandbox,
    responses(
        (status = CREATED, body = SandboxObject, description = "The sandbox was created"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn create(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<SandboxObject>), Problem> {
    let new: NewSandbox = body::received(&state, &headers, body).await?;
    Ok((StatusCode::CREATED, operate(&state, caller, &headers, new.request()).await?))
}

/// Lists the sandboxes of the caller. The user who runs the daemon sees those of all principals.
#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    params(SandboxQuery),
    responses(
        (status = OK, body = SandboxPage, description = "A page of the sandboxes"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn list(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    query: Result<Query<SandboxQuery>, QueryRejection>,
) -> Result<Json<SandboxPage>, Problem> {
    let SandboxQuery { limit, cursor } = parsed(query)?;
    operate(&state, caller, &headers, request("list", json!({ "limit": limit, "after": cursor }))).await
}

/// Describes a sandbox.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{sandbox}",
    params(("sandbox" = String, Path, description = "The name")),
    responses(
        (status = OK, body = SandboxObject, description = "The sandbox"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The caller has no such sandbox"),
    )
)]
pub(in super::super) async fn get(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
) -> Result<Json<SandboxObject>, Problem> {
    operate(&state, caller, &headers, request("get", json!({ "sandbox": sandbox }))).await
}

/// Ends all processes of a sandbox, and removes it with its files and snapshots.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{sandbox}",
    params(("sandbox" = String, Path, description = "The name")),
    responses(
        (status = OK, body = TerminatedSandbox, description = "The sandbox was removed"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The caller has no such sandbox"),
    )
)]
pub(in super::super) async fn terminate(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
) -> Result<Json<TerminatedSandbox>, Problem> {
    operate(&state, caller, &headers, request("terminate", json!({ "sandbox": sandbox }))).await
}

/// Returns what was proven about the boundary of a sandbox.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{sandbox}/capabilities",
    params(("sandbox" = String, Path, description = "The name")),
    responses(
        (status = OK, body = SandboxCapabilities, description = "What was proven"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The caller has no such sandbox"),
    )
)]
pub(in super::super) async fn inspect(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
) -> Result<Json<SandboxCapabilities>, Problem> {
    operate(&state, caller, &headers, request("inspect", json!({ "sandbox": sandbox }))).await
}
