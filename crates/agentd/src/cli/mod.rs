//! The command line.

mod args;
mod bench;
mod data;
mod doctor;
mod duration;
mod environment;
mod explain;
mod gondolin;
mod grants;
mod image;
mod probe_cache;
mod request;
mod run;
mod sandbox;
mod stream;
mod terminal;
mod vm;
mod writer;

use agentd_keeper::OwnMounts;
use args::{Cli, Sub};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

/// agentd itself could not do what was asked.
pub(crate) const CANNOT: u8 = 125;

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told when printing fails.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { CANNOT } else { 0 });
        }
    };
    // Before there are threads. Without the privilege there are no disks in it, and who asks for one is told so.
    let own = matches!(cli.command, Sub::Keeper { .. }).then(OwnMounts::take).and_then(Result::ok);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("agentd: cannot start: {error}");
            return ExitCode::from(CANNOT);
        }
    };
    let result = match cli.command {
        Sub::Run(args) => runtime.block_on(run::run(*args)),
        Sub::Sandbox(command) => runtime.block_on(sandbox::sandbox(*command)),
        Sub::Keeper { folder } => runtime.block_on(agentd_keeper::keep(&folder, own)).map(|()| 0).map_err(Into::into),
        Sub::Image(command) => runtime.block_on(image::image(&command)),
        Sub::Gondolin(command) => gondolin::gondolin(command),
        Sub::Vm(command) => vm::vm(&command),
        Sub::Doctor(args) => runtime.block_on(doctor::doctor(&args)),
        Sub::Bench(args) => runtime.block_on(bench::bench(&args)),
        Sub::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "agentd", &mut std::io::stdout());
            Ok(0)
        }
        Sub::Man => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()).map(|()| 0).map_err(Into::into),
    };
    // A reader of standard input may be blocked for ever.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            writer::say(format_args!("{error}"));
            ExitCode::from(CANNOT)
        }
    }
}

/// Anything that stops a command of the command line.
pub(crate) type Failure = Box<dyn std::error::Error>;
