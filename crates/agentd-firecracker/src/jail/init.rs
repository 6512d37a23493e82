//! The jail init, process 1 of a jail.

use super::{
    API, Jail, NAME, SHOWN, failed,
    mounts::{bind_read_only, chown_root_entries, mount_assets},
    root,
};
use crate::{
    files::{FIRECRACKER, JAILER, SNAPSHOT},
    metrics_pipe::METRICS,
};
use agentd_core::{Control, ControlError};
use agentd_kernel::cgroup::Cgroup;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{RecvFlags, SendFlags},
    process::{Pid, Signal},
};
use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The maximum length of a snapshot's path in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// Runs process 1 of the jail.
pub(super) fn run(
    jail: &Jail,
    privileged: bool,
    user: Option<(u32, u32)>,
    group: Option<&Cgroup>,
    go: &OwnedFd,
) -> Result<(), ControlError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed(Control::Process, "prctl PR_SET_PDEATHSIG".to_owned(), errno))?;
    // The read returns no byte if the shim is dead or could not write the id maps.
    if !matches!(rustix::io::read(go, &mut [0; 1]), Ok(1)) {
        return Ok(());
    }
    if let Some(group) = group {
        group.join()?;
    }
    let root = root(&jail.folder);
    mount_assets(jail, &root)?;
    if let Some((uid, gid)) = user {
        chown_root_entries(&root, uid, gid)?;
    }
    let mut child = command(jail, &root, privileged, user);
    let mut child = child.spawn().map_err(|error| {
        ControlError::caused_by(Control::Process, format!("execute {:?}", child.get_program()), error)
            .remedy("run `agentd vm install-firecracker`, which prints how to install it")
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| ControlError::new(Control::Process, "clone returned an invalid pid", None))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| failed(Control::Process, "pidfd_open".to_owned(), errno))?;
    if serve(io::stdin().as_fd(), pidfd.as_fd(), &root, user)? == Ended::Library {
        return Ok(());
    }
    match child.wait() {
        Ok(status) if !status.success() => Err(ControlError::new(Control::Process, format!("run Firecracker: {status}"), None)),
        _ => Ok(()),
    }
}

/// A process that has ended, or closed its socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Firecracker,
    Library,
}

/// An event for the jail init.
enum JailEvent {
    /// The library has sent a message, or closed its socket.
    FromLibrary,
    /// Firecracker has ended.
    FirecrackerEnded,
}

/// Mounts the snapshot that the library names, if it names one. Waits until Firecracker or the library ends, and returns which of
/// the two ended first.
fn serve(
    library: BorrowedFd<'_>,
    firecracker: BorrowedFd<'_>,
    root: &Path,
    user: Option<(u32, u32)>,
) -> Result<Ended, ControlError> {
    let mut has_snapshot = false;
    while let JailEvent::FromLibrary = next_event(library, firecracker)? {
        let Some(snapshot) = recv(library)? else { return Ok(Ended::Library) };
        if has_snapshot {
            return Err(ControlError::new(
                Control::Process,
                "mount a snapshot: received a second path, but only one is allowed",
                None,
            ));
        }
        has_snapshot = true;
        bind_read_only(&snapshot, &root.join(SNAPSHOT))?;
        // The library has created the machine's disk in the meantime. The disk needs the same owner.
        if let Some((uid, gid)) = user {
            chown_root_entries(root, uid, gid)?;
        }
        rustix::net::send(library, SHOWN, SendFlags::NOSIGNAL)
            .map_err(|errno| failed(Control::Process, "send the reply to the library".to_owned(), errno))?;
    }
    Ok(Ended::Firecracker)
}

/// Receives the path of the snapshot to mount; `None` if the library has closed the socket.
fn recv(library: BorrowedFd<'_>) -> Result<Option<PathBuf>, ControlError> {
    let mut packet = [0; MAX_PATH];
    // One packet holds one path. With TRUNC, the length of a longer packet is returned in full.
    let (_, length) = rustix::net::recv(library, &mut packet[..], RecvFlags::TRUNC)
        .map_err(|errno| failed(Control::Process, "receive from the library".to_owned(), errno))?;
    let path = packet
        .get(..length)
        .ok_or_else(|| ControlError::new(Control::Process, "receive a snapshot path: longer than PATH_MAX", None))?;
    Ok((!path.is_empty()).then(|| OsStr::from_bytes(path).into()))
}

/// Waits for an event.
fn next_event(library: BorrowedFd<'_>, firecracker: BorrowedFd<'_>) -> Result<JailEvent, ControlError> {
    loop {
        let mut both = [PollFd::from_borrowed_fd(library, PollFlags::IN), PollFd::from_borrowed_fd(firecracker, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) if !both[0].revents().is_empty() => return Ok(JailEvent::FromLibrary),
            Ok(_) if !both[1].revents().is_empty() => return Ok(JailEvent::FirecrackerEnded),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(Control::Process, "poll".to_owned(), errno)),
        }
    }
}

/// Returns the command that starts Firecracker; as root, through Firecracker's jailer.
fn command(jail: &Jail, root: &Path, privileged: bool, user: Option<(u32, u32)>) -> Command {
    let program = jail.programs.join(FIRECRACKER);
    let own = ["--api-sock", API, "--level", "Warning", "--metrics-path", METRICS];
    let mut command = match user {
        Some((uid, gid)) if privileged => {
            let mut jailer = Command::new(jail.programs.join(JAILER));
            jailer.args(["--id", NAME, "--uid", &uid.to_string(), "--gid", &gid.to_string()]);
            jailer.arg("--exec-file").arg(program).arg("--chroot-base-dir").arg(&jail.folder).arg("--").args(own);
            jailer
        }
        _ => {
            let mut plain = Command::new(program);
            plain.args(["--id", NAME]).args(own).current_dir(root);
            plain
        }
    };
    command.env_clear().stdin(Stdio::null()).process_group(0);
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => command.stdout(stderr),
        Err(_) => command.stdout(Stdio::null()),
    };
    command
}

#[cfg(test)]
mod tests {
    use super::{super::socket, *};

    #[test]
    fn jail_init_receives_one_path_or_end_of_socket() {
        let (library, init) = socket().unwrap();
        let send = |packet: &[u8]| rustix::net::send(&library, packet, SendFlags::NOSIGNAL).unwrap();
        send(b"/a\xff b");
        assert_eq!(recv(init.as_fd()).unwrap(), Some(OsStr::from_bytes(b"/a\xff b").into()));
        send(&[b'a'; MAX_PATH]);
        assert!(recv(init.as_fd()).unwrap().is_some());
        send(&[b'a'; MAX_PATH + 1]);
        recv(init.as_fd()).unwrap_err();
        drop(library);
        assert_eq!(recv(init.as_fd()).unwrap(), None);
    }
}
