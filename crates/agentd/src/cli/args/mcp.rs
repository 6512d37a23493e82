//! `agentd mcp`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Without a command, agentd speaks MCP on standard input and output, as the agent
starts it. The agent gets one tool for each capability (`agentd capability ls`).

Examples:
  agentd mcp install claude-code          # then start claude in this directory
  agentd mcp install codex --scope user   # for all directories
  agentd mcp install cursor --print       # print it, and write nothing"
)]
pub(crate) struct McpArgs {
    #[command(subcommand)]
    pub command: Option<McpCommand>,
    /// Host directory that the sandboxes of all calls show, or none [default: the current directory]
    #[arg(long, value_name = "DIR|none")]
    pub workspace: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Add agentd to the configuration of an agent
    Install(InstallArgs),
    /// Remove agentd from the configuration of an agent
    Uninstall(UninstallArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The agent
    #[arg(value_enum, value_name = "AGENT")]
    pub client: ClientName,
    /// For this directory, or for all directories of this user
    #[arg(long, value_enum, default_value = "project")]
    pub scope: McpScope,
    /// Print the configuration instead, and write nothing
    #[arg(long)]
    pub print: bool,
    /// Replace an entry `agentd` that has other content
    #[arg(long, conflicts_with = "print")]
    pub force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// The agent
    #[arg(value_enum, value_name = "AGENT")]
    pub client: ClientName,
    /// For this directory, or for all directories of this user
    #[arg(long, value_enum, default_value = "project")]
    pub scope: McpScope,
    /// Remove an entry `agentd` that has other content, too
    #[arg(long)]
    pub force: bool,
}

/// An agent that starts servers of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientName {
    ClaudeCode,
    Codex,
    Cursor,
    Vscode,
    Gemini,
    Opencode,
}

/// Where an agent's configuration is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpScope {
    /// In the current directory.
    Project,
    /// In all directories of the user.
    User,
}
