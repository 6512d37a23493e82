//! The messages that the launcher sends to the new process while that process confines itself.

use crate::{channel::Channel, plan::SandboxPlan, protocol};
use agentd_core::{Control, ControlError, ControlStatus};
use agentd_kernel::idmap::IdMap;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// Messages from the launcher to the new process during confinement.
#[derive(Debug, Serialize, Deserialize)]
pub enum ConfineMessage {
    /// The plan of the sandbox, for a process that was started before the plan was known. This message is the first one, or
    /// follows [`ConfineMessage::IdMap`] if a view was expected. The descriptor is the process's end of the channel to the
    /// library.
    Plan(Box<SandboxPlan>),
    /// The launcher has written the id maps.
    IdMap {
        /// User and group ids of the payload.
        id_map: IdMap,
        /// True if the launcher runs as root.
        privileged: bool,
        /// Status of the id map, and its description.
        map: (ControlStatus, String),
    },
    /// The id-mapped mount trees: of the layers, then of the devices if there are any, then of the grants, in order. The trees
    /// are this message's descriptors. Only a launcher that runs as root sends this message. It follows
    /// [`ConfineMessage::IdMap`], because cloning the trees takes as long as building the view to which they are attached.
    Trees,
}

/// The ids that the launcher has given to the sandbox.
pub(super) struct Ids {
    /// User and group ids of the payload.
    pub(super) map: IdMap,
    /// True if the launcher runs as root.
    pub(super) privileged: bool,
    /// Status of the id map, and its description.
    pub(super) report: (ControlStatus, String),
}

/// The receiving end of the [`ConfineMessage`] messages.
pub(super) struct ConfineChannel(Channel);

impl ConfineChannel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        // The plan is as large as in the library's order.
        Self(Channel::new(socket, protocol::MAX_REQUEST))
    }

    /// Waits for the plan, and returns it with the channel to the library.
    pub(super) fn plan(&mut self) -> Result<(Box<SandboxPlan>, OwnedFd), ControlError> {
        let (ConfineMessage::Plan(plan), mut fds) = self.receive()? else { return Err(out_of_order()) };
        Ok((plan, fds.pop().ok_or_else(out_of_order)?))
    }

    /// Waits until the launcher has written the id maps.
    pub(super) fn ids(&mut self) -> Result<Ids, ControlError> {
        let (ConfineMessage::IdMap { id_map, privileged, map }, _) = self.receive()? else { return Err(out_of_order()) };
        Ok(Ids { map: id_map, privileged, report: map })
    }

    /// Waits for the launcher to send the id-mapped trees.
    pub(super) fn trees(&mut self) -> Result<Vec<OwnedFd>, ControlError> {
        let (ConfineMessage::Trees, trees) = self.receive()? else { return Err(out_of_order()) };
        Ok(trees)
    }

    fn receive(&mut self) -> Result<(ConfineMessage, Vec<OwnedFd>), ControlError> {
        self.0.receive().map_err(|e| ControlError::caused_by(Control::Process, "receive from the launcher", e))
    }
}

fn out_of_order() -> ControlError {
    ControlError::new(Control::Process, "receive from the launcher: a message out of order", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_socket_of_launcher_keeps_errno() {
        // A pipe is not a socket.
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let error = ConfineChannel::new(reader).receive().unwrap_err();
        assert_eq!(error.errno, Some(libc::ENOTSOCK), "{error}");
    }
}
