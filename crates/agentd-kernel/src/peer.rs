//! Verification of the process at the other end of a Unix socket (`unix(7)`).
//!
//! A uid does not identify a client: the payload of an unprivileged user's sandbox has the uid of that user. The namespaces do. A
//! payload runs in its own user and PID namespaces and cannot leave them (`setns(2)` needs capabilities in the target namespace).

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The kinds of namespaces that a peer must share with this process.
const SHARED: [&str; 2] = ["user", "pid"];

/// The reason why a peer is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer runs as another user.
    #[error("peer of the socket: the process runs as uid {0} — connect as the user who started this process")]
    Uid(u32),
    /// The peer ended after it connected, so that nothing about it can be verified.
    #[error("peer of the socket: the process that connected has ended — connect from a process that waits for the reply")]
    Ended,
    /// The peer is in another namespace, as the processes of a sandbox are.
    #[error("peer of the socket: process {pid} is in another {namespace} namespace — connect from outside of any sandbox")]
    Namespace {
        /// The process ID of the peer, 0 if it has none in this PID namespace.
        pid: i32,
        /// The kind of the namespace, as in `/proc/PID/ns`.
        namespace: &'static str,
    },
    /// A system call failed.
    #[error("peer of the socket: {call}: {errno}")]
    System {
        /// The call and its object.
        call: String,
        /// The cause.
        errno: Errno,
    },
}

/// Verifies that the process that connected `socket` is alive, has the effective uid of this process, and shares its user and PID
/// namespaces. The mount namespace may differ.
///
/// # Errors
/// A [`PeerError`] for every other peer, and if any of these properties cannot be verified.
pub fn verify(socket: BorrowedFd<'_>) -> Result<(), PeerError> {
    let failed = |call: &dyn fmt::Display| {
        let call = call.to_string();
        move |errno| PeerError::System { call, errno }
    };
    let peer = crate::syscall::sockets::peer_credentials(socket).map_err(failed(&"getsockopt SO_PEERCRED"))?;
    if peer.uid != rustix::process::geteuid().as_raw() {
        return Err(PeerError::Uid(peer.uid));
    }
    // The kernel reports pid 0 for a process that is neither in this PID namespace nor in one below it.
    let pid = peer.pid;
    let Some(number) = Pid::from_raw(pid) else { return Err(PeerError::Namespace { pid, namespace: "pid" }) };
    let process = open(socket, number).map_err(|errno| match errno {
        Errno::SRCH => PeerError::Ended,
        errno => PeerError::System { call: "open a pidfd of the peer".to_owned(), errno },
    })?;
    let own = rustix::fs::open("/proc/self/ns", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(&"open /proc/self/ns"))?;
    for namespace in SHARED {
        let theirs = format!("/proc/{pid}/ns/{namespace}");
        let theirs = match identity(CWD, &theirs) {
            Ok(identity) => identity,
            // The process has ended: its pid names no process.
            Err(Errno::NOENT | Errno::SRCH) => return Err(PeerError::Ended),
            Err(errno) => return Err(PeerError::System { call: format!("stat {theirs}"), errno }),
        };
        let ours = identity(own.as_fd(), namespace).map_err(failed(&format_args!("stat /proc/self/ns/{namespace}")))?;
        if theirs != ours {
            return Err(PeerError::Namespace { pid, namespace });
        }
    }
    // While the process is alive, its pid names no other process: the namespaces read above are those of the peer.
    if lives(&process).map_err(failed(&"poll the pidfd of the peer"))? { Ok(()) } else { Err(PeerError::Ended) }
}

/// Opens a pidfd of the process that connected `socket`. Kernels before Linux 6.5 lack `SO_PEERPIDFD` and report only the pid.
fn open(socket: BorrowedFd<'_>, pid: Pid) -> Result<OwnedFd, Errno> {
    match crate::syscall::sockets::peer_pidfd(socket) {
        Err(Errno::NOPROTOOPT) => open_by_number(socket, pid),
        // A process that has ended and was reaped: EINVAL before Linux 6.16, later ESRCH (`pidfd_prepare` in `kernel/fork.c`).
        Err(Errno::INVAL) => Err(Errno::SRCH),
        opened => opened,
    }
}

/// Opens a pidfd by the pid of the peer. If the peer has ended, the kernel may have assigned its pid to another process since.
/// The credentials are read again, so that a socket whose peer has changed is refused.
fn open_by_number(socket: BorrowedFd<'_>, pid: Pid) -> Result<OwnedFd, Errno> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let again = crate::syscall::sockets::peer_credentials(socket)?;
    let is_same = again.pid == pid.as_raw_pid() && again.uid == rustix::process::geteuid().as_raw();
    if is_same { Ok(process) } else { Err(Errno::SRCH) }
}

/// Returns the device and inode of a namespace file, which identify the namespace (`namespaces(7)`).
fn identity(dir: BorrowedFd<'_>, path: &str) -> Result<(u64, u64), Errno> {
    rustix::fs::statat(dir, path, AtFlags::empty()).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Returns true if the process of a pidfd has not ended. A zombie has ended (`pidfd_open(2)`).
fn lives(process: &OwnedFd) -> Result<bool, Errno> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    Ok(poll(&mut ended, Some(&Timespec::default()))? == 0)
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
