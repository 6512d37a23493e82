//! `agentd mcp`: serves the capabilities to an agent by the Model Context Protocol, and connects agents.
//!
//! The agent starts `agentd mcp`, and speaks to it on standard input and output. The engine and the sandboxes are those of this
//! process. `agentd mcp install` adds the command to the configuration of the agent.

mod client;
mod config_file;
mod entry;
mod install;
mod stdio;

use super::{
    args::{McpArgs, McpCommand},
    failure::Failure,
};

/// Serves an agent, or changes the configuration of an agent. Returns the exit code.
pub(crate) async fn mcp(args: McpArgs) -> Result<u8, Failure> {
    match &args.command {
        None => stdio::serve(args.workspace.as_deref()).await,
        Some(McpCommand::Install(args)) => install::install(args),
        Some(McpCommand::Uninstall(args)) => install::uninstall(args),
    }
}
