//! Process 1 of a guest: mounts the file systems, overlays the machine's own disk on the shared root, listens for the host, and
//! reports the port to the host.
//!
//! The kernel executes this program, agentd's own, from the initramfs. No other program runs before the setup is complete. On an
//! error, it reports the error to the host and ends the machine.

use crate::small_writes::SmallWrites;
use agentd_core::{Control, ControlError, IsolationError};
use agentd_isolation::ready;
use agentd_kernel::{namespace, vsock};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, mount, mount_move},
    net::SocketFlags,
    system::RebootCommand,
};
use std::{fs, io, os::fd::OwnedFd, path::Path, sync::Arc};
use tokio::{
    io::{AsyncWriteExt, Interest, unix::AsyncFd},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// The host's vsock port for the *control connection*, which the agent keeps open. If it breaks, all other connections are also
/// broken, because the machine was saved, or resumed from a snapshot. The agent then opens a new control connection.
pub(super) const READY_PORT: u32 = 53;

/// The agent's first vsock port. After each end of the control connection, the agent listens at the next port. Firecracker may
/// reuse connection numbers after a resume; with a new port, an old connection that is not yet closed cannot be confused with a
/// new one.
const FIRST_PORT: u32 = 1024;

/// The first word on the control connection when the agent listens; the port and a line feed follow. Any other text is the reason
/// why the agent does not listen.
const READY: &str = "ready ";

/// Returns the port in a complete ready line; `None` for any other text.
pub(super) fn port(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line).ok()?.strip_prefix(READY)?.strip_suffix('\n')?.parse().ok()
}

/// The new root of process 1, a tmpfs. The root of the sandbox is [`GUEST`] below it.
const AGENT: &str = "/agent";

/// The root of the sandbox, in the root of process 1.
const GUEST: &str = "guest";

/// The directory with the copies of the grants. It is on the machine's own disk, and outside the root of every sandbox.
pub(super) const COPIES: &str = "/disk/copies";

/// Serves the host until the host ends the session or an error occurs, then ends the machine.
pub(crate) fn main() -> ! {
    if let Err(error) = run() {
        report_failure(&error.to_string());
    }
    rustix::fs::sync();
    loop {
        // With `reboot=k`, a restart makes Firecracker exit. A successful call does not return; after a failure, try again.
        rustix::system::reboot(RebootCommand::Restart).ok();
    }
}

fn run() -> Result<(), IsolationError> {
    prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| IsolationError::Io { context: "start the async runtime of the guest agent".to_owned(), source })?;
    runtime
        .block_on(async {
            let root = Path::new("/").join(GUEST);
            // Warm up before reporting the port: the host saves a template as soon as the agent has reported that it listens.
            agentd_guest::warm_up(&root).await.map_err(io::Error::other)?;
            let (listens, listener) = watch::channel(Arc::new(listen(FIRST_PORT)?));
            tokio::select! {
                served = agentd_guest::serve(|| accept(listener.clone()), root) => served,
                error = control_connection(listens) => Err(error),
            }
        })
        .map_err(|source| IsolationError::Io { context: "serve the host".to_owned(), source })
}

type Listener = AsyncFd<OwnedFd>;

fn listen(port: u32) -> io::Result<Listener> {
    ready::owned(vsock::listen(port).map_err(io::Error::other)?, Interest::READABLE)
}

/// Keeps a control connection to the host that reports the agent's port. Returns only on an error.
async fn control_connection(listens: watch::Sender<Arc<Listener>>) -> io::Error {
    for port in FIRST_PORT.. {
        let connection = async {
            if port > FIRST_PORT {
                listens.send_replace(Arc::new(listen(port)?));
            }
            // The blocking connect waits only until Firecracker has connected to the host's socket.
            let host = vsock::connect(vsock::HOST, READY_PORT).map_err(io::Error::other)?;
            rustix::io::ioctl_fionbio(&host, true)?;
            let mut host = UnixStream::from_std(host.into())?;
            host.write_all(format!("{READY}{port}\n").as_bytes()).await?;
            // The host sends nothing, so the stream becomes readable only at its end. A connection that was reset has an error,
            // and cannot be read.
            host.ready(Interest::READABLE | Interest::ERROR).await.map(drop)
        };
        if let Err(error) = connection.await {
            return error;
        }
    }
    io::Error::other("listen on vsock: every port has been used")
}

/// Accepts the next connection, at the current port.
async fn accept(mut listener: watch::Receiver<Arc<Listener>>) -> io::Result<(OwnedReadHalf, SmallWrites<OwnedWriteHalf>)> {
    loop {
        let now = listener.borrow_and_update().clone();
        tokio::select! {
            accepted = accept_at(&now) => return accepted,
            changed = listener.changed() => changed.map_err(io::Error::other)?,
        }
    }
}

async fn accept_at(listener: &Listener) -> io::Result<(OwnedReadHalf, SmallWrites<OwnedWriteHalf>)> {
    loop {
        let mut guard = listener.readable().await?;
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // The stream type does not matter: reads and writes do not use the address family.
            Ok(stream) => {
                let (reader, writer) = UnixStream::from_std(stream.into())?.into_split();
                return Ok((reader, SmallWrites(writer)));
            }
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reports to the host why there is no agent. If that also fails, the host still notices that the machine ends.
fn report_failure(why: &str) {
    if let Ok(host) = vsock::connect(vsock::HOST, READY_PORT) {
        // There is no other channel to the host, and this process has no log.
        rustix::io::write(&host, why.as_bytes()).ok();
    }
}

/// Mounts the guest's file systems, loads the modules, and makes [`AGENT`] the root.
fn prepare() -> Result<(), ControlError> {
    for (name, kind) in [("/proc", "proc"), ("/dev", "devtmpfs"), ("/sys", "sysfs")] {
        make(name)?;
        mount_at(kind, name, kind, MountFlags::NOSUID, "")?;
    }
    make("/dev/shm")?;
    mount_at("tmpfs", "/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "mode=1777")?;
    load_modules()?;
    namespace::loopback_up()?;
    make(AGENT)?;
    mount_at("tmpfs", AGENT, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=0700")?;
    let below = |name: &str| format!("{AGENT}/{name}");
    for name in ["proc", "dev", "sys", "tmp", "shared", "disk", GUEST] {
        make(&below(name))?;
    }
    mount_at("/dev/vda", &below("shared"), "ext4", MountFlags::RDONLY, "")?;
    mount_at("/dev/vdb", &below("disk"), "ext4", MountFlags::empty(), "discard,noinit_itable")?;
    make(&below("disk/changes"))?;
    make(&below("disk/work"))?;
    let options = format!("lowerdir={AGENT}/shared,upperdir={AGENT}/disk/changes,workdir={AGENT}/disk/work,volatile");
    mount_at("overlay", &below(GUEST), "overlay", MountFlags::empty(), &options)?;
    mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::NOSUID | MountFlags::NODEV, "")?;
    for name in ["proc", "dev", "sys"] {
        let from = format!("/{name}");
        mount_move(&from, below(name)).map_err(|errno| failed(format!("move {from}"), errno))?;
    }
    // Free the memory of the initramfs. The running program stays in memory until it ends. A failure costs only that memory.
    fs::remove_dir_all("/modules").ok();
    fs::remove_file("/init").ok();
    // The first root cannot be replaced with `pivot_root` (`pivot_root(2)`), so move the new root onto `/`.
    rustix::process::chdir(AGENT).map_err(|errno| failed("chdir to the new root".to_owned(), errno))?;
    mount_move(AGENT, "/").map_err(|errno| failed("move the new root".to_owned(), errno))?;
    rustix::process::chroot(".").map_err(|errno| failed("chroot to the new root".to_owned(), errno))?;
    rustix::process::chdir("/").map_err(|errno| failed("chdir /".to_owned(), errno))?;
    Ok(())
}

fn failed(call: String, errno: Errno) -> ControlError {
    ControlError::new(Control::Mounts, call, Some(errno.raw_os_error()))
}

fn make(path: &str) -> Result<(), ControlError> {
    match rustix::fs::mkdir(path, Mode::from(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(format!("mkdir {path}"), errno)),
    }
}

fn mount_at(source: &str, target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), ControlError> {
    let text = std::ffi::CString::new(options)
        .map_err(|_| failed(format!("mount {source} on {target} with options {options:?}"), Errno::INVAL))?;
    mount(source, target, kind, flags, Some(text.as_c_str()))
        .map_err(|errno| failed(format!("mount {source} on {target}"), errno))
}

/// Loads the modules of the initramfs in the order of `modules/order`. Does nothing if that file is missing.
fn load_modules() -> Result<(), ControlError> {
    let folder = Path::new("/modules");
    let order = match fs::read_to_string(folder.join("order")) {
        Ok(order) => order,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ControlError::caused_by(Control::Process, "read /modules/order", error)),
    };
    for name in order.lines() {
        let failed = |call: &str, errno: Errno| {
            ControlError::new(Control::Process, format!("{call} the module {name}"), Some(errno.raw_os_error()))
        };
        let file = rustix::fs::open(folder.join(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed("open", errno))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("load", errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_incomplete_or_invalid_ready_line_is_none() {
        for (line, expected) in [
            ("ready 1024\n", Some(1024)),
            ("ready 102", None),
            ("", None),
            ("ready x\n", None),
            ("mounts: mount /dev/vda on /agent/shared: No such device\n", None),
            ("ready 1\nready 2\n", None),
        ] {
            assert_eq!(port(line.as_bytes()), expected, "{line}");
        }
    }
}
