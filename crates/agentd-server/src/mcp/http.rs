//! MCP by HTTP: the service for the path `/mcp`.

use super::{catalog::McpWorkspace, handler::McpHandler};
use crate::{caller::Caller, service::Service};
use axum::{body::Body, extract::Request};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use std::task::{Context, Poll};
use tower::Service as TowerService;

/// The longest body of a request in bytes: the longest parameters of an intent, with room for the message around them.
const MAX_BODY: usize = 17 << 20;

type RmcpService = StreamableHttpService<McpHandler, NeverSessionManager>;

/// The names of this host in the header `Host` of requests without an address. A request with another one gets the status 403, so
/// that a web page cannot reach the service by a name of its own that it has resolved to this host.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The service for the path `/mcp`.
#[derive(Clone)]
pub struct McpHttpService {
    /// For callers on this host, who may need no credential.
    own: RmcpService,
    /// For callers by TCP. They name the host by any name, and a web page cannot send their credential.
    remote: RmcpService,
}

/// Returns the service for the path `/mcp`. The server in front of it authenticates each request, and puts the
/// [`Caller`] into the extensions of the request; a request without one fails.
///
/// The service has no sessions: each request stands for itself, and state is named by handles. The end of a response by the
/// client cancels the call. A request with a header `Origin`, which only browsers send, gets the status 403.
pub fn http_service(service: Service) -> McpHttpService {
    let handler = McpHandler::new(service, McpWorkspace::Argument, None);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(OWN_NAMES)
        .enforce_origin_validation()
        .with_legacy_session_mode(false)
        .with_max_request_body_bytes(MAX_BODY);
    let of = |config| {
        let handler = handler.clone();
        StreamableHttpService::new(move || Ok(handler.clone()), NeverSessionManager::default().into(), config)
    };
    McpHttpService { own: of(config.clone()), remote: of(config.disable_allowed_hosts()) }
}

impl TowerService<Request> for McpHttpService {
    type Response = <RmcpService as TowerService<Request<Body>>>::Response;
    type Error = <RmcpService as TowerService<Request<Body>>>::Error;
    type Future = <RmcpService as TowerService<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Both are always ready: each request has a task of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let is_remote = request.extensions().get::<Caller>().is_some_and(|caller| caller.address.is_some());
        if is_remote { self.remote.call(request) } else { self.own.call(request) }
    }
}
