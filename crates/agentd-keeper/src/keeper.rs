//! The keeper's process: its lock, its socket, its end.

use crate::{connection::Connection, error::KeeperError, live::Slots, serve::Keeper};
use agentd_kernel::mount::OwnMounts;
use agentd_sandboxes::State;
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
    net::SocketFlags,
};
use std::{
    fs::DirBuilder,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

/// Where its lock and its socket are, in the folder of the sandboxes.
const FOLDER: &str = "keeper";
const LOCK: &str = "lock";
const SOCKET: &str = "socket";

/// How often it looks for what is over.
const TICK: Duration = Duration::from_secs(1);

/// How long it stays when nothing lives and nobody asks.
const IDLE: Duration = Duration::from_secs(5);

/// Keeps the sandboxes below `place` until nothing of them lives and nobody has asked for anything for some seconds, or a signal ends it
/// (SIGTERM, SIGINT). At once when another keeper has them already. Disks with a limit are mounted in `own`, if there is one.
///
/// # Errors
/// [`KeeperError::Unreachable`] when it cannot have its lock or its socket.
pub async fn keep(place: &Path, own: Option<OwnMounts>) -> Result<(), KeeperError> {
    // Of what its first client left it, this is in the way of all others.
    rustix::process::umask(Mode::from(0o022));
    let failed = |context| move |source| KeeperError::Unreachable { place: place.to_path_buf(), context, source };
    let state = Arc::new(match own {
        Some(own) => State::open_with_volumes(place, own)?,
        None => State::open(place)?,
    });
    let folder = open_folder(place).map_err(failed("open"))?;
    // Given up by the kernel, however this process ends.
    let lock =
        rustix::fs::openat(&folder, LOCK, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from(0o600))
            .map_err(|e| failed("open its lock")(e.into()))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(()),
        Err(errno) => return Err(failed("take its lock")(errno.into())),
    }
    // For whoever looks for it; the lock is what counts.
    let pid = format!("{}\n", std::process::id());
    rustix::fs::ftruncate(&lock, 0)
        .and_then(|()| rustix::io::write(&lock, pid.as_bytes()))
        .map_err(|e| failed("write its lock")(e.into()))?;
    // It has pipes to each of its sandboxes.
    agentd_kernel::rlimit::raise_open_files(None);
    // The terminal's signals are for its client.
    rustix::process::setsid().ok();
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()]
        .map(signal)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("wait for signals"))?;
    let mut listener = listen(&folder).map_err(failed("listen on its socket"))?;
    let keeper = Arc::new(Keeper { state, slots: Slots::new() });
    let served = Arc::new(());
    let mut asked = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            client = accept(&listener) => {
                asked = Instant::now();
                if let Ok(client) = client {
                    serve(&keeper, &served, client);
                }
            }
            _ = tick.tick() => {
                let busy = keeper.look_after().await || Arc::strong_count(&served) > 1;
                if busy {
                    asked = Instant::now();
                } else if asked.elapsed() >= IDLE {
                    // No new client finds it then; who has found it just before is served yet.
                    forget(&folder);
                    let late = waiting(&listener);
                    if late.is_empty() {
                        break;
                    }
                    listener = listen(&folder).map_err(failed("listen on its socket"))?;
                    for client in late {
                        serve(&keeper, &served, client);
                    }
                    asked = Instant::now();
                }
            }
            () = any(&mut ends) => break,
        }
    }
    // While it still has the lock: who finds nobody listening starts the next keeper, which waits for that.
    forget(&folder);
    keeper.end().await;
    drop(lock);
    Ok(())
}

/// Serves a client beside all others; `served` has a holder for each.
fn serve(keeper: &Arc<Keeper>, served: &Arc<()>, client: Connection) {
    let (keeper, served) = (keeper.clone(), served.clone());
    tokio::spawn(async move {
        keeper.serve(client).await;
        drop(served);
    });
}

/// Takes the socket's name away.
fn forget(folder: &OwnedFd) {
    rustix::fs::unlinkat(folder, SOCKET, AtFlags::empty()).ok();
}

/// The clients that have connected and were not accepted yet.
fn waiting(listener: &UnixListener) -> Vec<Connection> {
    let next = || rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok();
    std::iter::from_fn(next).filter_map(|socket| admit(socket.into()).ok()).collect()
}

async fn any(signals: &mut [tokio::signal::unix::Signal]) {
    std::future::poll_fn(|context| {
        if signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}

/// The folder by which its socket is reached, made where it is not: a socket's path has at most 107 bytes (`unix(7)`), the folder's may have
/// more.
pub(crate) fn open_folder(place: &Path) -> io::Result<OwnedFd> {
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

fn listen(folder: &OwnedFd) -> io::Result<UnixListener> {
    // One that a dead keeper left: whoever has the lock is alone.
    match rustix::fs::unlinkat(folder, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    UnixListener::bind(address(folder))
}

/// A connection to the keeper that listens in `folder`.
pub(crate) fn connect(folder: &OwnedFd) -> io::Result<UnixStream> {
    UnixStream::connect(address(folder))
}

async fn accept(listener: &UnixListener) -> io::Result<Connection> {
    let (socket, _) = listener.accept().await?;
    admit(socket.into_std()?)
}

fn admit(socket: UnixStream) -> io::Result<Connection> {
    // The folder is the user's alone; this is for the day it is not (`unix(7)`, SO_PEERCRED).
    let peer = rustix::net::sockopt::socket_peercred(&socket)?.uid;
    if peer != rustix::process::geteuid() && !peer.is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Connection::new(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_connected_before_the_end_is_found() {
        let place = tempfile::tempdir().unwrap();
        let folder = open_folder(place.path()).unwrap();
        let listener = listen(&folder).unwrap();
        let clients = [(); 3].map(|()| connect(&folder).unwrap());
        forget(&folder);
        assert!(connect(&folder).is_err());
        assert_eq!(waiting(&listener).len(), clients.len());
        assert!(waiting(&listener).is_empty());
    }
}
