//! The Model Context Protocol: the capabilities as tools, on standard input and output and by HTTP.
//!
//! 1. `Catalog` translates the capabilities into tools: names, schemas and annotations.
//! 2. `McpHandler` answers the requests of a client. The crate `rmcp` speaks the protocol: revision
//!    2026-07-28, and the revisions with `initialize`.
//! 3. A call of a tool becomes an [`ExecuteRequest`](crate::ExecuteRequest) (`arguments`), which a task executes
//!    (`tool_call`, `running`). The task goes on when the call waits for an approval (`held_call`, `parked`).
//! 4. The end of the intent becomes a result for a model (`reply`): long texts are cut (`shape`), and kept as a whole for a
//!    while (`outputs`).
//!
//! No state connects two requests, except what a client names by a handle: kept outputs, and calls that wait for an approval.

mod approval;
mod arguments;
mod bounded_transport;
mod catalog;
mod handler;
mod held_call;
mod http;
mod live_output;
mod outputs;
mod own_call;
mod own_tools;
mod parked;
mod reply;
mod resources;
mod running;
mod schemas;
mod shape;
mod slots;
mod state;
mod stdio;
mod tool_call;

pub use catalog::McpWorkspace;
pub use http::{McpHttpService, http_service};
pub use stdio::{McpStdioError, serve_stdio};
