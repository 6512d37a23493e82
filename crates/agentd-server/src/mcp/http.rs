//! MCP by HTTP: the service for the path `/mcp`.

use super::{catalog::McpWorkspace, handler::McpHandler};
use crate::service::Service;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};

/// The longest body of a request in bytes: the longest parameters of an intent, with room for the message around them.
const MAX_BODY: usize = 17 << 20;

/// The service for the path `/mcp`.
pub type McpHttpService = StreamableHttpService<McpHandler, NeverSessionManager>;

/// The names of this host in the header `Host` of requests. A request with another one gets the status 403, so that a web page
/// cannot reach the service by a name of its own that it has resolved to this host. A request with a header `Origin`, which only
/// browsers send, gets the same status.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Returns the service for the path `/mcp`. The server in front of it authenticates each request, and puts the
/// [`Caller`](crate::Caller) into the extensions of the request; a request without one fails.
///
/// The service has no sessions: each request stands for itself, and state is named by handles. The end of a response by the
/// client cancels the call.
pub fn http_service(service: Service) -> McpHttpService {
    let handler = McpHandler::new(service, McpWorkspace::Argument, None);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(OWN_NAMES)
        .enforce_origin_validation()
        .with_legacy_session_mode(false)
        .with_max_request_body_bytes(MAX_BODY);
    StreamableHttpService::new(move || Ok(handler.clone()), NeverSessionManager::default().into(), config)
}
