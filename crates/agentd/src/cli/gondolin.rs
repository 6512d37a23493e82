//! `agentd gondolin`: installs Gondolin.

use super::{args::GondolinCommand, data, failure::Failure, writer};
use agentd_gondolin::install::{GONDOLIN_VERSION, SetupRequest, set_up};
use std::io::Write;

/// Folder of the installation, below agentd's data folder.
const FOLDER: &str = "gondolin";

/// Runs one of the `agentd gondolin` commands.
pub(crate) fn gondolin(command: GondolinCommand) -> Result<u8, Failure> {
    let GondolinCommand::Setup(args) = command;
    let home = data::folder()?.join(FOLDER);
    let request = SetupRequest { offline: args.offline, root: args.root };
    let installation = set_up(&home, &request, |step| writer::message(format_args!("setting up {step}")))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Gondolin {GONDOLIN_VERSION}: {}", installation.package().display())?;
    writeln!(out, "guest: {}", installation.guest().display())?;
    Ok(0)
}
