//! The `container` backend with `Writable::TemporaryLayers` for every sandbox.

use agentd::isolation::{
    BackendCapabilities, ContainerBackend, IsolationBackend, IsolationError, Sandbox, SandboxId, SandboxSpec, Writable,
};
use async_trait::async_trait;
use std::sync::Arc;

/// The name of [`Layers`] among the backends under test.
pub const NAME: &str = "container-of-layers";

pub struct Layers(ContainerBackend);

impl Layers {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(ContainerBackend::new(&std::env::temp_dir(), None).unwrap()))
    }
}

#[async_trait]
impl IsolationBackend for Layers {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        self.0.probe().await
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let writable = if spec.writable == Writable::Memory { Writable::TemporaryLayers } else { spec.writable };
        self.0.create_sandbox(SandboxSpec { writable, ..spec }).await
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        self.0.list_sandboxes().await
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        self.0.get_sandbox(id).await
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        self.0.destroy_all().await
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.0.health_check().await
    }
}
