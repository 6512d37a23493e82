//! Process 1 of the machine. Loads the modules, sets up the system on the disk, runs the request from the control port, reports
//! the result, and ends the machine.

mod cgroup;
mod command;
mod files;
mod load;
mod ports;
mod system;

use crate::{
    error::LabError,
    message::{Event, Report},
};
use rustix::system::RebootCommand;
use std::{io::Write, process::ExitCode};

/// Runs once, then restarts the machine, which ends QEMU.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => {}
        // The host may not be listening. If a machine ends without a report, the host prints the console.
        Err(error) => eprintln!("lab: {error}"),
    }
    rustix::fs::sync();
    // If this fails, the end of process 1 ends the machine (a kernel panic).
    rustix::system::reboot(RebootCommand::Restart).ok();
    ExitCode::FAILURE
}

fn serve() -> Result<(), LabError> {
    system::mount_proc()?;
    let loading = load::modules()?;
    system::enter()?;
    let ports = ports::Ports::find()?;
    ports.take_pulse()?;
    let (request, mut control) = ports.request()?;
    let mut send = |events: &Event| {
        let line = serde_json::to_string(events).unwrap_or_default();
        writeln!(control, "{line}").map_err(|source| LabError::Io { call: "send an event to the host".to_owned(), source })
    };
    let arranged = load::finish(loading).and_then(|()| system::arrange());
    send(&Event::Begun)?;
    let report = arranged.and_then(|()| command::run(&request, &ports));
    let report = report.and_then(|report| files::send(&request.copy_out, &ports).map(|()| report));
    send(&Event::Ended(report.unwrap_or_else(|error| Report::Failed(error.to_string()))))
}
