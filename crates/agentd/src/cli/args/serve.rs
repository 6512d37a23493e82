//! `agentd serve`.

use agentd_core::duration;
use clap::Args;
use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_help = "\
Only this user can reach the socket. On it, agentd speaks REST, gRPC and MCP.
Policies and quotas are those of `agentd call`; SIGHUP loads them again.

Examples:
  agentd serve
  curl --unix-socket ~/.local/share/agentd/serve/agentd.sock http://localhost/v1/capabilities")]
pub(crate) struct ServeArgs {
    /// Unix socket to listen on; its directory must be private [default: serve/agentd.sock in the data directory]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Host directory below which a model may name a workspace by MCP on the socket (repeatable) [default: none]
    #[arg(long, value_name = "DIR")]
    pub workspace: Vec<PathBuf>,
    /// Maximum number of connections at a time; further clients wait
    #[arg(long, value_name = "NUMBER", default_value = "256")]
    pub max_connections: NonZeroUsize,
    /// Time that intents get to end by themselves when agentd is asked to stop, e.g. 30s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    pub drain: Duration,
}
