//! The host's side of a run: sends the request, forwards output, and waits for the report until a time limit.

use crate::{
    error::{Calling, LabError, format_error},
    machine::{Console, Machine, RunningMachine, hit_breakpoint, last_words},
    message::{CONTROL, CommandRequest, Event, FILES, PULSE, Report, STDERR, STDOUT},
    tool,
};
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Interval between two bytes on the port [`PULSE`]. If the emulator has lost an interrupt, a machine stalls for at most this
/// time.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs `request` in `machine`. Files to copy out go to `into`.
pub fn run(machine: &Machine<'_>, request: &CommandRequest, into: &Path, limit: Option<Duration>) -> Result<Report, LabError> {
    let RunningMachine { mut qemu, mut ports } = machine.start()?;
    let mut port = |name: &str| ports.remove(name).ok_or_else(|| format_error(name, "the machine has no port of this name"));
    let (control, stdout, stderr, files) = (port(CONTROL)?, port(STDOUT)?, port(STDERR)?, port(FILES)?);
    send_pulse(port(PULSE)?);
    let copies = [pass(stdout, io::stdout()), pass(stderr, io::stderr())];
    let unpacking = if request.copy_out.is_empty() { None } else { Some(unpack(files, into)?) };
    let (answer, begun) = recv(&send_request(control, request), limit);
    if answer.is_err() {
        // Fails only if QEMU has already ended.
        qemu.kill().ok();
    }
    let status = qemu.wait().calling(|| "wait for qemu".to_owned())?;
    for copy in copies {
        // A thread that can no longer write has no result.
        copy.join().ok();
    }
    let console = || match &machine.console {
        Console::Terminal => "see above".to_owned(),
        Console::Log(folder) => last_words(folder),
    };
    match answer {
        Ok(report) => {
            if let Some(mut tar) = unpacking {
                let status = tar.wait().calling(|| "wait for tar".to_owned())?;
                if !status.success() {
                    return Err(LabError::Tool { command: "tar -x".to_owned(), detail: status.to_string() });
                }
            }
            Ok(report)
        }
        Err(true) => Err(LabError::TimedOut { seconds: limit.unwrap_or_default().as_secs(), console: console() }),
        Err(false) => {
            let breakpoint = matches!(&machine.console, Console::Log(folder) if hit_breakpoint(folder));
            Err(LabError::Died { detail: status.to_string(), begun, breakpoint, console: console() })
        }
    }
}

/// Sends a byte every [`PULSE_INTERVAL`], until QEMU ends and closes the port.
fn send_pulse(mut port: UnixStream) {
    thread::spawn(move || {
        while port.write_all(b"\n").is_ok() {
            thread::sleep(PULSE_INTERVAL);
        }
    });
}

/// Copies output from a port until the machine ends.
fn pass(port: UnixStream, mut to: impl Write + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut port = BufReader::new(port);
        loop {
            let taken = match port.fill_buf() {
                Ok([]) | Err(_) => return,
                // A reader that closed its pipe does not stop the machine.
                Ok(bytes) => {
                    to.write_all(bytes).and_then(|()| to.flush()).ok();
                    bytes.len()
                }
            };
            port.consume(taken);
        }
    })
}

fn unpack(files: UnixStream, into: &Path) -> Result<std::process::Child, LabError> {
    fs::create_dir_all(into).on("mkdir", into)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--directory"]).arg(into).stdin(Stdio::from(OwnedFd::from(files)));
    tar.spawn().calling(|| "start tar".to_owned())
}

/// Waits for the report on the command. The error is true if the time limit has passed, and false if the machine has ended. The
/// second value is true if the command was started.
fn recv(events: &mpsc::Receiver<Event>, limit: Option<Duration>) -> (Result<Report, bool>, bool) {
    let until = limit.map(|limit| Instant::now() + limit);
    let mut begun = false;
    loop {
        let next = match until {
            Some(until) => events
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .map_err(|error| error == mpsc::RecvTimeoutError::Timeout),
            None => events.recv().map_err(|_| false),
        };
        match next {
            Ok(Event::Begun) => begun = true,
            Ok(Event::Ended(report)) => return (Ok(report), begun),
            Err(late) => return (Err(late), begun),
        }
    }
}

/// Sends the request in a new thread. Returns the events of the machine.
fn send_request(mut control: UnixStream, request: &CommandRequest) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel();
    let line = serde_json::to_string(request);
    thread::spawn(move || {
        let sent = line.map_err(io::Error::from).and_then(|line| control.write_all(format!("{line}\n").as_bytes()));
        if sent.is_err() {
            return;
        }
        for line in BufReader::new(control).lines() {
            let Some(events) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { return };
            if sender.send(events).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Checks that a machine boots and runs a command.
pub fn boots(machine: &Machine<'_>, limit: Duration) -> Result<(), LabError> {
    let command = vec!["/bin/true".to_owned()];
    let request = CommandRequest { command, env: Vec::new(), user: false, console: false, copy_out: Vec::new() };
    match run(machine, &request, Path::new(""), Some(limit))? {
        Report::Exited(0) => Ok(()),
        other => Err(LabError::Guest(format!("{other:?}"))),
    }
}

/// Returns the version of QEMU.
pub fn qemu_version() -> Result<String, LabError> {
    let said = tool::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}
