//! The operations on a virtual machine that its backend implements.

use super::{Copies, Guest, MachineIdentity};
use agentd_core::{IsolationBackend, IsolationError, Limits, Sandbox, SandboxSpec};
use agentd_isolation::egress::MachineGateway;
use async_trait::async_trait;
use std::sync::Arc;

/// A virtual machine. The agent in the machine implements the rest of [`Sandbox`].
#[async_trait]
pub trait Machine: Send + Sync {
    /// Returns the backend of the machine.
    fn backend(&self) -> Arc<dyn IsolationBackend>;

    /// Kills the machine immediately. Must not block; may be called more than once, and from `Drop`.
    fn kill(&self);

    /// Waits until the machine's monitor has ended, and returns the reason that the monitor gave. Called when the connection to
    /// the agent has ended, for a short time. `None` if the backend has no monitor.
    async fn why_ended(&self) -> Option<String> {
        None
    }

    /// Kills the machine, removes all its resources, and waits until both are done. A second call has no effect.
    ///
    /// # Errors
    /// Returns an error if a resource of the machine cannot be removed.
    async fn destroy(&self) -> Result<(), IsolationError>;

    /// Stops the machine until [`Machine::resume`]. Stopping a stopped machine has no effect.
    ///
    /// # Errors
    /// Returns [`IsolationError::Unsupported`] if the backend cannot stop a machine.
    async fn suspend(&self) -> Result<(), IsolationError> {
        Err(self.unsupported("suspend"))
    }

    /// Resumes a stopped machine.
    ///
    /// # Errors
    /// Returns [`IsolationError::Unsupported`] if the backend cannot stop a machine.
    async fn resume(&self) -> Result<(), IsolationError> {
        Err(self.unsupported("resume"))
    }

    /// Saves the state of the machine. A state with memory is saved between [`Guest::quiesce`] and [`Guest::proceed`]. A state
    /// without memory is saved while the files are [frozen](Guest::freeze). A guest that is still quiesced when this call returns
    /// or is cancelled is killed.
    ///
    /// # Errors
    /// Returns [`IsolationError::Unsupported`] if the backend cannot save a machine.
    async fn snapshot(&self, _guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        Err(self.unsupported("snapshot"))
    }

    /// Restores a saved state, and attaches to it with [`Guest::adopt`] or [`Guest::renew`]. If [`Machine::restores`] returned
    /// true, the caller has closed the connection to the machine before this call, and kills the machine if this call fails.
    /// Otherwise the connection is still open, and the machine keeps running after the error.
    ///
    /// # Errors
    /// Returns [`IsolationError::Unsupported`] if the backend cannot restore a machine.
    async fn restore(&self, _guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        Err(self.unsupported("restore"))
    }

    /// Creates another sandbox from the state of the machine.
    ///
    /// # Errors
    /// Returns [`IsolationError::Unsupported`] if the backend cannot copy a machine.
    async fn fork(&self, _guest: &Guest) -> Result<Arc<dyn Sandbox>, IsolationError> {
        Err(self.unsupported("fork"))
    }

    /// Returns true if a saved state of this name exists. [`Machine::restore`] can then be called, which loses everything that
    /// runs.
    fn restores(&self, _name: &str) -> bool {
        false
    }

    /// Returns the error for an operation that the backend does not support.
    fn unsupported(&self, operation: &'static str) -> IsolationError {
        IsolationError::Unsupported { backend: self.backend().name().to_owned(), operation }
    }
}

/// The sandbox that a guest's agent is asked to create.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// The sandbox. Grants are paths of the guest. `root` and `writable` have their default values, because the backend creates
    /// the root of the machine. Network grants and secrets are enforced on this side of the machine.
    pub spec: SandboxSpec,
    /// The identity that the machine assumes first. `None` leaves the machine's identity unchanged.
    pub identity: Option<MachineIdentity>,
    /// The copies of granted files, with which the guest has already been filled. `None` if the grants are the guest's own files.
    pub copies: Option<Arc<Copies>>,
}

/// The request of a host that attaches to a guest's agent.
#[derive(Debug, Clone)]
pub enum Attach {
    /// Create the sandbox.
    New(Box<GuestSpec>),
    /// Take over the existing sandbox of a machine that was copied from another one. Commands that run there continue, with their
    /// streams disconnected.
    Adopt {
        /// The identity that the machine assumes.
        identity: MachineIdentity,
        /// The limits with which the sandbox was created.
        limits: Box<Limits>,
        /// The gateway for the copy ([`Guest::copy_of_gateway`]).
        gateway: Option<Arc<MachineGateway>>,
    },
}
