//! The paths of REST, and their description by OpenAPI 3.1, derived from the types.

use super::{
    approvals, capabilities, intents, problem,
    sandboxes::{collection, files, states},
    state::HttpState,
};
use axum::{Json, Router, routing::get};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The document without its paths.
#[derive(OpenApi)]
#[openapi(info(
    title = "agentd",
    description = "Runs capabilities for agents in sandboxes.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
))]
struct Document;

/// Returns the router of the paths below `/v1`, and of `/openapi.json`.
pub(super) fn router(state: HttpState) -> Router {
    let paths = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(capabilities::list))
        .routes(routes!(capabilities::get))
        .routes(routes!(intents::execute))
        .routes(routes!(intents::cancel))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::decide))
        .routes(routes!(collection::create, collection::list))
        .routes(routes!(collection::get, collection::terminate))
        .routes(routes!(collection::inspect))
        .routes(routes!(states::suspend))
        .routes(routes!(states::resume))
        .routes(routes!(states::snapshot))
        .routes(routes!(states::restore))
        .routes(routes!(states::fork))
        .routes(routes!(states::diff))
        .routes(routes!(files::read, files::write));
    let (router, document) = paths.with_state(state).split_for_parts();
    router.route("/openapi.json", get(async move || Json(document.clone()))).method_not_allowed_fallback(problem::no_such_method)
}
