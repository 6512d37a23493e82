//! What of one of Gondolin's machines this backend knows how to do.

use super::{GondolinBackend, host::Host};
use crate::guest::Machine;
use agentd_core::{IsolationBackend, IsolationError, Sandbox};
use async_trait::async_trait;
use std::sync::Arc;

pub(super) struct GondolinMachine {
    pub backend: Arc<GondolinBackend>,
    pub host: Arc<Host>,
}

#[async_trait]
impl Machine for GondolinMachine {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        self.backend.clone()
    }

    fn kill(&self) {
        self.host.kill();
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.host.sandbox().destroy().await
    }

    /// Node and QEMU stand still, and with them the guest; its clock jumps when it goes on.
    async fn suspend(&self) -> Result<(), IsolationError> {
        self.host.sandbox().suspend().await
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        self.host.sandbox().resume().await
    }

    // Gondolin's checkpoints are of the disk alone and end the machine: what runs, and what is in memory, would be lost by a snapshot that
    // promises to save it. So there are none.
}
