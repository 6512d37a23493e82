//! `agentd call` and `agentd capability`.

use super::{limits::LimitArgs, network_arg::NetworkArg, run::ProfileArg};
use agentd_core::{Bytes, duration};
use agentd_state::IdempotencyKey;
use agentd_telemetry::TraceContext;
use clap::{Args, Subcommand};
use std::{ffi::OsString, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd call shell.exec.v1 --params '{\"command\": \"make test\"}' --timeout 2m
  agentd call fs.read.v1 --params '{\"path\": \"data/words\"}' --json
  agentd call code.run.v1 --params '{\"language\": \"bash\", \"source\": \"ls\"}' --key run-17

The options for the sandbox ask for less than the capability and the policies
permit. A request for more is refused.

Exit codes: that of the command, or 0 if the capability returned a result;
1 the capability failed; 77 refused; 124 time limit exceeded;
125 agentd failed, or was interrupted earlier; 128+n ended by signal n.")]
pub(crate) struct CallArgs {
    /// The capability, such as shell.exec.v1 (see `agentd capability ls`)
    #[arg(value_name = "CAPABILITY")]
    pub capability: String,
    /// The parameters: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "{}", allow_hyphen_values = true)]
    pub params: String,
    /// Idempotency key: a repeated request with this key and the same content returns the outcome of the first
    #[arg(long, value_name = "KEY")]
    pub key: Option<IdempotencyKey>,
    /// Print one JSON object that describes the intent, its decision and its result
    #[arg(long)]
    pub json: bool,
    /// Write the signed receipt to FILE, and to FILE.intent the document that its digest `intent` identifies
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Write metrics of this call to FILE, in the text format of Prometheus
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// The span that this call belongs to (W3C Trace Context) [default: TRACEPARENT and TRACESTATE]
    #[arg(long, value_name = "TRACEPARENT")]
    pub traceparent: Option<TraceContext>,
    /// Backend to use; it must have a boundary [default: auto]
    #[arg(long, value_name = "auto|NAME")]
    pub backend: Option<String>,
    #[command(flatten)]
    pub less: LessArgs,
}

/// Options that ask for a stricter sandbox.
#[derive(Debug, Args)]
pub(crate) struct LessArgs {
    /// System calls that are allowed
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Host directory that the capability works in, or none [default: the current directory, if the capability uses one]
    #[arg(long, value_name = "DIR|none")]
    pub workspace: Option<PathBuf>,
    /// Make the workspace read-only
    #[arg(long)]
    pub workspace_ro: bool,
    /// Network access: off, allow=HOSTS, approve=HOSTS, preset=NAMES or file=PATH, as for `agentd run` [default: the host of the
    /// URL, or the hosts that the capability and the policies name]
    #[arg(long, value_name = "off|allow=|approve=|preset=|file=")]
    pub net: Vec<NetworkArg>,
    /// Keep a secret outside of the sandbox and put it into requests to HOST, as for `agentd run` (repeatable)
    #[arg(long, value_name = "NAME@HOST=SOURCE")]
    pub secret: Vec<OsString>,
    /// Wall-clock time limit, e.g. 500ms, 30s, 2m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Maximum size of the output; a command that writes more is killed
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub max_output: Option<Bytes>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CapabilityCommand {
    /// List the capabilities
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a capability: its parameters, its result and its sandbox
    Show {
        /// The capability, such as shell.exec.v1
        #[arg(value_name = "CAPABILITY")]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
