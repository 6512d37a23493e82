//! The interface by HTTP: REST under `/v1`, MCP under `/mcp`, gRPC, health and metrics (`docs/rest.md`).
//!
//! 1. `authenticate` puts the [`Caller`](crate::Caller) of each request into its extensions.
//! 2. `intents` executes capabilities, and `events` streams what happens meanwhile. `sandboxes` translates operations on named
//!    sandboxes into intents. `capabilities` and `approvals` answer questions.
//! 3. Every error is a `Problem`.
//! 4. `openapi` describes all of it, derived from the types.

mod approvals;
mod authenticate;
mod body;
mod capabilities;
mod events;
mod intent_schema;
mod intents;
mod openapi;
mod operations;
mod problem;
mod sandboxes;
mod state;

pub use state::HttpParts;

use crate::{
    grpc::{self, ReflectionError},
    mcp,
};
use axum::{Router, middleware};
use state::HttpState;

/// Returns the router of all interfaces. Each request needs a [`Peer`](crate::auth::Peer) in its extensions.
///
/// # Errors
/// [`ReflectionError`].
pub async fn router(parts: HttpParts) -> Result<Router, ReflectionError> {
    let mcp = mcp::http_service(parts.service.clone());
    let grpc = grpc::routes(parts.service.clone()).await?;
    let state = HttpState::new(parts);
    let rest = openapi::router(state.clone());
    let all = rest.nest_service("/mcp", mcp).merge(grpc).merge(operations::router(state.clone())).fallback(problem::no_such_path);
    // Also before the fallback, so that nobody else learns which paths exist.
    let authenticated = all.layer(middleware::from_fn_with_state(state, authenticate::authenticate));
    Ok(authenticated.merge(operations::liveness()))
}
