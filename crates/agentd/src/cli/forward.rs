//! `agentd sandbox forward`: publishes a port of a sandbox's loopback on this host.
//!
//! This process listens, with the rights of its user. For each connection, the daemon returns a socket that is connected to the
//! port in the sandbox. The forwarding ends with this process.

use super::{
    args::{ForwardedPort, LocalEnd},
    failure::Failure,
    stops::Stops,
    writer,
};
use agentd_daemon::{Client, DaemonError};
use agentd_sandboxes::{Name, SandboxStore};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use std::{
    collections::HashSet,
    ffi::OsString,
    io::{self, Write},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};

/// The maximum number of concurrent connections. Further connections wait in the kernel.
const MAX_CONNECTIONS: usize = 256;

/// The maximum number of different connection errors that are printed.
const MAX_ERRORS: usize = 16;

/// The pause after a failed accept(2), so that a permanent failure does not occupy a processor.
const PAUSE: Duration = Duration::from_millis(100);

/// Publishes a port until a signal arrives.
pub(crate) async fn forward(client: Client, state: &SandboxStore, name: Name, to: ForwardedPort) -> Result<(), Failure> {
    state.record(&name)?;
    let mut stops = Stops::new()?;
    let published = Published::listen(&to.local).await?;
    writeln!(io::stdout(), "listening on {}", published.place)?;
    io::stdout().flush()?;
    let forwarded = Arc::new(Forwarded { client, name, port: to.port, errors: Mutex::default() });
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let all = async {
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            let accepted = published.accept().await;
            let forwarded = forwarded.clone();
            match accepted {
                Ok(stream) => drop(tokio::spawn(async move {
                    match stream {
                        LocalStream::Tcp(stream) => forwarded.carry(stream).await,
                        LocalStream::Unix(stream) => forwarded.carry(stream).await,
                    }
                    drop(permit);
                })),
                Err(error) => {
                    forwarded.report(format!("accept a connection: {error} — raise the limit of open files (`ulimit -n`)"));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = all => {}
        _ = stops.next() => {}
    }
    Ok(())
}

/// A port of a sandbox that is published.
struct Forwarded {
    client: Client,
    name: Name,
    port: u16,
    /// The errors that were printed.
    errors: Mutex<HashSet<String>>,
}

impl Forwarded {
    /// Connects to the port in the sandbox, and copies bytes in both directions until both have ended.
    async fn carry(&self, mut local: impl AsyncRead + AsyncWrite + Unpin) {
        match self.connect().await {
            Ok(mut inside) => {
                // A connection that one side resets is not reported: the other side sees the end.
                let _ = copy_bidirectional(&mut local, &mut inside).await;
            }
            Err(error) => self.report(error.to_string()),
        }
    }

    async fn connect(&self) -> Result<TcpStream, DaemonError> {
        let socket = self.client.connect_to(&self.name, self.port).await?;
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket));
        let stream =
            stream.map_err(|error| DaemonError::Refused(format!("use the socket of the sandbox: {error} — try again")))?;
        // Small writes must be sent immediately. If the call fails, the connection has ended.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Prints an error once.
    fn report(&self, error: String) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < MAX_ERRORS && errors.insert(error.clone()) {
            writer::message(format_args!("{error}"));
        }
    }
}

/// A listening socket of this host.
struct Published {
    listener: LocalListener,
    /// The address or path that is printed.
    place: String,
    /// Removed at the end.
    _path: Option<SocketFile>,
}

enum LocalListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum LocalStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The file of a Unix socket, which is removed when the value is dropped. Its directory is opened before, because a command that
/// may change the directory could put a link in its place.
struct SocketFile {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl SocketFile {
    /// Creates a socket that only this user may connect to.
    fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mask = rustix::process::umask(Mode::from(0o177));
        let listener = UnixListener::bind(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(&name));
        rustix::process::umask(mask);
        Ok((listener?, Self { directory, name, path: path.to_path_buf() }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(errno) = unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            let error = io::Error::from(errno);
            writer::message(format_args!("remove {}: {error} — remove this file yourself", self.path.display()));
        }
    }
}

impl Published {
    async fn listen(local: &LocalEnd) -> Result<Self, Failure> {
        match local {
            LocalEnd::Loopback(address) => {
                let failed =
                    |error: io::Error| format!("listen on {address}: {error} — choose another port, as in 8080:127.0.0.1:9090");
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let place = listener.local_addr().map_err(failed)?.to_string();
                Ok(Self { listener: LocalListener::Tcp(listener), place, _path: None })
            }
            LocalEnd::Socket(path) => {
                let place = path.display().to_string();
                let (listener, file) = SocketFile::bind(path).map_err(|error| {
                    format!("listen on {place}: {error} — choose an unused path in a directory to which you may write")
                })?;
                Ok(Self { listener: LocalListener::Unix(listener), place, _path: Some(file) })
            }
        }
    }

    async fn accept(&self) -> io::Result<LocalStream> {
        Ok(match &self.listener {
            LocalListener::Tcp(listener) => LocalStream::Tcp(listener.accept().await?.0),
            LocalListener::Unix(listener) => LocalStream::Unix(listener.accept().await?.0),
        })
    }
}
