//! The first process of a sandbox that is not planned yet.
//!
//! The kernel takes about as long to create namespaces as the library takes to plan a sandbox. With [`Order::Prepare`], both
//! happen at the same time. The prepared process applies what it can without the plan, waits for the plan, and then confines
//! itself like every other first process. It ends with the launcher.
//!
//! [`Order::Prepare`]: crate::protocol::Order::Prepare

use super::{
    Launcher, Started, first_process,
    first_process::{FirstProcess, go_pair, open_proc},
    send_ids,
};
use crate::{
    channel::send,
    confine::{self, ConfineMessage},
    ids::map_ids_of_a_view,
    plan::{ExpectedPlan, SandboxPlan},
};
use agentd_core::ControlError;
use agentd_kernel::{
    idmap::IdMap,
    namespace::{self, Cloned},
};
use std::os::fd::{AsFd, OwnedFd};

/// A first process that waits for a plan.
pub(super) struct Prepared {
    expected: ExpectedPlan,
    started: Started,
}

impl Prepared {
    /// Returns the pid of the process.
    pub fn pid(&self) -> i32 {
        self.started.pid()
    }

    /// Ends the process.
    pub fn end(self) {
        first_process::kill(&self.started.process.pidfd, self.started.process.pid);
    }
}

impl Launcher {
    /// Starts a first process for `expected`, unless there is a prepared one. A failure is not reported: creating the sandbox
    /// starts another process, and reports the cause if that fails.
    pub(super) fn prepare(&mut self, expected: ExpectedPlan) {
        if self.prepared.is_none() {
            self.prepared = self.start_prepared(expected).ok();
        }
    }

    fn start_prepared(&self, expected: ExpectedPlan) -> Result<Prepared, ControlError> {
        let (go, inner_go) = go_pair()?;
        let proc = open_proc()?;
        // SAFETY: the launcher is single-threaded: it starts no thread, and its libraries are only those of this crate.
        let process = match unsafe { namespace::start(expected.namespaces, None) }? {
            Cloned::Child => {
                drop(go);
                confine::run_prepared(expected, self.core_note.as_ref(), &proc, inner_go)
            }
            Cloned::Parent(pid, pidfd) => FirstProcess::new(pid, pidfd, go)?,
        };
        let mut prepared = Prepared { expected, started: Started::new(process, true) };
        if expected.view.is_some() {
            match map_view(&prepared.started) {
                Ok(id_map) => prepared.started.id_map = Some(id_map),
                Err(error) => {
                    prepared.end();
                    return Err(error);
                }
            }
        }
        Ok(prepared)
    }

    /// Sends the plan to the prepared process. Returns `None` if there is none, or if it does not suit the plan.
    pub(super) fn use_prepared(&mut self, plan: &SandboxPlan, channel: &OwnedFd) -> Option<Started> {
        let prepared = self.prepared.take_if(|prepared| prepared.expected.suits(plan))?;
        let message = ConfineMessage::Plan(Box::new(plan.clone()));
        match send(prepared.started.process.go.as_fd(), &message, &[channel.as_fd()]) {
            Ok(()) => Some(prepared.started),
            // The process has ended, for example because memory ran out.
            Err(_) => {
                prepared.end();
                None
            }
        }
    }
}

/// Writes the id maps of a process whose tree will be a view, and lets the process continue.
fn map_view(started: &Started) -> Result<IdMap, ControlError> {
    let privileged = rustix::process::geteuid().is_root();
    let chosen = map_ids_of_a_view(started.pid(), privileged)?;
    send_ids(&started.process.go, &chosen, privileged)?;
    Ok(chosen.id_map)
}
