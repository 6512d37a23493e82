//! Namespaces (`namespaces(7)`): which ones a sandbox gets, and the process that starts in them.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError, Network};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd};

pub use syscall::Cloned;

/// Which namespaces a sandbox gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePlan {
    /// Whether there are any. Without them the supervisor is an ordinary child process.
    pub enabled: bool,
    /// The network; [`Network::Host`] keeps the host's network namespace.
    pub network: Network,
}

impl NamespacePlan {
    /// The flags for `clone3(2)`.
    pub fn flags(&self) -> u64 {
        if !self.enabled {
            return 0;
        }
        let mut flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if self.network == Network::Off {
            flags |= libc::CLONE_NEWNET;
        }
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
    unsafe { syscall::clone3(plan.flags(), cgroup) }.at(Layer::Namespaces, || format!("clone3 with {}", plan.describe())).map_err(
        |error| {
            error.remedy(
                "allow user namespaces: sysctl user.max_user_namespaces > 0, and where they exist \
                 kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0",
            )
        },
    )
}

/// The steps that can only be done inside: a cgroup namespace, a host name, loopback.
pub fn furnish(plan: NamespacePlan) -> Result<(), LayerError> {
    if !plan.enabled {
        return Ok(());
    }
    let unshare = rustix::thread::UnshareFlags::NEWCGROUP;
    // SAFETY: a new cgroup namespace changes nothing that Rust relies on.
    unsafe { rustix::thread::unshare_unsafe(unshare) }.at(Layer::Namespaces, || "unshare cgroup".to_owned())?;
    rustix::system::sethostname(b"agentd").at(Layer::Namespaces, || "sethostname".to_owned())?;
    if plan.network == Network::Off {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .at(Layer::Network, || "socket for loopback".to_owned())?;
        syscall::loopback_up(socket.as_fd()).at(Layer::Network, || "bring lo up".to_owned())?;
    }
    Ok(())
}
