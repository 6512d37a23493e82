//! Verification of the process at the other end of a Unix socket (`unix(7)`).
//!
//! A uid does not identify a client: the payload of an unprivileged user's sandbox has the uid of that user. The namespaces do. A
//! payload runs in its own user and PID namespaces and cannot leave them (`setns(2)` needs capabilities in the target namespace).
//! A peer in other namespaces needs a further proof that it is no payload; the caller decides which.

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

/// The kinds of namespaces that are compared, as in `/proc/PID/ns`.
const COMPARED: [&str; 2] = ["user", "pid"];

/// The place of a peer that is alive and has the effective uid of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The peer is in the user and PID namespaces of this process.
    Here,
    /// The peer is in another namespace of this kind, or this process may not inspect that namespace. The peer may be the payload
    /// of a sandbox.
    Elsewhere(&'static str),
}

/// The reason why a peer is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer runs as another user.
    #[error("verify the peer of the socket: the process runs as uid {0} — connect as the user who started this process")]
    Uid(u32),
    /// The peer ended after it connected, so that nothing about it can be verified.
    #[error("verify the peer of the socket: the process that connected has ended")]
    Ended,
    /// The peer has no pid in the PID namespace of this process, and the kernel provides no pidfd of it.
    #[error(
        "verify the peer of the socket: the process is outside of this PID namespace, and the kernel cannot report whether the \
         process is alive (Linux 6.5 can) — connect from the PID namespace of this process"
    )]
    Invisible,
    /// A system call failed.
    #[error("verify the peer of the socket: {call}: {errno}")]
    System {
        /// The call and its object.
        call: String,
        /// The cause.
        #[source]
        errno: Errno,
    },
}

/// Verifies that the process that connected `socket`, or listened on it, is alive and has the effective uid of this process.
/// Returns whether it shares the user and PID namespaces of this process. The mount namespace may differ.
///
/// A peer in another user namespace has the uid to which the kernel maps its uid in the user namespace of this process.
///
/// # Errors
/// A [`PeerError`] for a peer that has ended or has another uid, and if this cannot be verified.
pub fn verify(socket: BorrowedFd<'_>) -> Result<Peer, PeerError> {
    let failed = |call: &dyn fmt::Display| {
        let call = call.to_string();
        move |errno| PeerError::System { call, errno }
    };
    let peer = crate::syscall::sockets::peer_credentials(socket).map_err(failed(&"getsockopt SO_PEERCRED"))?;
    if peer.uid != rustix::process::geteuid().as_raw() {
        return Err(PeerError::Uid(peer.uid));
    }
    let process = open(socket, peer.pid)?;
    let place = match Pid::from_raw(peer.pid) {
        // The kernel reports pid 0 for a process that is neither in this PID namespace nor in one below it.
        None => Peer::Elsewhere("pid"),
        Some(pid) => place(pid)?,
    };
    // While the process is alive, its pid names no other process: the namespaces read above are those of the peer.
    if lives(&process).map_err(failed(&"poll the pidfd of the peer"))? { Ok(place) } else { Err(PeerError::Ended) }
}

/// Compares the namespaces of a process with those of this process.
fn place(pid: Pid) -> Result<Peer, PeerError> {
    let failed = |call: String| move |errno| PeerError::System { call, errno };
    let own = rustix::fs::open("/proc/self/ns", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open /proc/self/ns".to_owned()))?;
    for namespace in COMPARED {
        let theirs = format!("/proc/{}/ns/{namespace}", pid.as_raw_pid());
        let theirs = match identity(CWD, &theirs) {
            Ok(identity) => identity,
            // The process has ended: its pid names no process.
            Err(Errno::NOENT | Errno::SRCH) => return Err(PeerError::Ended),
            // The peer is in a user namespace above, or cannot be traced for another reason (`ptrace(2)`).
            Err(Errno::ACCESS | Errno::PERM) => return Ok(Peer::Elsewhere(namespace)),
            Err(errno) => return Err(failed(format!("stat {theirs}"))(errno)),
        };
        let ours = identity(own.as_fd(), namespace).map_err(failed(format!("stat /proc/self/ns/{namespace}")))?;
        if theirs != ours {
            return Ok(Peer::Elsewhere(namespace));
        }
    }
    Ok(Peer::Here)
}

/// Opens a pidfd of the process that connected `socket`. Kernels before Linux 6.5 lack `SO_PEERPIDFD` and report only the pid.
fn open(socket: BorrowedFd<'_>, pid: i32) -> Result<OwnedFd, PeerError> {
    let opened = match crate::syscall::sockets::peer_pidfd(socket) {
        Err(Errno::NOPROTOOPT) => open_by_number(socket, Pid::from_raw(pid).ok_or(PeerError::Invisible)?),
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        // A process that has ended and was reaped: EINVAL before Linux 6.16, later ESRCH (`pidfd_prepare` in `kernel/fork.c`).
        Errno::SRCH | Errno::INVAL => PeerError::Ended,
        errno => PeerError::System { call: "open a pidfd of the peer".to_owned(), errno },
    })
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
