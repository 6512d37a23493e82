//! Verification of the process at the other end of a Unix socket (`unix(7)`).
//!
//! A uid does not identify a client, because the payload of an unprivileged user's sandbox has the uid of that user. Namespaces
//! identify a client. A payload runs in its own user and PID namespaces and cannot leave them (`setns(2)` needs capabilities in
//! the target namespace). A peer in other namespaces needs a further proof that it is not a payload. The caller decides which
//! proof.
//!
//! A peer in the same user and PID namespaces may still be in another mount or network namespace. Such a peer is not a payload,
//! but what it finds out about the host may be false for this process.

use crate::{
    mount::OwnMounts,
    proc::{self, ForeignProc},
};
use agentd_disk::is_ambiguous_uid;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

/// The kinds of namespaces that no payload shares with this process, as in `/proc/PID/ns`.
const OF_PAYLOADS: [&str; 2] = ["user", "pid"];

/// The kinds of namespaces on which the boundary of a sandbox depends, besides those above.
const OTHERS: [&str; 4] = ["mnt", "net", "ipc", "cgroup"];

/// The place of a peer that is alive and has the effective uid of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The peer is in all namespaces of this process on which the boundary of a sandbox depends.
    SameNamespaces,
    /// The peer is in the user and PID namespaces of this process, but in another namespace of this kind.
    DiffersIn(&'static str),
    /// The peer may be the payload of a sandbox.
    OtherNamespaces(OtherNamespaces),
}

/// The place of a peer in another user or PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherNamespaces {
    /// The kind of namespace that differs, or that this process may not inspect.
    pub namespace: &'static str,
    /// The namespaces of the peer, if this process may inspect them.
    pub origin: Option<PeerNamespaces>,
}

/// The user and PID namespaces of a peer. No process can leave them for those of another payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerNamespaces([NamespaceId; 2]);

/// The device and inode of a namespace file, which identify the namespace (`namespaces(7)`).
type NamespaceId = (u64, u64);

/// The reason why a peer is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer runs as another user.
    #[error(
        "verify the peer of the socket: the peer runs as uid {0}, not as uid {own} — run client and daemon as the same user",
        own = rustix::process::geteuid().as_raw()
    )]
    Uid(u32),
    /// The uid of the peer equals that of this process only because the kernel reports many users with it.
    #[error(
        "verify the peer of the socket: uid {0} stands for every user that is not mapped in the user namespace, so the peer may \
         be any of them — run client and daemon as a user that is mapped"
    )]
    Unmapped(u32),
    /// The peer ended after it connected, so that nothing about it can be verified.
    #[error("verify the peer of the socket: the process that connected has ended")]
    Ended,
    /// The peer has no pid in the PID namespace of this process, and the kernel provides no pidfd of it.
    #[error(
        "verify the peer of the socket: the peer is in another PID namespace, and this kernel cannot report whether the peer is \
         alive (Linux 6.5 can) — run client and daemon in the same PID namespace"
    )]
    Invisible,
    /// The namespaces of the peer cannot be read.
    #[error("verify the peer of the socket: {0}")]
    Proc(#[from] ForeignProc),
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
/// Returns which namespaces it shares with this process. If this process has a private mount namespace, `own`, a peer in the
/// namespace from which it was copied is treated as a peer in this mount namespace.
///
/// A peer in another user namespace has the uid to which the kernel maps its uid in the user namespace of this process.
///
/// # Errors
/// A [`PeerError`] for a peer that has ended or has another uid, and if this cannot be verified.
pub fn verify(socket: BorrowedFd<'_>, own: Option<&OwnMounts>) -> Result<Peer, PeerError> {
    let peer = crate::syscall::sockets::peer_credentials(socket).map_err(failed(format_args!("getsockopt SO_PEERCRED")))?;
    if peer.uid != rustix::process::geteuid().as_raw() {
        return Err(PeerError::Uid(peer.uid));
    }
    if is_ambiguous_uid(peer.uid) {
        return Err(PeerError::Unmapped(peer.uid));
    }
    let process = open(socket, peer.pid)?;
    let place = match Pid::from_raw(peer.pid) {
        // The kernel reports pid 0 for a process that is neither in this PID namespace nor in one below it.
        None => Peer::OtherNamespaces(OtherNamespaces { namespace: "pid", origin: None }),
        Some(pid) => compare_namespaces(pid, own)?,
    };
    // While the process is alive, its pid names no other process: the namespaces read above are those of the peer. If the process
    // has ended, the namespaces may belong to another process.
    if lives(&process).map_err(failed(format_args!("poll the pidfd of the peer")))? { Ok(place) } else { Err(PeerError::Ended) }
}

/// Compares the namespaces of a process with those of this process.
fn compare_namespaces(pid: Pid, own: Option<&OwnMounts>) -> Result<Peer, PeerError> {
    let process = proc::directory_of(pid.as_raw_pid())?;
    for namespace in OF_PAYLOADS {
        if differs(&process, namespace)? {
            let [user, pid] = OF_PAYLOADS.map(|namespace| identity(&process, namespace));
            let origin = user?.zip(pid?).map(|(user, pid)| PeerNamespaces([user, pid]));
            return Ok(Peer::OtherNamespaces(OtherNamespaces { namespace, origin }));
        }
    }
    for namespace in OTHERS {
        let copied = if namespace == "mnt" { own.map(copied).transpose()? } else { None };
        let is_copied = copied.is_some() && identity(&process, namespace)? == copied;
        if !is_copied && differs(&process, namespace)? {
            return Ok(Peer::DiffersIn(namespace));
        }
    }
    Ok(Peer::SameNamespaces)
}

/// Returns true if a process is in a namespace of this kind other than that of this process, or may not be inspected by this
/// process.
fn differs(process: &Path, kind: &str) -> Result<bool, PeerError> {
    let own = Path::new("/proc/thread-self/ns").join(kind);
    match rustix::fs::stat(&own) {
        Ok(own) => Ok(identity(process, kind)? != Some((own.st_dev, own.st_ino))),
        // The kernel has no namespaces of this kind.
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(format_args!("stat {}", own.display()))(errno)),
    }
}

/// Returns the namespace of a process, or `None` if this process may not inspect it. The other process then is in a user
/// namespace above, cannot be traced for another reason (`ptrace(2)`), or has ended.
fn identity(process: &Path, kind: &str) -> Result<Option<NamespaceId>, PeerError> {
    let path = process.join("ns").join(kind);
    match rustix::fs::stat(&path) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(errno) => Err(failed(format_args!("stat {}", path.display()))(errno)),
    }
}

/// Returns the mount namespace from which the mounts of this process were copied.
fn copied(own: &OwnMounts) -> Result<NamespaceId, PeerError> {
    let stat = rustix::fs::fstat(own.copied()).map_err(failed(format_args!("stat the copied mount namespace")))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Returns a function that adds the failed call to an errno.
fn failed(call: fmt::Arguments<'_>) -> impl FnOnce(Errno) -> PeerError + use<> {
    let call = call.to_string();
    move |errno| PeerError::System { call, errno }
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

/// Returns true if the process of a pidfd has not ended. A zombie has ended (`pidfd_open(2)`).
fn lives(process: &OwnedFd) -> Result<bool, Errno> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    Ok(poll(&mut ended, Some(&Timespec::default()))? == 0)
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
