//! The daemon process: its lock, its socket, its log, and its end.

use crate::{
    admission::{self, Candidate},
    boundary::Prove,
    daemon_log::LogFile,
    error::DaemonError,
    folder, key,
    protocol::VERSION,
    serve::Server,
};
use agentd_isolation::protect::Interrupt;
use agentd_kernel::mount::OwnMounts;
use agentd_log::LogFailure as _;
use agentd_sandboxes::SandboxStore;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    net::SocketFlags,
};
use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

/// Interval between two checks for sandboxes that are idle or whose time to live has expired.
const TICK: Duration = Duration::from_secs(1);

/// The time after which the daemon ends, if no sandbox has processes or a time to live, and no client connects.
const IDLE: Duration = Duration::from_secs(5);

/// Runs the daemon for the sandboxes below `place`. Returns after SIGTERM or SIGINT, or after a few seconds in which no sandbox
/// had processes or a time to live and no client connected. Returns immediately if another daemon holds the lock. Disks with a
/// limit are mounted in `own`, if there is one.
///
/// `prove` attacks a sandbox in the namespaces of this process. The daemon calls `prove` before a client creates a sandbox or
/// starts a command, unless the client is in these namespaces and has attacked a sandbox itself.
///
/// `start_log` receives the log file as soon as this process holds the lock, and directs the events of the process there.
///
/// # Errors
/// [`DaemonError::Unreachable`] if the daemon cannot open its lock, its log or its socket; [`DaemonError::Layered`] if the state
/// on disk cannot be opened.
pub async fn run(place: &Path, own: Option<OwnMounts>, prove: Prove, start_log: impl FnOnce(LogFile)) -> Result<(), DaemonError> {
    // Reset the file mode mask inherited from the first client: it would affect all other clients.
    rustix::process::umask(Mode::from(0o022));
    let failed = |context| move |source| DaemonError::Unreachable { place: place.to_path_buf(), context, source };
    let state = Arc::new(match own.clone() {
        Some(own) => SandboxStore::open_with_volumes(place, own)?,
        None => SandboxStore::open(place)?,
    });
    let folder = folder::open(place).map_err(failed("open the daemon's folder"))?;
    // The kernel releases the lock, however this process ends.
    let lock = rustix::fs::openat(
        &folder,
        folder::LOCK,
        OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::from(0o600),
    )
    .map_err(|e| failed("open the daemon's lock file")(e.into()))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(()),
        Err(errno) => return Err(failed("lock the daemon's lock file")(errno.into())),
    }
    // Written before anything else, so that a client that looks for the daemon by the lock does not find the previous process id.
    let pid = format!("{}\n", std::process::id());
    rustix::fs::ftruncate(&lock, 0)
        .and_then(|()| rustix::io::write(&lock, pid.as_bytes()))
        .map_err(|e| failed("write the daemon's lock file")(e.into()))?;
    start_log(LogFile::open(&folder).map_err(failed("open the daemon log"))?);
    tracing::info!(pid = std::process::id(), version = VERSION, place = ?place, "daemon started");
    let ended = serve_until_ended(place, &folder, Server::new(state, prove)?, own.as_ref()).await;
    match &ended {
        Ok(why) => tracing::info!(why, "daemon ended"),
        Err(error) => tracing::error!(%error, "daemon failed"),
    }
    drop(lock);
    ended.map(drop)
}

/// Serves clients until the daemon has to end; returns the reason for the end.
async fn serve_until_ended(
    place: &Path,
    folder: &OwnedFd,
    server: Server,
    own: Option<&OwnMounts>,
) -> Result<&'static str, DaemonError> {
    let failed = |context| move |source| DaemonError::Unreachable { place: place.to_path_buf(), context, source };
    // The daemon holds pipes to each of its sandboxes.
    agentd_kernel::rlimit::raise_open_files(None);
    // Terminal signals are meant for the client, not for the daemon.
    rustix::process::setsid().or_debug("create a session", "daemon");
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()]
        .map(signal)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("install the daemon's signal handlers"))?;
    key::create().or_warn("create the key for clients in other namespaces", "daemon");
    let mut listener = folder::listen(folder).map_err(failed("listen on the daemon's socket"))?;
    let server = Arc::new(server);
    let served = Arc::new(());
    let mut asked = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    let why = loop {
        tokio::select! {
            client = accept(&listener, own) => {
                asked = Instant::now();
                if let Some(client) = client.or_warn("accept client", "socket") {
                    serve(&server, &served, client);
                }
            }
            _ = tick.tick() => {
                let busy = server.expire_idle().await || Arc::strong_count(&served) > 1;
                if busy {
                    asked = Instant::now();
                } else if asked.elapsed() >= IDLE {
                    // New clients can no longer find the daemon; clients that have just connected are still served.
                    folder::forget(folder);
                    let late = waiting(&listener, own);
                    if late.is_empty() {
                        break "idle";
                    }
                    listener = folder::listen(folder).map_err(failed("listen on the daemon's socket"))?;
                    for client in late {
                        serve(&server, &served, client);
                    }
                    asked = Instant::now();
                }
            }
            () = any(&mut ends) => break "signal",
        }
    };
    // Remove the socket while the lock is still held. A client that finds no socket starts the next daemon, which waits for the
    // lock.
    folder::forget(folder);
    let interrupt = Interrupt::default();
    let mut ended = std::pin::pin!(server.end(&interrupt));
    tokio::select! {
        () = &mut ended => {}
        // A second signal ends the comparisons.
        () = any(&mut ends) => {
            interrupt.ask();
            ended.await;
        }
    }
    Ok(why)
}

/// Serves a client concurrently with all others; each client's task holds a reference to `served`.
fn serve(server: &Arc<Server>, served: &Arc<()>, client: Candidate) {
    let (server, served) = (server.clone(), served.clone());
    tokio::spawn(async move {
        server.serve(client).await;
        drop(served);
    });
}

/// Returns the clients that have connected but were not accepted yet.
fn waiting(listener: &UnixListener, own: Option<&OwnMounts>) -> Vec<Candidate> {
    let next = || match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Err(Errno::AGAIN) => None,
        accepted => accepted.or_warn("accept client", "socket"),
    };
    let verify = |socket: OwnedFd| admission::verify(socket.into(), own).or_warn("accept client", "socket");
    std::iter::from_fn(next).filter_map(verify).collect()
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

async fn accept(listener: &UnixListener, own: Option<&OwnMounts>) -> io::Result<Candidate> {
    let (socket, _) = listener.accept().await?;
    admission::verify(socket.into_std()?, own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_kernel::peer::Peer;

    #[tokio::test]
    async fn clients_that_connected_before_shutdown_are_accepted() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder::open(place.path()).unwrap();
        let listener = folder::listen(&folder).unwrap();
        let clients = [(); 3].map(|()| folder::connect(&folder).unwrap());
        folder::forget(&folder);
        assert!(folder::connect(&folder).is_err());
        assert_eq!(waiting(&listener, None).len(), clients.len());
        assert!(waiting(&listener, None).is_empty());
    }

    #[tokio::test]
    async fn client_in_a_child_user_namespace_is_recognised() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder::open(place.path()).unwrap();
        let listener = folder::listen(&folder).unwrap();
        let connects = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('socket'); sys.stdin.read()";
        for (before, is_here) in [(&[][..], true), (&["unshare", "--user"], false)] {
            let argv = [before, &["python3", "-c", connects]].concat();
            let mut client = std::process::Command::new(argv[0]);
            client.args(&argv[1..]).current_dir(place.path().join(folder::FOLDER)).stdin(std::process::Stdio::piped());
            let mut client = client.spawn().unwrap();
            let peer = accept(&listener, None).await.unwrap().peer;
            assert_eq!((peer == Peer::SameNamespaces, matches!(peer, Peer::OtherNamespaces(_))), (is_here, !is_here), "{argv:?}");
            drop(client.stdin.take());
            client.wait().unwrap();
        }
    }
}
