//! The supervisor's second thread: answers the calls that the filter passes to its listener (`seccomp_unotify(2)`).
//!
//! The thread starts after every other control is applied and before the filter is installed. It therefore has the ids, mounts
//! and Landlock domain of commands, and the filter does not apply to it. The thread executes no program.

use crate::{schedule, set_gid};
use agentd_core::{Control, ControlError};
use agentd_kernel::{
    privileges::Capabilities,
    seccomp::{Call, Listener, RequestedChange},
};
use rustix::io::Errno;
use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Properties of the sandbox on which the answers depend.
#[derive(Debug, Clone, Copy)]
pub struct ListenerContext {
    /// The capabilities of the supervisor.
    pub kept: Capabilities,
    /// True if `/proc` is that of the sandbox's PID namespace. In another `/proc`, the thread ids of calls name other threads.
    pub own_proc: bool,
}

/// Starts the thread. The thread serves the listener that it receives, and ends when the sender is dropped without sending one.
/// Call this function after every other control is applied and before the filter is.
pub fn start(context: ListenerContext) -> Result<SyncSender<Listener>, ControlError> {
    let (sender, receiver) = sync_channel(1);
    let started =
        thread::Builder::new().name("listener".to_owned()).stack_size(64 << 10).spawn(move || serve(&receiver, context));
    started.map_err(|error: io::Error| ControlError::caused_by(Control::Seccomp, "start the listener's thread", error))?;
    Ok(sender)
}

fn serve(listener: &Receiver<Listener>, context: ListenerContext) {
    let Ok(listener) = listener.recv() else { return };
    // An error means that no more calls arrive. Calls after that point would fail with ENOSYS.
    while let Ok(call) = listener.receive() {
        if let Some(call) = call {
            answer(&listener, &call, context);
        }
    }
}

fn answer(listener: &Listener, call: &Call, context: ListenerContext) {
    match call.request {
        RequestedChange::Mode(change) if context.own_proc => {
            listener.answer(call, set_gid::change(listener, call, change, context.kept));
        }
        RequestedChange::Mode(_) => listener.answer(call, Err(Errno::NOSYS)),
        RequestedChange::Schedule(change) => schedule::change(listener, call, change, context.own_proc),
    }
}
