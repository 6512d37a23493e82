//! Process 1 of the machine: loads the modules, makes a system of the disk, runs what the other side of the control port asks for, tells
//! what became of it, and ends the machine.

mod cgroup;
mod command;
mod files;
mod load;
mod ports;
mod system;

use crate::{
    error::LabError,
    message::{News, Report},
};
use rustix::system::RebootCommand;
use std::{io::Write, process::ExitCode};

/// Runs once. There is nothing to return to.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => {}
        // Nobody listens any more, or not yet; the console is looked at when a machine ends without an answer.
        Err(error) => eprintln!("lab: {error}"),
    }
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::Restart).ok();
    ExitCode::FAILURE
}

fn serve() -> Result<(), LabError> {
    system::mount_proc()?;
    let loading = load::modules()?;
    system::enter()?;
    let ports = ports::Ports::find()?;
    let (request, mut control) = ports.request()?;
    let mut say = |news: &News| {
        let line = serde_json::to_string(news).unwrap_or_default();
        writeln!(control, "{line}").map_err(|source| LabError::Io { call: "answer".to_owned(), source })
    };
    let arranged = load::finish(loading).and_then(|()| system::arrange());
    say(&News::Begun)?;
    let report = arranged.and_then(|()| command::run(&request, &ports));
    let report = report.and_then(|report| files::send(&request.copy_out, &ports).map(|()| report));
    say(&News::Ended(report.unwrap_or_else(|error| Report::Failed(error.to_string()))))
}
