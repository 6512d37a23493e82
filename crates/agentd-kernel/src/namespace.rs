//! Namespaces (`namespaces(7)`): which namespaces a sandbox gets, and the start of its first process in them.

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError, NetworkMode};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use syscall::processes::Cloned;

/// The host ids of a sandbox that has its own root and is created by root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// A range that no other live sandbox has.
    #[default]
    Dedicated,
    /// The same ids outside as inside, from 0 to 65535. Used in a virtual machine that runs only this sandbox, so that no mount
    /// needs an id map, which some file systems do not support.
    Identity,
}

/// The namespaces of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePlan {
    /// False if the sandbox has no namespaces. The supervisor is then an ordinary child process.
    pub enabled: bool,
    /// Network access; [`NetworkMode::Host`] keeps the network namespace of the host.
    pub network: NetworkMode,
    /// The host ids of the sandbox.
    pub ids: Ids,
}

/// Remedy for user namespaces that the kernel refuses to create.
const USER_NAMESPACES: &str = "allow user namespaces: set the sysctl user.max_user_namespaces above 0 and, where they exist, \
     kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0";

impl NamespacePlan {
    /// Returns the flags for `clone3(2)`. The network namespace is not among them: [`NetnsBuilder`] creates it concurrently.
    pub fn flags(&self) -> u64 {
        if !self.enabled {
            return 0;
        }
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        u64::from(flags.unsigned_abs())
    }

    /// Returns the names of the namespaces.
    pub fn describe(&self) -> String {
        match (self.enabled, self.network) {
            (false, _) => "none".to_owned(),
            (true, NetworkMode::Off | NetworkMode::Egress) => "user pid mount ipc uts cgroup net".to_owned(),
            (true, NetworkMode::Host) => "user pid mount ipc uts cgroup".to_owned(),
        }
    }
}

/// Starts a process in the planned namespaces and, on cgroup v2, in `cgroup`.
///
/// # Errors
/// The errno of `clone3(2)`.
///
/// # Safety
/// The caller must be single-threaded; see `fork(2)`.
pub unsafe fn start(plan: NamespacePlan, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, ControlError> {
    // SAFETY: the caller guarantees that this process is single-threaded, as `clone3` requires.
    unsafe { syscall::processes::clone3(plan.flags(), cgroup) }
        .during(Control::Namespaces, || format!("clone3 with {}", plan.describe()))
        .map_err(|error| error.remedy(USER_NAMESPACES))
}

/// Starts a process that isolates a program of the host in its own PID, mount, network, IPC and UTS namespaces. If not
/// `privileged`, the process also gets a user namespace. On cgroup v2 it starts in `cgroup`. When that process ends, the kernel
/// kills all others in the PID namespace.
///
/// # Errors
/// The errno of `clone3(2)`.
///
/// # Safety
/// The caller must be single-threaded, as for [`start`].
pub unsafe fn start_apart(privileged: bool, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, ControlError> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let flags = if privileged { flags } else { flags | libc::CLONE_NEWUSER };
    // SAFETY: the caller guarantees that this process is single-threaded, as `clone3` requires.
    unsafe { syscall::processes::clone3(u64::from(flags.unsigned_abs()), cgroup) }
        .during(Control::Namespaces, || "clone3 with pid mount net ipc uts".to_owned())
        .map_err(|error| if privileged { error } else { error.remedy(USER_NAMESPACES) })
}

/// Performs the steps that must run inside the new namespaces: creates a cgroup namespace and sets the host name.
///
/// # Errors
/// The errno of `unshare(2)` or `sethostname(2)`.
pub fn unshare_cgroup_and_set_host_name() -> Result<(), ControlError> {
    let unshare = rustix::thread::UnshareFlags::NEWCGROUP;
    // SAFETY: Rust relies on no property of the cgroup namespace.
    unsafe { rustix::thread::unshare_unsafe(unshare) }
        .during(Control::Namespaces, || "unshare the cgroup namespace".to_owned())?;
    rustix::system::sethostname(crate::mount::names::HOST_NAME.as_bytes())
        .during(Control::Namespaces, || "sethostname".to_owned())
}

/// Sets the host name in the UTS namespace that `of` refers to, a pidfd or a namespace file. The calling thread enters that
/// namespace and returns, so the process must have one thread.
///
/// # Errors
/// The errno of `setns(2)` or `sethostname(2)`.
pub fn rename(of: BorrowedFd<'_>, name: &[u8]) -> Result<(), ControlError> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/uts", flags, rustix::fs::Mode::empty())
        .during(Control::Namespaces, || "open /proc/self/ns/uts".to_owned())?;
    let enter = |fd: BorrowedFd<'_>| {
        syscall::network_namespace::enter_host_name(fd).during(Control::Namespaces, || "enter a UTS namespace: setns".to_owned())
    };
    enter(of)?;
    let set = rustix::system::sethostname(name).during(Control::Namespaces, || "sethostname".to_owned());
    enter(own.as_fd())?;
    set
}

/// Brings up the loopback interface in the network namespace of this process.
///
/// # Errors
/// The errno of `socket(2)` or of the ioctl.
pub fn loopback_up() -> Result<(), ControlError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .during(Control::Network, || "create a socket for the loopback interface".to_owned())?;
    syscall::sockets::loopback_up(socket.as_fd()).during(Control::Network, || "bring the loopback interface up".to_owned())
}

/// Moves the calling thread into a new mount namespace, a copy of the current one.
pub(crate) fn new_mounts() -> Result<(), ControlError> {
    // SAFETY: Rust relies on no property of the mount namespace. The change applies to the calling thread and to threads it
    // starts later.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .during(Control::Mounts, || "unshare the mount namespace".to_owned())
}

/// Opens the mount namespace of a process, which exists at least as long as the returned descriptor. An unprivileged caller can
/// open only that of a traceable process with the same ids (`ptrace(2)`, `PTRACE_MODE_READ_FSCREDS`).
///
/// # Errors
/// The errno of opening `/proc/PID/ns/mnt`, and [`ForeignProc`](crate::proc::ForeignProc).
pub fn mounts_of(pid: i32) -> Result<OwnedFd, ControlError> {
    let directory = crate::proc::directory_of(pid);
    let path = directory.map_err(|error| error.during(Control::Mounts, "open the mount namespace of a sandbox"))?.join("ns/mnt");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).during(Control::Mounts, || format!("open {}", path.display()))
}

/// Moves the process back into a mount namespace in which it was before.
pub(crate) fn enter_mounts(namespace: &OwnedFd) -> Result<(), ControlError> {
    let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
        .during(Control::Mounts, || "return to the previous mount namespace: setns".to_owned())
}

/// Creates a network namespace with loopback only in a helper thread, while the caller continues. Creating it takes as long as
/// all other steps of creating a sandbox together.
pub struct NetnsBuilder(syscall::network_namespace::NetworkMaker);

impl NetnsBuilder {
    /// Starts the helper thread. The caller must be single-threaded, and in the user namespace that will own the network
    /// namespace. If `busy`, the thread runs on another processor, because the caller keeps using its own.
    ///
    /// # Errors
    /// The errno of `clone(2)`.
    pub fn start(busy: bool) -> Result<Self, ControlError> {
        syscall::network_namespace::NetworkMaker::start(busy)
            .during(Control::Network, || "start the thread that creates the network namespace".to_owned())
            .map(Self)
    }

    /// Waits for the helper thread and moves this process into the network namespace.
    ///
    /// # Errors
    /// The errno of a failed step in the helper thread, or of `setns(2)`.
    pub fn join(self) -> Result<(), ControlError> {
        let namespace =
            self.0.finish().during(Control::Network, || "create a network namespace with a loopback interface".to_owned())?;
        syscall::network_namespace::enter_network(namespace)
            .during(Control::Network, || "enter the new network namespace: setns".to_owned())
    }
}
