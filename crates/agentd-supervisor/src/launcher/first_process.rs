//! The start of the first process of a sandbox.

use super::Launcher;
use crate::{
    confine::{self, Inherited},
    plan::SandboxPlan,
};
use agentd_core::{Control, ControlError, ControlReport};
use agentd_kernel::{
    cgroup::Cgroup,
    namespace::{self, Cloned},
};
use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Pid, Signal, WaitOptions},
};
use std::os::fd::OwnedFd;

/// The first process of a sandbox, which waits for messages of the launcher.
pub(super) struct FirstProcess {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// The socket for [`confine::ConfineMessage`] messages.
    pub go: OwnedFd,
}

impl FirstProcess {
    pub fn new(pid: i32, pidfd: OwnedFd, go: OwnedFd) -> Result<Self, ControlError> {
        let pid = Pid::from_raw(pid).ok_or_else(|| ControlError::new(Control::Process, "clone3", None))?;
        Ok(Self { pid, pidfd, go })
    }
}

impl Launcher {
    /// Starts the first process of a sandbox with this plan.
    pub(super) fn start_first(
        &mut self,
        plan: &SandboxPlan,
        cgroup: Option<&Cgroup>,
        group: Option<ControlReport>,
        channel: &OwnedFd,
    ) -> Result<FirstProcess, ControlError> {
        let watches = cgroup.map_or(Ok(Vec::new()), Cgroup::watches)?;
        let filter = plan.seccomp.map(|wanted| &*self.filters.entry(wanted).or_insert_with(|| wanted.compile()));
        let (go, inner_go) = go_pair()?;
        let proc = open_proc()?;
        // SAFETY: the launcher is single-threaded: it starts no thread, and its libraries are only those of this crate.
        match unsafe { namespace::start(plan.namespaces, cgroup.and_then(Cgroup::clone_into)) }? {
            Cloned::Child => {
                drop(go);
                let core_note = self.core_note.as_ref();
                confine::run(Inherited { plan, cgroup, group, watches, filter, core_note, channel }, &proc, inner_go)
            }
            Cloned::Parent(pid, pidfd) => FirstProcess::new(pid, pidfd, go),
        }
    }
}

/// Creates the socket pair for [`confine::ConfineMessage`] messages: the launcher's end, and that of the new process.
pub(super) fn go_pair() -> Result<(OwnedFd, OwnedFd), ControlError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| ControlError::new(Control::Process, "create a socket pair for the new process", Some(e.raw_os_error())))
}

/// Opens the launcher's `/proc`, which the new process cannot see after it has mounted its own.
pub(super) fn open_proc() -> Result<OwnedFd, ControlError> {
    rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ControlError::new(Control::Process, "open /proc", Some(e.raw_os_error())))
}

/// Kills and reaps a first process.
pub(super) fn kill(pidfd: &OwnedFd, pid: Pid) {
    // A process that is already gone needs no signal.
    rustix::process::pidfd_send_signal(pidfd, Signal::KILL).ok();
    // The process is our child. Waiting fails only if it was reaped before.
    rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
}
