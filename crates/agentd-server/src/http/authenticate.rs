//! Authenticates each request.

use super::{
    problem::{Problem, UNAUTHENTICATED},
    state::HttpState,
};
use crate::auth::Peer;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// Puts the caller into the extensions of a request, or refuses the request.
pub(super) async fn authenticate(State(state): State<HttpState>, mut request: Request, next: Next) -> Response {
    let transport = transport(request.uri().path());
    let Some(peer) = request.extensions().get::<Peer>() else {
        return Problem::new(UNAUTHENTICATED, "the connection has no verified peer").into_response();
    };
    match state.parts.authenticator.caller(peer, transport) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => Problem::new(UNAUTHENTICATED, error.to_string()).into_response(),
    }
}

/// Returns the transport of a request, as records and policies name it.
fn transport(path: &str) -> &'static str {
    match path.split('/').nth(1) {
        // A model may choose what such a request says.
        Some("mcp") => "mcp-http",
        _ => "local-socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_is_that_of_the_path() {
        for (path, expected) in [
            ("/v1/intents", "local-socket"),
            ("/mcp", "mcp-http"),
            ("/mcp/", "mcp-http"),
            ("/mcp-other", "local-socket"),
            ("/agentd.v1.Agentd/Execute", "local-socket"),
            ("", "local-socket"),
            ("//mcp", "local-socket"),
        ] {
            assert_eq!(transport(path), expected, "{path}");
        }
    }
}
