//! One run of a machine, from outside: hand over the request, pass on what comes, wait for the report, at most so long.

use crate::{
    error::{Calling, LabError, format_error},
    machine::{Console, Machine, Running, last_words},
    message::{CONTROL, FILES, News, Report, Request, STDERR, STDOUT},
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

/// Runs `request` in `machine`; what is copied out goes to `into`.
pub fn run(machine: &Machine<'_>, request: &Request, into: &Path, limit: Option<Duration>) -> Result<Report, LabError> {
    let Running { mut qemu, mut ports } = machine.start()?;
    let mut port = |name: &str| ports.remove(name).ok_or_else(|| format_error(name, "there is no such port"));
    let (control, stdout, stderr, files) = (port(CONTROL)?, port(STDOUT)?, port(STDERR)?, port(FILES)?);
    let copies = [pass(stdout, io::stdout()), pass(stderr, io::stderr())];
    let unpacking = if request.copy_out.is_empty() { None } else { Some(unpack(files, into)?) };
    let (answer, begun) = hear(&speak(control, request), limit);
    if answer.is_err() {
        // It may have ended by itself.
        qemu.kill().ok();
    }
    let status = qemu.wait().calling(|| "wait for qemu".to_owned())?;
    for copy in copies {
        // A thread that cannot write any more has nothing to tell.
        copy.join().ok();
    }
    let console = || match &machine.console {
        Console::Terminal => "above".to_owned(),
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
        Err(false) => Err(LabError::Died { detail: status.to_string(), begun, console: console() }),
    }
}

/// Copies what comes from a port until the machine ends.
fn pass(port: UnixStream, mut to: impl Write + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut port = BufReader::new(port);
        loop {
            let taken = match port.fill_buf() {
                Ok([]) | Err(_) => return,
                // A reader that went away does not stop the machine.
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

/// What became of the command, or whether the time is over; and whether it was begun with.
fn hear(news: &mpsc::Receiver<News>, limit: Option<Duration>) -> (Result<Report, bool>, bool) {
    let until = limit.map(|limit| Instant::now() + limit);
    let mut begun = false;
    loop {
        let next = match until {
            Some(until) => news
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .map_err(|error| error == mpsc::RecvTimeoutError::Timeout),
            None => news.recv().map_err(|_| false),
        };
        match next {
            Ok(News::Begun) => begun = true,
            Ok(News::Ended(report)) => return (Ok(report), begun),
            Err(late) => return (Err(late), begun),
        }
    }
}

/// Says what is to be done, and hears what comes of it.
fn speak(mut control: UnixStream, request: &Request) -> mpsc::Receiver<News> {
    let (sender, receiver) = mpsc::channel();
    let line = serde_json::to_string(request);
    thread::spawn(move || {
        let said = line.map_err(io::Error::from).and_then(|line| control.write_all(format!("{line}\n").as_bytes()));
        if said.is_err() {
            return;
        }
        for line in BufReader::new(control).lines() {
            let Some(news) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { return };
            if sender.send(news).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Whether a machine boots and answers at all.
pub fn boots(machine: &Machine<'_>, limit: Duration) -> Result<(), LabError> {
    let command = vec!["/bin/true".to_owned()];
    let request = Request { command, env: Vec::new(), user: false, console: false, copy_out: Vec::new() };
    match run(machine, &request, Path::new(""), Some(limit))? {
        Report::Exited(0) => Ok(()),
        other => Err(LabError::Guest(format!("{other:?}"))),
    }
}

/// QEMU's version, for what depends on it.
pub fn qemu_version() -> Result<String, LabError> {
    let said = tool::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}
