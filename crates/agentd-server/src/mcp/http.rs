//! MCP by HTTP: the service for the path `/mcp`.

use super::{catalog::McpWorkspace, handler::McpHandler};
use crate::service::Service;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use serde::{Deserialize, Serialize};

/// The longest body of a request in bytes: the longest parameters of an intent, with room for the message around them.
const MAX_BODY: usize = 17 << 20;

/// The service for the path `/mcp`.
pub type McpHttpService = StreamableHttpService<McpHandler, NeverSessionManager>;

/// The section `[mcp]` of the configuration: MCP by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct McpHttpOptions {
    /// The origins of web pages that may use `/mcp`, such as `https://app.example.com:443`; by default those of this host. A
    /// request with another header `Origin` gets the status 403. Programs other than browsers send no such header.
    pub allowed_origins: Vec<String>,
    /// The names of this host in requests, such as `agentd.example.com`. A request with another header
    /// `Host` gets the status 403.
    pub allowed_hosts: Vec<String>,
}

impl Default for McpHttpOptions {
    fn default() -> Self {
        Self {
            allowed_origins: ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"].map(str::to_owned).into(),
            allowed_hosts: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
        }
    }
}

/// Returns the service for the path `/mcp`. The server in front of it authenticates each request, and puts the
/// [`Caller`](crate::Caller) into the extensions of the request; a request without one fails.
///
/// The service has no sessions: each request stands for itself, and state is named by handles. The end of a response by the
/// client cancels the call.
pub fn http_service(service: Service, options: &McpHttpOptions) -> McpHttpService {
    let handler = McpHandler::new(service, McpWorkspace::Argument, None);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(options.allowed_hosts.iter().cloned())
        .with_allowed_origins(options.allowed_origins.iter().cloned())
        .enforce_origin_validation()
        .with_legacy_session_mode(false)
        .with_max_request_body_bytes(MAX_BODY);
    StreamableHttpService::new(move || Ok(handler.clone()), NeverSessionManager::default().into(), config)
}
