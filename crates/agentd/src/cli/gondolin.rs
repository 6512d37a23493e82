//! `agentd gondolin`: the real Gondolin, installed.

use super::{Failure, args::GondolinCommand, data, writer};
use agentd_gondolin::{GONDOLIN_VERSION, Request, set_up};
use std::io::Write;

/// Where it lies in agentd's folder.
const FOLDER: &str = "gondolin";

/// Carries out one of the commands.
pub(crate) fn gondolin(command: GondolinCommand) -> Result<u8, Failure> {
    let GondolinCommand::Setup(args) = command;
    let home = data::folder()?.join(FOLDER);
    let request = Request { offline: args.offline, root: args.root };
    let installation = set_up(&home, &request, |step| writer::say(format_args!("setting up {step}")))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Gondolin {GONDOLIN_VERSION}: {}", installation.package().display())?;
    writeln!(out, "guest: {}", installation.guest().display())?;
    Ok(0)
}
