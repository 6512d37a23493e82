//! What the handlers of requests share.

use crate::{auth::Authenticator, service::Service};
use agentd_telemetry::Metrics;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The number of bodies of requests that are received at a time. Together they need at most this many times
/// [`super::body::MAX_BODY`].
const MAX_BODIES: usize = 16;

/// The parts of the interface by HTTP.
pub struct HttpParts {
    /// Executes requests.
    pub service: Service,
    /// Authenticates their callers.
    pub authenticator: Authenticator,
    /// The metrics of the daemon.
    pub metrics: Arc<Metrics>,
}

/// The state of all handlers.
#[derive(Clone)]
pub(super) struct HttpState {
    pub parts: Arc<HttpParts>,
    /// Taken while a body is received.
    pub bodies: Arc<Semaphore>,
}

impl HttpState {
    pub fn new(parts: HttpParts) -> Self {
        Self { parts: Arc::new(parts), bodies: Arc::new(Semaphore::new(MAX_BODIES)) }
    }

    pub fn service(&self) -> &Service {
        &self.parts.service
    }
}
