//! Health and metrics, for service managers and Prometheus.

use super::state::HttpState;
use axum::{Router, extract::State, routing::get};
use http::{HeaderName, StatusCode, header};

/// The type of the text format of OpenMetrics, which the library writes.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns the router of the paths that need a caller.
pub(super) fn router(state: HttpState) -> Router {
    Router::new().route("/readyz", get(ready)).route("/metrics", get(metrics)).with_state(state)
}

/// Returns the router of the only path that needs no caller.
pub(super) fn liveness() -> Router {
    Router::new().route("/healthz", get(alive))
}

/// Answers whether the process is alive.
async fn alive() -> &'static str {
    "ok\n"
}

/// Answers whether the daemon accepts requests.
async fn ready(State(state): State<HttpState>) -> (StatusCode, &'static str) {
    match state.service().is_stopping() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        false => (StatusCode::OK, "ready\n"),
    }
}

async fn metrics(State(state): State<HttpState>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, METRICS)], state.parts.metrics.text())
}
