//! `GET /v1/capabilities`.

use super::{
    problem::{INVALID, Problem},
    state::HttpState,
};
use agentd_engine::Capability;
use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The number of entries of a page, unless the client asks for another.
const USUAL: usize = 50;

/// The most entries of a page.
const MAX: usize = 100;

/// Which page of a list is returned.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A capability in a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CapabilitySummary {
    /// The name with the version, such as `shell.exec.v1`.
    capability: String,
    /// What the capability does.
    description: String,
    /// Properties of the operation.
    annotations: CapabilityAnnotations,
}

/// Properties of an operation.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CapabilityAnnotations {
    /// The operation changes nothing.
    read_only: bool,
    /// The operation may overwrite or remove something.
    destructive: bool,
    /// A repetition with the same parameters changes nothing more.
    idempotent: bool,
    /// The operation may reach things outside of this machine.
    open_world: bool,
}

/// A page of capabilities.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CapabilityPage {
    /// The capabilities, by name.
    capabilities: Vec<CapabilitySummary>,
    /// The cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A capability with its schemas.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CapabilityDetails {
    #[serde(flatten)]
    summary: CapabilitySummary,
    /// The JSON Schema of the parameters.
    #[schema(value_type = Object)]
    parameters: Value,
    /// The JSON Schema of the result; null if the result is that of a command.
    #[schema(value_type = Option<Object>)]
    result: Value,
    /// The SHA-256 digest of the manifest.
    manifest_sha256: String,
}

/// Lists the capabilities.
#[utoipa::path(
    get,
    path = "/v1/capabilities",
    params(PageQuery),
    responses(
        (status = OK, body = CapabilityPage, description = "A page of the capabilities"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(super) async fn list(
    State(state): State<HttpState>,
    query: Result<Query<PageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<CapabilityPage>, Problem> {
    let Query(query) = query.map_err(|error| Problem::new(INVALID, error.body_text()))?;
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MAX).contains(&limit) {
        return Err(Problem::new(INVALID, format!("limit: {limit} — use a number from 1 to {MAX}")));
    }
    let mut all: Vec<_> = state.service().capabilities().iter().map(summary).collect();
    all.sort_by(|one, other| one.capability.cmp(&other.capability));
    let after = query.cursor.unwrap_or_default();
    let mut capabilities: Vec<_> = all.into_iter().filter(|one| one.capability > after).take(limit + 1).collect();
    let has_more = capabilities.len() > limit;
    capabilities.truncate(limit);
    let next = capabilities.last().filter(|_| has_more).map(|last| last.capability.clone());
    Ok(Json(CapabilityPage { capabilities, next }))
}

/// Describes a capability.
#[utoipa::path(
    get,
    path = "/v1/capabilities/{name}",
    params(("name" = String, Path, description = "The name with the version")),
    responses(
        (status = OK, body = CapabilityDetails, description = "The capability"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(super) async fn get(State(state): State<HttpState>, name: Path<String>) -> Result<Json<CapabilityDetails>, Problem> {
    let found = state.service().capabilities().find(&name);
    let capability = found.map_err(|error| Problem::new("unknown-capability", error.to_string()))?;
    Ok(Json(CapabilityDetails {
        summary: summary(capability),
        parameters: capability.parameters.text().clone(),
        result: capability.result.as_ref().map(|schema| schema.text().clone()).unwrap_or_default(),
        manifest_sha256: capability.digest.to_string(),
    }))
}

fn summary(capability: &Capability) -> CapabilitySummary {
    let annotations = capability.annotations;
    CapabilitySummary {
        capability: capability.id(),
        description: capability.description.clone(),
        annotations: CapabilityAnnotations {
            read_only: annotations.read_only,
            destructive: annotations.destructive,
            idempotent: annotations.idempotent,
            open_world: annotations.open_world,
        },
    }
}
