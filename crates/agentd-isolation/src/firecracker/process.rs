//! The library's side of a warden: starts it, ends it, keeps the last of what is said.

use super::{
    config::unavailable,
    room::{self, Room},
};
use crate::ready;
use agentd_core::IsolationError;
use agentd_supervisor::launcher;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::watch,
};

/// Bytes of what is said that are kept.
const KEPT: usize = 4 << 10;

/// A warden, and with it a Firecracker. Dropped, it ends.
pub(super) struct Process {
    /// The room is emptied when this is closed.
    hold: AsyncFd<OwnedFd>,
    /// Whether the warden is gone.
    gone: watch::Receiver<bool>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts it. `lock` is the machine's, kept by it as long as it lives.
    pub(super) fn start(room: &Room, lock: File) -> Result<Self, IsolationError> {
        let failed = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let (hold, library) = room::socket().map_err(failed("make a socket"))?;
        let hold = ready::owned(hold, Interest::READABLE).map_err(failed("make a socket"))?;
        let (said, speaks) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe")(e.into()))?;
        rustix::io::ioctl_fionbio(&said, true).map_err(|e| failed("make a pipe")(e.into()))?;
        // Not by the name of its file, which may be another program by now.
        let image = image().map_err(failed("copy agentd"))?;
        let mut command = std::process::Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
        command.arg0(room::ROLE).args(room.to_args()).env_clear();
        command.stdin(library).stdout(Stdio::from(lock)).stderr(speaks);
        let mut child = tokio::process::Command::from(command).spawn().map_err(failed("start a warden"))?;
        let (gone, is_gone) = watch::channel(false);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let reader = pipe::Receiver::from_owned_fd(said).map_err(failed("read from a warden"))?;
        tokio::spawn(listen(reader, kept.clone()));
        tokio::spawn(async move {
            // It has been reaped, or there is nothing to reap.
            child.wait().await.ok();
            gone.send_replace(true);
        });
        Ok(Self { hold, gone: is_gone, said: kept })
    }

    /// Has a snapshot shown to Firecracker, and its disk given to it. Once.
    pub(super) async fn show(&self, snapshot: &Path) -> Result<(), IsolationError> {
        let failed = |source: io::Error| IsolationError::Io { context: "have a snapshot shown".to_owned(), source };
        rustix::net::send(&self.hold, snapshot.as_os_str().as_bytes(), SendFlags::NOSIGNAL).map_err(|e| failed(e.into()))?;
        let mut answer = [0; room::SHOWN.len()];
        loop {
            let mut ready = self.hold.readable().await.map_err(failed)?;
            match rustix::net::recv(&self.hold, &mut answer[..], RecvFlags::DONTWAIT) {
                Ok(_) if answer == room::SHOWN => return Ok(()),
                Ok(_) => {
                    self.gone().await;
                    return Err(unavailable(format!("a snapshot could not be shown: {}", self.said())));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Has it end; does not wait.
    pub(super) fn end(&self) {
        // It is the same to the room as a library that is gone. One whose room is gone has ended.
        rustix::net::shutdown(&self.hold, Shutdown::Both).ok();
    }

    /// Waits until nothing of it is left.
    pub(super) async fn gone(&self) {
        // The sender says so before it goes; when it goes without, the runtime is ending.
        self.gone.clone().wait_for(|gone| *gone).await.ok();
    }

    /// The last of what warden and Firecracker said.
    pub(super) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).trim().to_owned()
    }
}

/// This program, copied once: it is the same one all the time.
fn image() -> io::Result<&'static OwnedFd> {
    static IMAGE: OnceLock<OwnedFd> = OnceLock::new();
    match IMAGE.get() {
        Some(image) => Ok(image),
        None => {
            let image = launcher::sealed_image()?;
            Ok(IMAGE.get_or_init(|| image))
        }
    }
}

async fn listen(mut from: pipe::Receiver, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..read]);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }
}
