//! Process 1 of a machine: mounts what it needs, puts the machine's own disk over the shared root, listens, and tells the host so.
//!
//! It is this same program, executed by the kernel from the initramfs. Nothing foreign runs before all of this is done, and an error is
//! told to the host and ends the machine.

use crate::{guest, ready};
use agentd_core::{IsolationError, Layer, LayerError};
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

/// A word of the kernel's command line that it does not know, and so is a variable of process 1's environment
/// (`Documentation/admin-guide/kernel-parameters.rst`).
pub(super) const VARIABLE: &str = "AGENTD_GUEST";

/// Where it keeps a connection to the host, its *lifeline*. When that breaks, all others have broken, because the machine has been saved
/// or started anew from what was saved; then there is another one.
pub(super) const READY_PORT: u32 = 53;

/// Where the agent listens first. After each end of its lifeline it listens at the next port: what it has not closed yet of before cannot
/// be taken for what comes then, although a Firecracker that starts numbers its connections as the one before did.
const FIRST_PORT: u32 = 1024;

/// What it says first over its lifeline when it listens, before the port and the end of the line. Anything else is why it does not.
const READY: &str = "ready ";

/// At which port the agent listens that has said this.
pub(super) fn port(said: &[u8]) -> Option<u32> {
    std::str::from_utf8(said).ok()?.strip_prefix(READY)?.strip_suffix('\n')?.parse().ok()
}

/// The new root of process 1, which is small and in memory. The sandbox's root is not it, but [`GUEST`] below it.
const AGENT: &str = "/agent";

/// What becomes the sandbox's root, in process 1's.
const GUEST: &str = "guest";

/// Where copies of what is granted lie: on the machine's own disk, and in no sandbox's root.
pub(super) const COPIES: &str = "/disk/copies";

/// Whether this process is process 1 of a machine.
pub(crate) fn is_wanted() -> bool {
    std::process::id() == 1 && std::env::var_os(VARIABLE).is_some()
}

/// Serves until the host says that it is enough, and ends the machine.
pub(crate) fn main() -> ! {
    if let Err(error) = run() {
        tell(&error.to_string());
    }
    rustix::fs::sync();
    loop {
        // With `reboot=k` it is what makes Firecracker exit. It does not return.
        rustix::system::reboot(RebootCommand::Restart).ok();
    }
}

fn run() -> Result<(), IsolationError> {
    prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| IsolationError::Io { context: "start a runtime".to_owned(), source })?;
    runtime
        .block_on(async {
            let root = Path::new("/").join(GUEST);
            // The host saves the machine when it hears that the agent listens.
            guest::rehearse(&root).await.map_err(io::Error::other)?;
            let (listens, listener) = watch::channel(Arc::new(listen(FIRST_PORT)?));
            tokio::select! {
                served = guest::serve(|| accept(listener.clone()), root) => served,
                error = lifeline(listens) => Err(error),
            }
        })
        .map_err(|source| IsolationError::Io { context: "serve the host".to_owned(), source })
}

type Listener = AsyncFd<OwnedFd>;

fn listen(port: u32) -> io::Result<Listener> {
    ready::owned(vsock::listen(port).map_err(io::Error::other)?, Interest::READABLE)
}

/// Keeps the host told where the agent can be reached; returns why that is not possible any more.
async fn lifeline(listens: watch::Sender<Arc<Listener>>) -> io::Error {
    for port in FIRST_PORT.. {
        let said = async {
            if port > FIRST_PORT {
                listens.send_replace(Arc::new(listen(port)?));
            }
            // It waits no longer than Firecracker takes to connect.
            let host = vsock::connect(vsock::HOST, READY_PORT).map_err(io::Error::other)?;
            rustix::io::ioctl_fionbio(&host, true)?;
            let mut host = UnixStream::from_std(host.into())?;
            host.write_all(format!("{READY}{port}\n").as_bytes()).await?;
            // The host says nothing: this is its end. A connection that was reset has an error, and cannot be read.
            host.ready(Interest::READABLE | Interest::ERROR).await.map(drop)
        };
        if let Err(error) = said.await {
            return error;
        }
    }
    io::Error::other("there are no more ports")
}

/// The next connection, wherever the agent listens then.
async fn accept(mut listener: watch::Receiver<Arc<Listener>>) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    loop {
        let now = listener.borrow_and_update().clone();
        tokio::select! {
            accepted = accept_at(&now) => return accepted,
            changed = listener.changed() => changed.map_err(io::Error::other)?,
        }
    }
}

async fn accept_at(listener: &Listener) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    loop {
        let mut guard = listener.readable().await?;
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // To read and write a stream it does not matter what its addresses are like.
            Ok(stream) => return Ok(UnixStream::from_std(stream.into())?.into_split()),
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Tells the host why there is no agent. Where that fails too, the host sees the machine end.
fn tell(why: &str) {
    if let Ok(host) = vsock::connect(vsock::HOST, READY_PORT) {
        rustix::io::write(&host, why.as_bytes()).ok();
    }
}

/// Makes the machine ready.
fn prepare() -> Result<(), LayerError> {
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
    // What the initramfs holds is needed no more; what runs of it stays until it ends.
    fs::remove_dir_all("/modules").ok();
    fs::remove_file("/init").ok();
    // No pivot_root, because the first root cannot be left so (`pivot_root(2)`).
    rustix::process::chdir(AGENT).map_err(|errno| failed("chdir to the new root".to_owned(), errno))?;
    mount_move(AGENT, "/").map_err(|errno| failed("move the new root".to_owned(), errno))?;
    rustix::process::chroot(".").map_err(|errno| failed("chroot to the new root".to_owned(), errno))?;
    rustix::process::chdir("/").map_err(|errno| failed("chdir /".to_owned(), errno))?;
    Ok(())
}

fn failed(call: String, errno: Errno) -> LayerError {
    LayerError::new(Layer::Mounts, call, Some(errno.raw_os_error()))
}

fn make(path: &str) -> Result<(), LayerError> {
    match rustix::fs::mkdir(path, Mode::from(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(format!("mkdir {path}"), errno)),
    }
}

fn mount_at(source: &str, target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), LayerError> {
    let text = std::ffi::CString::new(options).map_err(|_| failed(format!("options {options}"), Errno::INVAL))?;
    mount(source, target, kind, flags, Some(text.as_c_str()))
        .map_err(|errno| failed(format!("mount {source} on {target}"), errno))
}

/// Those in the initramfs, in their order.
fn load_modules() -> Result<(), LayerError> {
    let folder = Path::new("/modules");
    let order = match fs::read_to_string(folder.join("order")) {
        Ok(order) => order,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LayerError::new(Layer::Process, "read /modules/order", error.raw_os_error())),
    };
    for name in order.lines() {
        let failed = |call: &str, errno: Errno| {
            LayerError::new(Layer::Process, format!("{call} the module {name}"), Some(errno.raw_os_error()))
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
    fn only_a_whole_line_is_a_port() {
        for (said, wanted) in [
            ("ready 1024\n", Some(1024)),
            ("ready 102", None),
            ("", None),
            ("ready x\n", None),
            ("mounts: mount /dev/vda on /agent/shared: No such device\n", None),
            ("ready 1\nready 2\n", None),
        ] {
            assert_eq!(port(said.as_bytes()), wanted, "{said}");
        }
    }
}
