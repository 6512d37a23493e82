//! The command line of agentd.

mod args;
mod begin;
mod bench;
#[cfg(feature = "policy")]
mod call;
#[cfg(feature = "policy")]
mod caller_input;
#[cfg(feature = "policy")]
mod capability;
mod comparison;
mod copy;
mod daemon;
mod data;
mod doctor;
mod environment;
#[cfg(feature = "policy")]
mod execution;
mod explain;
mod failure;
mod flow_list;
mod forward;
#[cfg(feature = "gondolin")]
mod gondolin;
mod granted_hosts;
mod grants;
mod hidden;
mod host_approvals;
#[cfg_attr(not(feature = "images"), path = "image_left_out.rs")]
mod image;
#[cfg(feature = "policy")]
mod key;
mod links;
#[cfg(feature = "policy")]
mod local_user;
mod logging;
#[cfg(feature = "policy")]
mod mcp;
mod named_backend;
mod net;
mod network;
mod output_file;
#[cfg(feature = "policy")]
mod policy;
mod protection;
#[cfg(feature = "policy")]
mod quota;
mod receipt;
mod records;
mod regrant;
mod remove;
mod request;
mod result_object;
mod run;
mod sandbox;
mod secrets;
mod selection;
#[cfg(feature = "policy")]
mod serve;
#[cfg(feature = "policy")]
mod service;
mod state;
mod stops;
mod stream;
mod suggestions;
#[cfg(feature = "policy")]
mod telemetry;
mod temporary;
mod terminal;
mod toolchains;
#[cfg(feature = "firecracker")]
mod vm;
mod wrap;
mod writer;

use agentd_daemon::OwnMounts;
use agentd_isolation::blocking::as_sole_task;
use args::{Cli, DaemonCommand, NetworkArg, Sub};
use clap::CommandFactory;
use failure::{CANNOT, Failure};
use std::{ffi::OsString, io::Write, path::Path, process::ExitCode};
#[cfg(feature = "policy")]
use telemetry::{DaemonTelemetry, Telemetry};

/// Parses the arguments and runs the command. Returns the exit code.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Called before any thread starts, because the C library installs its own handler when the first thread starts.
    if let Err(errno) = agentd_kernel::process::set_reserved_signals(true) {
        eprintln!("agentd: cannot start: ignore signals: {errno}");
        return ExitCode::from(CANNOT);
    }
    // Called before any thread starts, because the launcher is a fork of this process.
    let is_prepared = run::prepare_usual(&args);
    let mut cli = match Cli::parse_all(args.into_iter()) {
        Ok(cli) => cli,
        Err(error) => return not_parsed(error),
    };
    // Also called before any thread starts. If the privilege is missing, the daemon has no disks, and requests for a disk report
    // that.
    let serves = matches!(cli.command, Sub::Daemon(DaemonCommand::Serve { .. }));
    let own = serves.then(OwnMounts::take).transpose();
    #[cfg(feature = "policy")]
    let telemetry = match &cli.command {
        Sub::Call(args) => Telemetry::requested(args),
        _ => None,
    };
    #[cfg(feature = "policy")]
    let daemon_telemetry = matches!(cli.command, Sub::Serve(_)).then(DaemonTelemetry::new);
    #[cfg(feature = "policy")]
    let measured = telemetry.as_ref().map(Telemetry::layer).or_else(|| daemon_telemetry.as_ref().map(DaemonTelemetry::layer));
    #[cfg(not(feature = "policy"))]
    let measured = None;
    // The daemon logs to a file, once it holds its lock.
    if !serves && let Err(error) = logging::to_stderr(cli.log_format, measured) {
        writer::message(format_args!("{error}"));
        return ExitCode::from(CANNOT);
    }
    if let Sub::Run(args) = &mut cli.command {
        // The hosts of the presets' secrets are added when the secrets are read.
        args.boundary.net.extend(args.preset.iter().map(NetworkArg::from));
        if !is_prepared {
            run::prepare(args);
        }
    }
    #[cfg(feature = "policy")]
    if matches!(&cli.command, Sub::Call(_) | Sub::Serve(_)) || matches!(&cli.command, Sub::Mcp(args) if args.command.is_none()) {
        // Before the threads of the engine: the launcher is a fork of this process.
        agentd_isolation::shared_kernel::start_launcher();
    }
    let runtime = match runtime(&cli.command) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("agentd: create the async runtime: {error}");
            return ExitCode::from(CANNOT);
        }
    };
    let result = match cli.command {
        Sub::Run(args) => runtime.block_on(as_sole_task(run::run(*args))),
        #[cfg(feature = "policy")]
        Sub::Call(args) => runtime.block_on(as_sole_task(call::call(*args, telemetry))),
        #[cfg(feature = "policy")]
        Sub::Mcp(args) => runtime.block_on(as_sole_task(mcp::mcp(*args))),
        #[cfg(feature = "policy")]
        Sub::Serve(args) => runtime.block_on(serve::serve(args, daemon_telemetry.unwrap_or_else(DaemonTelemetry::new))),
        #[cfg(feature = "policy")]
        Sub::Key(command) => runtime.block_on(key::key(&command)),
        #[cfg(feature = "policy")]
        Sub::Capability(command) => capability::capability(&command),
        Sub::Sandbox(command) => runtime.block_on(as_sole_task(sandbox::sandbox(*command))),
        Sub::Daemon(command) => runtime.block_on(daemon::daemon(command, own)),
        #[cfg(feature = "images")]
        Sub::Image(command) => runtime.block_on(image::image(&command)),
        #[cfg(feature = "gondolin")]
        Sub::Gondolin(command) => gondolin::gondolin(command),
        #[cfg(feature = "firecracker")]
        Sub::Vm(command) => vm::vm(&command),
        #[cfg(feature = "policy")]
        Sub::Policy(command) => policy::policy(&command),
        #[cfg(feature = "policy")]
        Sub::Quota(command) => runtime.block_on(quota::quota(&command)),
        #[cfg(not(all(feature = "firecracker", feature = "gondolin", feature = "images", feature = "policy")))]
        Sub::Other(command) => Err(other(&command)),
        Sub::Net(command) => net::net(&command),
        Sub::Audit(command) => records::audit(&command),
        Sub::Receipt(command) => records::receipt(&command),
        Sub::SigningKey(command) => records::signing_key(&command),
        Sub::Approvals(args) => runtime.block_on(state::approvals(&args)),
        Sub::Approve(args) => runtime.block_on(state::decide(&args, true)),
        Sub::Deny(args) => runtime.block_on(state::decide(&args, false)),
        Sub::State(command) => runtime.block_on(state::state(&command)),
        Sub::Doctor(args) => runtime.block_on(as_sole_task(doctor::doctor(&args))),
        Sub::Bench(args) => runtime.block_on(bench::bench(&args)),
        Sub::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "agentd", &mut text);
            print(&text)
        }
        Sub::Man { directory } => man(directory.as_deref()),
    };
    // A thread that reads standard input may be blocked forever, so do not wait for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        // The exit code of a program that SIGPIPE has ended: the reader of the output has closed the pipe.
        Err(error) if is_closed_pipe(&*error) => ExitCode::from(128 + 13),
        Err(error) => {
            failure::lines(&*error).iter().for_each(|line| writer::message(format_args!("{line}")));
            ExitCode::from(CANNOT)
        }
    }
}

/// Returns the async runtime of a command.
fn runtime(command: &Sub) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        // Intents of many clients wait for the disk at the same time.
        #[cfg(feature = "policy")]
        Sub::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

/// Prints why the arguments cannot be parsed, or the text of an option such as `--help`. Returns the exit code.
fn not_parsed(mut error: clap::Error) -> ExitCode {
    suggestions::suggest_command(&mut error, &Cli::command(), std::env::args_os().skip(1));
    // If printing fails, there is no other place to report the error.
    error.print().ok();
    if error.use_stderr() && asks_for_json(std::env::args_os()) {
        // Standard error has the message already.
        writeln!(std::io::stdout(), "{:#}", result_object::error(error.to_string().trim_end(), None)).ok();
    }
    ExitCode::from(if error.use_stderr() { CANNOT } else { 0 })
}

/// Returns an error that names the missing Cargo feature of a command, or states that there is no such command.
#[cfg(not(all(feature = "firecracker", feature = "gondolin", feature = "images", feature = "policy")))]
fn other(command: &[OsString]) -> Failure {
    let name = command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let feature = [
        ("image", "images"),
        ("vm", "firecracker"),
        ("gondolin", "gondolin"),
        ("policy", "policy"),
        ("quota", "policy"),
        ("call", "policy"),
        ("capability", "policy"),
        ("mcp", "policy"),
        ("serve", "policy"),
        ("key", "policy"),
    ];
    match feature.into_iter().find(|(command, _)| *command == name) {
        Some((_, feature)) => format!("command '{name}': {}", crate::isolation::left_out(feature)).into(),
        None => match suggestions::nearest_command(&Cli::command(), &name) {
            Some(meant) => format!("unrecognized subcommand '{name}' — did you mean '{meant}'?").into(),
            None => format!("unrecognized subcommand '{name}' — agentd --help lists the commands").into(),
        },
    }
}

fn print(text: &[u8]) -> Result<u8, Failure> {
    std::io::stdout().write_all(text)?;
    Ok(0)
}

/// Prints the manual page, or writes one page for each command into a directory.
fn man(directory: Option<&Path>) -> Result<u8, Failure> {
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory).map_err(|error| failure::of_file("create a directory", directory, &error))?;
        clap_mangen::generate_to(Cli::command(), directory)
            .map_err(|error| failure::of_file("write manual pages", directory, &error))?;
        return Ok(0);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    print(&text)
}

/// Returns true if standard output has lost its reader. Errors of other files contain the file's name, so they have another type.
fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Returns true if arguments that cannot be parsed request JSON: `run` with `--json` among its own options.
fn asks_for_json(args: impl Iterator<Item = OsString>) -> bool {
    let mut options = args.skip(1).take_while(|arg| arg != "--");
    options.next().is_some_and(|command| command == "run") && options.any(|option| option == "--json")
}
