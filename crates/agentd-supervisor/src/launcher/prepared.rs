//! The first process of a sandbox that is not planned yet.
//!
//! The kernel takes about as long to create namespaces as the library takes to plan a sandbox. With [`Order::Prepare`], both
//! happen at the same time. The prepared process waits for the plan, and then confines itself like every other first process. It
//! ends with the launcher.
//!
//! [`Order::Prepare`]: crate::protocol::Order::Prepare

use super::{
    Launcher,
    first_process::{FirstProcess, go_pair, kill, open_proc},
};
use crate::{
    channel::send,
    confine::{self, ConfineMessage},
    plan::SandboxPlan,
};
use agentd_core::ControlError;
use agentd_kernel::{
    namespace::{self, Cloned, NamespacePlan},
    seccomp::SeccompPlan,
};
use std::os::fd::{AsFd, OwnedFd};

/// A first process that waits for a plan.
pub(super) struct Prepared {
    namespaces: NamespacePlan,
    process: FirstProcess,
}

impl Prepared {
    /// Returns the pid of the process.
    pub fn pid(&self) -> i32 {
        self.process.pid.as_raw_nonzero().get()
    }

    /// Ends the process.
    pub fn end(self) {
        kill(&self.process.pidfd, self.process.pid);
    }
}

impl Launcher {
    /// Starts a first process in `namespaces`, unless there is a prepared one. `seccomp` is the filter that the plan is expected
    /// to have. A failure is not reported: creating the sandbox starts another process, and reports why that fails.
    pub(super) fn prepare(&mut self, namespaces: NamespacePlan, seccomp: SeccompPlan) {
        if self.prepared.is_none() {
            self.prepared = self.start_prepared(namespaces, seccomp).ok();
        }
    }

    fn start_prepared(&self, namespaces: NamespacePlan, seccomp: SeccompPlan) -> Result<Prepared, ControlError> {
        let (go, inner_go) = go_pair()?;
        let proc = open_proc()?;
        // SAFETY: the launcher is single-threaded: it starts no thread, and its libraries are only those of this crate.
        match unsafe { namespace::start(namespaces, None) }? {
            Cloned::Child => {
                drop(go);
                confine::run_prepared(namespaces, seccomp, self.core_note.as_ref(), &proc, inner_go)
            }
            Cloned::Parent(pid, pidfd) => Ok(Prepared { namespaces, process: FirstProcess::new(pid, pidfd, go)? }),
        }
    }

    /// Sends the plan to the prepared process. Returns `None` if there is none, or if it does not suit the plan: a process enters
    /// its cgroup before it creates its cgroup namespace.
    pub(super) fn use_prepared(&mut self, plan: &SandboxPlan, channel: &OwnedFd) -> Option<FirstProcess> {
        let suits = |prepared: &mut Prepared| prepared.namespaces == plan.namespaces && plan.cgroup.is_empty();
        let prepared = self.prepared.take_if(suits)?;
        let message = ConfineMessage::Plan(Box::new(plan.clone()));
        match send(prepared.process.go.as_fd(), &message, &[channel.as_fd()]) {
            Ok(()) => Some(prepared.process),
            // The process has ended, for example because memory ran out.
            Err(_) => {
                prepared.end();
                None
            }
        }
    }
}
