//! The command-line arguments.

#[cfg(feature = "policy")]
mod call;
mod daemon;
#[cfg(feature = "gondolin")]
mod gondolin;
#[cfg(feature = "images")]
mod image;
#[cfg(feature = "policy")]
mod key;
mod limits;
#[cfg(feature = "policy")]
mod mcp;
mod net;
mod network_arg;
#[cfg(feature = "policy")]
mod policy;
#[cfg(feature = "policy")]
mod quota;
mod records;
#[cfg(not(feature = "images"))]
mod reference;
mod run;
mod sandbox;
#[cfg(feature = "policy")]
mod serve;
mod state;
#[cfg(feature = "firecracker")]
mod vm;

#[cfg(feature = "images")]
pub(crate) use agentd_image::Reference;
#[cfg(feature = "policy")]
pub(crate) use call::{CallArgs, CapabilityCommand};
pub(crate) use daemon::DaemonCommand;
#[cfg(feature = "gondolin")]
pub(crate) use gondolin::GondolinCommand;
#[cfg(feature = "images")]
pub(crate) use image::ImageCommand;
#[cfg(feature = "policy")]
pub(crate) use key::{CreateKeyArgs, KeyCommand, RestrictKeyArgs};
#[cfg(feature = "policy")]
pub(crate) use mcp::{ClientName, InstallArgs, McpArgs, McpCommand, McpScope, UninstallArgs};
pub(crate) use net::{CheckArgs, NetCommand, open_named, read_grants};
pub(crate) use network_arg::NetworkArg;
#[cfg(feature = "policy")]
pub(crate) use policy::{ExplainArgs, PolicyCommand};
#[cfg(feature = "policy")]
pub(crate) use quota::QuotaCommand;
pub(crate) use records::{AuditCommand, LogArgs, ReceiptCommand, SigningKeyCommand};
#[cfg(not(feature = "images"))]
pub(crate) use reference::Reference;
pub(crate) use run::{BoundaryArgs, CommandArgs, RequireArg, RunArgs};
pub(crate) use sandbox::{CreateArgs, ExecArgs, ForwardedPort, LocalEnd, NetworkChangeArgs, SandboxCommand};
#[cfg(feature = "policy")]
pub(crate) use serve::ServeArgs;
pub(crate) use state::{ApprovalsArgs, ApprovalsCommand, DecideArgs, StateCommand};
#[cfg(feature = "firecracker")]
pub(crate) use vm::{VmBuildArgs, VmCommand};

use super::logging::LogFormat;
use clap::{Args, Parser, Subcommand};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

/// Run commands of AI agents in sandboxes whose isolation is tested on this host.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Form of the log that AGENTD_LOG requests [default: text, or AGENTD_LOG_FORMAT]
    #[arg(long, global = true, value_enum, value_name = "text|json", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub command: Sub,
}

impl Cli {
    /// Returns true for `run` without `--help` and `--explain`. Most of these runs need the launcher. A run with wrong arguments
    /// or in a machine does not, but this is unknown before the arguments are parsed.
    pub fn may_need_launcher(args: &[OsString]) -> bool {
        let asks = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "--explain";
        is_run(args.iter()) && !before_command(args).any(asks)
    }

    /// Returns true if no argument of a run may request a first process that differs from the default one. An argument of the
    /// command may look like such an option.
    pub fn is_usual(args: &[OsString]) -> bool {
        let decides =
            |arg: &OsString| OPTIONS_OF_FIRST_PROCESS.iter().any(|option| arg.as_bytes().starts_with(option.as_bytes()));
        !before_command(args).any(decides)
    }

    /// Parses the arguments of a process, the first of which is the name of the program.
    ///
    /// # Errors
    /// The error, or the text of an option such as `--help`, which clap returns as an error.
    pub fn parse_all(args: impl Iterator<Item = OsString> + Clone) -> Result<Self, clap::Error> {
        // Describing all commands takes longer than all other steps of parsing. A run needs only one command.
        if is_run(args.clone())
            && let Ok(RunCli { command: RunSub::Run(run) }) = RunCli::try_parse_from(args.clone())
        {
            return Ok(Self { log_format: None, command: Sub::Run(run) });
        }
        Self::try_parse_from(args)
    }
}

/// The beginnings of the options of `run` on which the first process of the sandbox depends: the backend, the network, the filter
/// and the control group. An option that is missing here only makes the start slower.
const OPTIONS_OF_FIRST_PROCESS: [&str; 11] = [
    "--allow-degraded",
    "--backend",
    "--cpu",
    "--disk",
    "--image",
    "--memory",
    "--net",
    "--pids",
    "--preset",
    "--profile",
    "--require",
];

/// Returns the arguments of a process up to `--`.
fn before_command(args: &[OsString]) -> impl Iterator<Item = &OsString> {
    args.iter().take_while(|arg| *arg != "--")
}

fn is_run(mut args: impl Iterator<Item = impl AsRef<OsStr>>) -> bool {
    args.nth(1).is_some_and(|command| command.as_ref() == "run")
}

/// The command line with the command `run` only. [`Cli`] prints errors and help, because they name the other commands.
#[derive(Debug, Parser)]
#[command(name = "agentd")]
struct RunCli {
    #[command(subcommand)]
    command: RunSub,
}

#[cfg(feature = "policy")]
impl RunArgs {
    /// Returns the arguments of a run without options. The caller sets options and command.
    ///
    /// # Errors
    /// None: the tests of this module parse the same line.
    pub fn usual() -> Result<Self, clap::Error> {
        let RunCli { command: RunSub::Run(args) } = RunCli::try_parse_from(["agentd", "run", "--", "agentd"])?;
        Ok(*args)
    }
}

#[derive(Debug, Subcommand)]
enum RunSub {
    Run(Box<RunArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sub {
    /// Run a command in a sandbox
    Run(Box<RunArgs>),
    /// Use a capability: policies decide, and the audit log records it
    #[cfg(feature = "policy")]
    Call(Box<CallArgs>),
    /// List and describe capabilities
    #[cfg(feature = "policy")]
    #[command(subcommand)]
    Capability(CapabilityCommand),
    /// Serve capabilities to an agent by MCP on standard input and output, or connect an agent
    #[cfg(feature = "policy")]
    Mcp(Box<McpArgs>),
    /// Serve capabilities to many clients by REST, gRPC and MCP
    #[cfg(feature = "policy")]
    Serve(ServeArgs),
    /// Create, list and revoke the API keys by which clients authenticate
    #[cfg(feature = "policy")]
    #[command(subcommand)]
    Key(KeyCommand),
    /// Create and manage named sandboxes, which exist until they are removed
    #[command(subcommand)]
    Sandbox(Box<SandboxCommand>),
    /// Inspect or stop the daemon that runs named sandboxes
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Check network grants, list presets, and print what sandboxes tried to reach
    #[command(subcommand)]
    Net(NetCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Verify receipts
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Print or replace the key that signs receipts and the audit log
    #[command(subcommand)]
    SigningKey(SigningKeyCommand),
    /// List the intents that wait for an approval
    Approvals(ApprovalsArgs),
    /// Approve an intent that waits for an approval
    Approve(DecideArgs),
    /// Deny an intent that waits for an approval
    Deny(DecideArgs),
    /// Examine the store of intents, approvals and quotas
    #[command(subcommand)]
    State(StateCommand),
    /// Attack sandboxes of every backend from inside and print which isolation is proven
    Doctor(DoctorArgs),
    /// Measure sandboxes in comparison with a plain process and with other installed sandbox programs
    Bench(BenchArgs),
    /// Manage images for `run --image`
    #[cfg(feature = "images")]
    #[command(subcommand)]
    Image(ImageCommand),
    /// Build or install the files that the firecracker backend needs
    #[cfg(feature = "firecracker")]
    #[command(subcommand)]
    Vm(VmCommand),
    /// Install the files that the gondolin backend needs
    #[cfg(feature = "gondolin")]
    #[command(subcommand)]
    Gondolin(GondolinCommand),
    /// Validate, test and explain policies
    #[cfg(feature = "policy")]
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print quotas and their use, and validate a file of quotas
    #[cfg(feature = "policy")]
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// A command of a Cargo feature that is off in this build
    #[cfg(not(all(feature = "firecracker", feature = "gondolin", feature = "images", feature = "policy")))]
    #[command(external_subcommand)]
    Other(Vec<OsString>),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write a page for each command into this directory instead
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Probe only this backend
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Number of rounds; each round measures every row once
    #[arg(long, value_name = "NUMBER", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn options_that_decide_about_the_first_process_exist() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let options: Vec<String> = run.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect();
        for beginning in OPTIONS_OF_FIRST_PROCESS {
            assert!(options.iter().any(|option| option.starts_with(beginning)), "{beginning}: {options:?}");
        }
    }

    #[test]
    fn launcher_is_started_and_first_process_prepared_for_runs_that_use_them() {
        for (line, launcher, usual) in [
            ("run -- true", true, true),
            ("run true", true, true),
            ("run --workspace none --timeout 1s -- true", true, true),
            ("run -- true --net host --help", true, true),
            ("run --net=host -- true", true, false),
            ("run --cpu-weight 2 true", true, false),
            ("run true --net", true, false),
            ("run --explain -- true", false, true),
            ("run --help", false, true),
            ("run -h", false, true),
            ("doctor", false, true),
            ("--help run", false, true),
            ("", false, true),
        ] {
            let args: Vec<OsString> = ["agentd"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
            assert_eq!((Cli::may_need_launcher(&args), Cli::is_usual(&args)), (launcher, usual), "{line}");
        }
    }
}
