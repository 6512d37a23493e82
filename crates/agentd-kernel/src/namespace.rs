//! Namespaces (`namespaces(7)`): which ones a sandbox gets, and the process that starts in them.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError, Network};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use syscall::Cloned;

/// Which host ids a sandbox gets that has a root of its own and is made by root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// A range that no other live sandbox has.
    #[default]
    Apart,
    /// The machine's own, as far as distributions use them: in a virtual machine that is the sandbox's alone. No mount needs to be
    /// id-mapped, which not every file system can be.
    Same,
}

/// Which namespaces a sandbox gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePlan {
    /// Whether there are any. Without them the supervisor is an ordinary child process.
    pub enabled: bool,
    /// The network; [`Network::Host`] keeps the host's network namespace.
    pub network: Network,
    /// Its ids.
    pub ids: Ids,
}

/// What to do where they may not be made.
const USER_NAMESPACES: &str = "allow user namespaces: sysctl user.max_user_namespaces > 0, and where they exist \
     kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0";

impl NamespacePlan {
    /// The flags for `clone3(2)`. The network namespace is made beside; see [`Beside`].
    pub fn flags(&self) -> u64 {
        if !self.enabled {
            return 0;
        }
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        u64::from(flags.unsigned_abs())
    }

    /// The names of the namespaces.
    pub fn describe(&self) -> String {
        match (self.enabled, self.network) {
            (false, _) => "none".to_owned(),
            (true, Network::Off) => "user pid mount ipc uts cgroup net".to_owned(),
            (true, Network::Host) => "user pid mount ipc uts cgroup".to_owned(),
        }
    }
}

/// Starts a process in the planned namespaces, and on cgroup v2 in `cgroup`.
///
/// # Safety
/// The caller must be single-threaded; see `fork(2)`.
pub unsafe fn start(plan: NamespacePlan, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, LayerError> {
    // SAFETY: the caller promises what clone3 asks for.
    unsafe { syscall::clone3(plan.flags(), cgroup) }
        .at(Layer::Namespaces, || format!("clone3 with {}", plan.describe()))
        .map_err(|error| error.remedy(USER_NAMESPACES))
}

/// Starts a process in namespaces for a program of the host's that is to be alone — pid, mount, network, IPC and host name, and as an
/// ordinary user's also a user namespace — and on cgroup v2 in `cgroup`. When that process ends, so do all others there.
///
/// # Safety
/// As [`start`].
pub unsafe fn start_apart(privileged: bool, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, LayerError> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let flags = if privileged { flags } else { flags | libc::CLONE_NEWUSER };
    // SAFETY: the caller promises what clone3 asks for.
    unsafe { syscall::clone3(u64::from(flags.unsigned_abs()), cgroup) }
        .at(Layer::Namespaces, || "clone3 with pid mount net ipc uts".to_owned())
        .map_err(|error| if privileged { error } else { error.remedy(USER_NAMESPACES) })
}

/// The steps that can only be done inside: a cgroup namespace and a host name.
pub fn furnish() -> Result<(), LayerError> {
    let unshare = rustix::thread::UnshareFlags::NEWCGROUP;
    // SAFETY: a new cgroup namespace changes nothing that Rust relies on.
    unsafe { rustix::thread::unshare_unsafe(unshare) }.at(Layer::Namespaces, || "unshare cgroup".to_owned())?;
    rustix::system::sethostname(b"agentd").at(Layer::Namespaces, || "sethostname".to_owned())
}

/// Sets the host name in the UTS namespace of another process. The caller is moved there and back, so it must have one thread.
pub fn rename(of: BorrowedFd<'_>, name: &[u8]) -> Result<(), LayerError> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/uts", flags, rustix::fs::Mode::empty())
        .at(Layer::Namespaces, || "open /proc/self/ns/uts".to_owned())?;
    let enter = |fd: BorrowedFd<'_>| syscall::enter_host_name(fd).at(Layer::Namespaces, || "setns to a host name".to_owned());
    enter(of)?;
    let set = rustix::system::sethostname(name).at(Layer::Namespaces, || "sethostname".to_owned());
    enter(own.as_fd())?;
    set
}

/// Brings the loopback interface up, in the network that this process is in.
pub fn loopback_up() -> Result<(), LayerError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .at(Layer::Network, || "socket".to_owned())?;
    syscall::loopback_up(socket.as_fd()).at(Layer::Network, || "bring lo up".to_owned())
}

/// A mount namespace of the process's own, a copy of the one it is in.
pub(crate) fn new_mounts() -> Result<(), LayerError> {
    // SAFETY: a new mount namespace changes nothing that Rust relies on; it is the calling thread's, and of those that it starts.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .at(Layer::Mounts, || "unshare mounts".to_owned())
}

/// The mount namespace of a process, which lives as long as this. Who is not root can have it only of a process of the same ids that may be
/// traced (`ptrace(2)`, `PTRACE_MODE_READ_FSCREDS`).
pub fn mounts_of(pid: i32) -> Result<OwnedFd, LayerError> {
    let path = format!("/proc/{pid}/ns/mnt");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).at(Layer::Mounts, || format!("open {path}"))
}

/// Moves the process into a mount namespace it was in before.
pub(crate) fn enter_mounts(namespace: &OwnedFd) -> Result<(), LayerError> {
    let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
        .at(Layer::Mounts, || "setns to the mounts before".to_owned())
}

/// A network namespace with loopback only, being made by a helper process while the caller does something else: making one takes
/// as long as everything else in a sandbox together.
pub struct Beside(syscall::Helper);

impl Beside {
    /// Starts making it. The caller must be single-threaded and in the user namespace that will own it.
    pub fn start() -> Result<Self, LayerError> {
        syscall::Helper::make_network().at(Layer::Network, || "clone a helper".to_owned()).map(Self)
    }

    /// Waits until it is made, and moves this process into it.
    pub fn join(self) -> Result<(), LayerError> {
        let namespace = self.0.finish().at(Layer::Network, || "make a network namespace and bring lo up".to_owned())?;
        syscall::enter_network(namespace).at(Layer::Network, || "setns to the new network namespace".to_owned())
    }
}
