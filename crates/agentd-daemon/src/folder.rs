//! The folder of the daemon, through which clients find its lock and its socket.

use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::DirBuilder,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// Folder of the lock, the log and the socket, below the folder of the sandboxes. The name must not change: daemons of
/// all versions lock the same file.
pub(crate) const FOLDER: &str = "keeper";
pub(crate) const LOCK: &str = "lock";
const SOCKET: &str = "socket";

/// Opens the folder through which the socket is reached, and creates the folder if necessary. A socket's path has at most 107
/// bytes (`unix(7)`); the folder's path may be longer.
pub(crate) fn open(place: &Path) -> io::Result<OwnedFd> {
    let place = place.join(FOLDER);
    match DirBuilder::new().mode(0o700).create(&place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    Ok(rustix::fs::open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn address(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

/// Listens on the socket.
pub(crate) fn listen(folder: &OwnedFd) -> io::Result<UnixListener> {
    // Removes the socket that a dead daemon left. The lock ensures that no other daemon is using it.
    match rustix::fs::unlinkat(folder, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    UnixListener::bind(address(folder))
}

/// Connects to the daemon that listens in `folder`.
pub(crate) fn connect(folder: &OwnedFd) -> io::Result<UnixStream> {
    UnixStream::connect(address(folder))
}

/// Opens the lock of the daemon to inspect it; returns `None` if no daemon has run yet.
pub(crate) fn open_lock(folder: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(folder, LOCK, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(lock) => Ok(Some(lock)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns the path of the daemon's folder, for messages.
pub(crate) fn path_of(place: &Path) -> PathBuf {
    place.join(FOLDER)
}

/// Removes the name of the socket.
pub(crate) fn forget(folder: &OwnedFd) {
    rustix::fs::unlinkat(folder, SOCKET, AtFlags::empty()).or_debug("remove socket", SOCKET);
}
