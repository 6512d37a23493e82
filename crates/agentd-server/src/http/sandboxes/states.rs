//! Suspends, resumes, saves, restores, forks and compares sandboxes.

use super::{
    super::{body, problem::Problem, state::HttpState},
    operate, parsed,
};
use crate::{
    caller::Caller,
    sandboxes::{SandboxChanges, SandboxObject, request},
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

/// A snapshot to save or to restore.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct SnapshotBody {
    /// The name of the snapshot.
    snapshot: String,
}

/// A sandbox to create from another one.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ForkBody {
    /// The name of the new sandbox.
    new: String,
    /// The snapshot; without it, the present files.
    snapshot: Option<String>,
}

/// Which changes are returned.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct DiffQuery {
    /// The snapshot; without it, the creation of the sandbox.
    since: Option<String>,
    /// The most changes to return.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u64>,
}

/// Pauses all processes of a sandbox.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{sandbox}/suspend",
    params(("sandbox" = String, Path, description = "The name")),
    responses(
        (status = OK, body = SandboxObject, description = "The processes are paused"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn suspend(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
) -> Result<Json<SandboxObject>, Problem> {
    operate(&state, caller, &headers, request("suspend", json!({ "sandbox": sandbox }))).await
}

/// Continues all processes of a sandbox.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{sandbox}/resume",
    params(("sandbox" = String, Path, description = "The name")),
    responses(
        (status = OK, body = SandboxObject, description = "The processes continue"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn resume(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
) -> Result<Json<SandboxObject>, Problem> {
    operate(&state, caller, &headers, request("resume", json!({ "sandbox": sandbox }))).await
}

/// Saves the files of a sandbox.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{sandbox}/snapshots",
    params(("sandbox" = String, Path, description = "The name")),
    request_body = SnapshotBody,
    responses(
        (status = CREATED, body = SandboxObject, description = "The snapshot was saved"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn snapshot(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<SandboxObject>), Problem> {
    let SnapshotBody { snapshot } = body::received(&state, &headers, body).await?;
    let request = request("snapshot", json!({ "sandbox": sandbox, "snapshot": snapshot }));
    Ok((StatusCode::CREATED, operate(&state, caller, &headers, request).await?))
}

/// Ends all processes of a sandbox, and restores the files of a snapshot.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{sandbox}/restore",
    params(("sandbox" = String, Path, description = "The name")),
    request_body = SnapshotBody,
    responses(
        (status = OK, body = SandboxObject, description = "The files are restored"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn restore(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SandboxObject>, Problem> {
    let SnapshotBody { snapshot } = body::received(&state, &headers, body).await?;
    operate(&state, caller, &headers, request("restore", json!({ "sandbox": sandbox, "snapshot": snapshot }))).await
}

/// Creates a sandbox with the files and the confinement of another one.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{sandbox}/fork",
    params(("sandbox" = String, Path, description = "The name of the other sandbox")),
    request_body = ForkBody,
    responses(
        (status = CREATED, body = SandboxObject, description = "The new sandbox"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn fork(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<SandboxObject>), Problem> {
    let ForkBody { new, snapshot } = body::received(&state, &headers, body).await?;
    let request = request("fork", json!({ "sandbox": sandbox, "new": new, "snapshot": snapshot }));
    Ok((StatusCode::CREATED, operate(&state, caller, &headers, request).await?))
}

/// Lists the files of a sandbox that have changed.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{sandbox}/diff",
    params(("sandbox" = String, Path, description = "The name"), DiffQuery),
    responses(
        (status = OK, body = SandboxChanges, description = "The changes"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn diff(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    query: Result<Query<DiffQuery>, QueryRejection>,
) -> Result<Json<SandboxChanges>, Problem> {
    let DiffQuery { since, limit } = parsed(query)?;
    let parameters = json!({ "sandbox": sandbox, "since": since, "limit": limit });
    operate(&state, caller, &headers, request("diff", parameters)).await
}
