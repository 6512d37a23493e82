//! Runs the requested command.

use super::{cgroup, ports::Ports};
use crate::{
    error::{Calling, LabError},
    message::{CommandRequest, Report, STDERR, STDOUT},
};
use rustix::{
    io::Errno,
    process::{WaitOptions, WaitStatus},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
};

/// The ordinary user on the disk.
const USER: u32 = 1000;

/// Runs the command until it ends, then kills and reaps all processes that it left.
pub fn run(request: &CommandRequest, ports: &Ports) -> Result<Report, LabError> {
    let mut command = prepare(request);
    let group = if request.user { cgroup::of_user(USER)? } else { cgroup::of_root()? };
    let copies = if request.console {
        let terminal = File::options().read(true).write(true).open("/dev/ttyS0").calling(|| "open the console".to_owned())?;
        let copy = |file: &File| file.try_clone().calling(|| "dup".to_owned());
        command.stdin(copy(&terminal)?).stdout(copy(&terminal)?).stderr(terminal);
        None
    } else {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Some((ports.open(STDOUT)?, ports.open(STDERR)?))
    };
    // A forked process starts in its parent's cgroup, so enter the cgroup before the fork.
    cgroup::enter(&group)?;
    let child = command.spawn();
    cgroup::leave_root()?;
    let mut child = child.calling(|| format!("execute {:?}", request.command))?;
    let copies: Vec<_> = copies.map_or_else(Vec::new, |(stdout, stderr)| {
        let out = child.stdout.take().map(|from| pass(from, stdout));
        let err = child.stderr.take().map(|from| pass(from, stderr));
        [out, err].into_iter().flatten().collect()
    });
    let report = wait(&child)?;
    end_all()?;
    for copy in copies {
        // A thread that has panicked printed its message on the console.
        copy.join().ok();
    }
    Ok(report)
}

fn prepare(request: &CommandRequest) -> Command {
    let argv: Vec<&str> = match request.console {
        // The command gets a new session with a controlling terminal, for job control.
        true => vec!["/usr/bin/setsid", "--ctty", "--wait", "/bin/bash", "-l"],
        false => request.command.iter().map(String::as_str).collect(),
    };
    let (program, arguments) = argv.split_first().unwrap_or((&"", &[]));
    let (name, home) = if request.user { ("user", "/home/user") } else { ("root", "/root") };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir(home);
    command.env("PATH", "/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs([("HOME", home), ("USER", name), ("TERM", "vt220"), ("LANG", "C.UTF-8")]);
    command.envs(request.env.iter().map(|(name, value)| (name, value)));
    if request.user {
        command.uid(USER).gid(USER);
    }
    command
}

fn pass(mut from: impl Read + Send + 'static, mut port: File) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        // `io::copy` would splice, and a virtio port then reports an empty pipe as ended (seen on Linux 6.12).
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            // Writing fails only when the host's side is gone, and then the machine is ending.
            if port.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    })
}

/// Waits for the command, and reaps all other children of process 1 that end in the meantime.
fn wait(child: &Child) -> Result<Report, LabError> {
    loop {
        let ended = rustix::process::wait(WaitOptions::empty()).calling(|| "wait".to_owned())?;
        if let Some((pid, status)) = ended
            && i64::from(pid.as_raw_pid()) == i64::from(child.id())
        {
            return Ok(report(status));
        }
    }
}

fn report(status: WaitStatus) -> Report {
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    match (code, status.terminating_signal()) {
        (Some(code), _) => Report::Exited(code),
        (None, Some(signal)) => Report::Killed(signal),
        (None, None) => Report::Failed(format!("wait returned an unknown status: {status:?}")),
    }
}

/// Ends the processes that the command left, which keep its streams open.
fn end_all() -> Result<(), LabError> {
    cgroup::kill_all()?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) => {}
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error).calling(|| "wait".to_owned()),
        }
    }
}
