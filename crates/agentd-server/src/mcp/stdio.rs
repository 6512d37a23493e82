//! MCP on standard input and output.

use super::{bounded_transport::BoundedTransport, catalog::McpWorkspace, handler::McpHandler};
use crate::{caller::Caller, service::Service};
use rmcp::{
    service::{ServerInitializeError, serve_server_with_ct},
    transport::{async_rw::AsyncRwTransport, stdio_pipes},
};
use tokio_util::sync::CancellationToken;

/// The longest message of a client in bytes: the longest parameters of an intent, with room for the message around them.
const MAX_MESSAGE: usize = 17 << 20;

/// The reason why a connection ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum McpStdioError {
    /// The client does not speak MCP.
    #[error("MCP on standard input: {0} — start `agentd mcp` from a client of MCP: `agentd mcp install --help`")]
    Begin(Box<ServerInitializeError>),
    /// The task of the connection panicked. This is a bug.
    #[error("the connection ended unexpectedly: {0} — report this as a bug of agentd")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Serves one client on standard input and output, until it closes its end or `stop` is cancelled. Calls that still run a few
/// seconds later are cancelled. Returns when no call runs any more.
///
/// # Errors
/// [`McpStdioError`].
pub async fn serve_stdio(
    service: Service,
    caller: Caller,
    workspace: McpWorkspace,
    stop: CancellationToken,
) -> Result<(), McpStdioError> {
    let (input, output) = stdio_pipes();
    let transport = BoundedTransport::new(AsyncRwTransport::new_server(input, output).with_max_line_length(MAX_MESSAGE));
    let handler = McpHandler::new(service.clone(), workspace, Some(caller));
    let served = match serve_server_with_ct(handler, transport, stop).await {
        Ok(running) => running.waiting().await.map(drop).map_err(McpStdioError::from),
        // The client has gone before its first request, or the program ends.
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => Ok(()),
        Err(error) => Err(McpStdioError::Begin(Box::new(error))),
    };
    // Only this client used the service.
    service.cancel_all();
    service.drain().await;
    served
}
