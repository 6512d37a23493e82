//! What of a virtual machine its backend knows how to do.

use super::{Copies, Guest, Identity};
use agentd_core::{IsolationBackend, IsolationError, Limits, Sandbox, SandboxSpec};
use async_trait::async_trait;
use std::sync::Arc;

/// A virtual machine; the rest of [`Sandbox`] is done by the agent inside.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Its backend.
    fn backend(&self) -> Arc<dyn IsolationBackend>;

    /// Ends it at once. It never waits, may be called more than once, and from `Drop`.
    fn kill(&self);

    /// Ends it, removes everything that it had, and waits until that is done. A second time there is nothing to do.
    async fn destroy(&self) -> Result<(), IsolationError>;

    /// Stops it until [`Machine::resume`]. Twice is as good as once.
    async fn suspend(&self) -> Result<(), IsolationError> {
        Err(self.unsupported("suspend"))
    }

    /// Lets it go on.
    async fn resume(&self) -> Result<(), IsolationError> {
        Err(self.unsupported("resume"))
    }

    /// Saves its state: between [`Guest::quiesce`] and [`Guest::proceed`], where its memory is part of that, or while its files are
    /// [frozen](Guest::freeze). A guest that is still quiet when this is done, or given up, is ended.
    async fn snapshot(&self, _guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        Err(self.unsupported("snapshot"))
    }

    /// Goes back to a saved state, and attaches to that with [`Guest::adopt`] or [`Guest::renew`]. When it is called, nothing listens to the machine any more;
    /// when it fails, the machine is killed.
    async fn restore(&self, _guest: &Guest, _name: &str) -> Result<(), IsolationError> {
        Err(self.unsupported("restore"))
    }

    /// Makes another sandbox of its state.
    async fn fork(&self, _guest: &Guest) -> Result<Arc<dyn Sandbox>, IsolationError> {
        Err(self.unsupported("fork"))
    }

    /// Whether there is such a state, so that [`Machine::restore`] can be asked for: what runs is lost by it.
    fn restores(&self, _name: &str) -> bool {
        false
    }

    /// The error of what it cannot do.
    fn unsupported(&self, operation: &'static str) -> IsolationError {
        IsolationError::Unsupported { backend: self.backend().name().to_owned(), operation }
    }
}

/// What a guest's agent is asked for.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// What its sandbox is to be. Grants are paths of the guest; `root` and `writable` are as by default: what the machine is made of is
    /// its backend's matter.
    pub spec: SandboxSpec,
    /// What the machine becomes first; it stays as it is when absent.
    pub identity: Option<Identity>,
    /// What the grants are copies of, which the guest has been filled with already; none when they are the guest's own.
    pub copies: Option<Arc<Copies>>,
}

/// What a host wants of a guest's agent.
#[derive(Debug, Clone)]
pub enum Attach {
    /// Make the sandbox.
    New(Box<GuestSpec>),
    /// It is made already, in a machine that this one was copied of. Commands that run there go on, with nobody at their streams.
    Adopt {
        /// What the machine becomes.
        identity: Identity,
        /// The limits that the sandbox was made with.
        limits: Limits,
    },
}
