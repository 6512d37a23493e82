//! Authenticates each request, before its body is received.

use super::{
    problem::{OUTSIDE_SCOPE, Problem, TOO_MANY_FAILURES, UNAUTHENTICATED},
    state::HttpState,
};
use crate::{
    auth::{AuthError, Credential, FirstAuthentication, Interface, Peer},
    grpc,
};
use agentd_engine::EngineError;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, StatusCode, header};

/// The way in which a client authenticates (RFC 6750).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"agentd\"");

/// Puts the caller into the extensions of a request, or refuses the request.
pub(super) async fn authenticate(State(state): State<HttpState>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>() else {
        return refused(Problem::new(UNAUTHENTICATED, "the connection has no verified peer"));
    };
    let interface = Interface::of_path(request.uri().path());
    let authenticated = state.parts.authenticator.caller(peer, interface, Credential::of(request.headers())).await;
    match authenticated {
        Ok(caller) => {
            if let Some(first) = request.extensions().get::<FirstAuthentication>() {
                first.note();
            }
            // Nothing behind this needs the secret.
            request.headers_mut().remove(header::AUTHORIZATION);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) if interface == Interface::Grpc => grpc::unauthenticated(error),
        Err(error) => refused(error.into()),
    }
}

fn refused(problem: Problem) -> Response {
    let mut response = problem.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    response
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::TooMany(wait) => Self::new(TOO_MANY_FAILURES, error.to_string()).retry_after(wait),
            AuthError::Interface(_) => Self::new(OUTSIDE_SCOPE, error.to_string()),
            AuthError::State(error) => EngineError::from(error).into(),
            AuthError::Untrusted(_) | AuthError::Missing | AuthError::Invalid => Self::new(UNAUTHENTICATED, error.to_string()),
        }
    }
}
