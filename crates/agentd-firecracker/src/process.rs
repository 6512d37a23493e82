//! The library's handle to a shim: starts and ends the shim, and keeps the last part of its output.

use super::{
    config::{REMEDY, unavailable},
    jail::{self, Jail},
};
use agentd_core::IsolationError;
use agentd_isolation::ready;
use agentd_log::LogFailure as _;
use agentd_supervisor::role::Role;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::watch,
    time::timeout,
};

/// The number of bytes of output that are kept.
const MAX_OUTPUT: usize = 4 << 10;

/// The time limit for reading the last output of a shim that has exited.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// A shim with its Firecracker. Both end when the handle is dropped.
pub(super) struct Process {
    /// The control socket. Closing it ends all processes in the jail.
    control: AsyncFd<OwnedFd>,
    /// Whether the shim has exited.
    gone: watch::Receiver<bool>,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts a shim. `lock` is the machine's lock file, which the shim holds until it exits.
    pub(super) fn start(jail: &Jail, lock: File) -> Result<Self, IsolationError> {
        let failed = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let (control, library) = jail::socket().map_err(failed("create the control socket of the jail"))?;
        let control = ready::owned(control, Interest::READABLE).map_err(failed("create the control socket of the jail"))?;
        let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| failed("create the output pipe of the shim")(e.into()))?;
        rustix::io::ioctl_fionbio(&read_end, true).map_err(|e| failed("create the output pipe of the shim")(e.into()))?;
        let mut command = Role::Shim.command()?;
        command.args(jail.to_args()).stdin(library).stdout(Stdio::from(lock)).stderr(write_end);
        let mut child = tokio::process::Command::from(command).spawn().map_err(failed("start the shim"))?;
        let (gone, is_gone) = watch::channel(false);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let reader = pipe::Receiver::from_owned_fd(read_end).map_err(failed("open the output pipe of the shim"))?;
        let listener = tokio::spawn(listen(reader, kept.clone()));
        tokio::spawn(async move {
            // The child has been reaped; an error means that there is nothing to reap.
            child.wait().await.or_debug("wait for shim", child.id());
            // No process of the jail is left, so the task waits only until the output of those processes has been read.
            timeout(READ_TIMEOUT, listener).await.or_debug("read output of shim", child.id());
            gone.send_replace(true);
        });
        Ok(Self { control, gone: is_gone, output: kept })
    }

    /// Has the jail init mount a snapshot in Firecracker's root and make Firecracker's user the owner of the disk. May be called
    /// once.
    pub(super) async fn mount_snapshot(&self, snapshot: &Path) -> Result<(), IsolationError> {
        let failed = |source: io::Error| IsolationError::Io { context: "mount a snapshot in the jail".to_owned(), source };
        rustix::net::send(&self.control, snapshot.as_os_str().as_bytes(), SendFlags::NOSIGNAL).map_err(|e| failed(e.into()))?;
        let mut answer = [0; jail::SHOWN.len()];
        loop {
            let mut ready = self.control.readable().await.map_err(failed)?;
            match rustix::net::recv(&self.control, &mut answer[..], RecvFlags::DONTWAIT) {
                Ok(_) if answer == jail::SHOWN => return Ok(()),
                Ok(_) => {
                    self.gone().await;
                    return Err(unavailable(format!("mount a snapshot in the jail: {} — {REMEDY}", self.log_tail())));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Ends shim and Firecracker without waiting.
    pub(super) fn end(&self) {
        // The jail init treats a shutdown like the death of the library. An error means that the jail init has exited already.
        rustix::net::shutdown(&self.control, Shutdown::Both).or_debug("end shim", &self.control);
    }

    /// Waits until the shim has exited, and with it all processes of the jail.
    pub(super) async fn gone(&self) {
        // The sender is dropped without a value only if the runtime is shutting down.
        self.gone.clone().wait_for(|gone| *gone).await.or_debug("wait for the end of shim", "firecracker");
    }

    /// Returns the last output of shim and Firecracker.
    pub(super) fn log_tail(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).trim().to_owned()
    }
}

async fn listen(mut from: pipe::Receiver, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..read]);
        let over = kept.len().saturating_sub(MAX_OUTPUT);
        kept.drain(..over);
    }
}
