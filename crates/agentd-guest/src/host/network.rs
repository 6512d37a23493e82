//! The network of a guest's sandbox: its gateway on the host, and what the agent must do for it.

use super::Guest;
use crate::{
    protocol::{FromGuest, ToGuest},
    session::Operation,
};
use agentd_core::{IsolationError, Network};
use agentd_egress::guest::GuestPort;
use agentd_isolation::egress::{MachineGateway, no_hosts};
use agentd_log::LogFailure as _;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// The time in which the agent may end the sandbox and carry its last bytes. Emulated machines are slow.
const DRAIN: Duration = Duration::from_secs(5);

impl Guest {
    /// Returns the place to which the flows of the guest are passed.
    pub(super) fn port(&self) -> Option<&Arc<GuestPort>> {
        self.gateway.as_deref().map(MachineGateway::port)
    }

    /// Returns the current network, if the sandbox has granted hosts.
    pub fn network(&self) -> Option<Network> {
        self.gateway.as_deref().map(MachineGateway::network)
    }

    /// Returns a gateway for a copy of the machine, if the sandbox has granted hosts.
    ///
    /// # Errors
    /// The gateway does not start.
    pub async fn copy_of_gateway(&self) -> Result<Option<Arc<MachineGateway>>, IsolationError> {
        match &self.gateway {
            Some(gateway) => Ok(Some(Arc::new(gateway.copy().await?))),
            None => Ok(None),
        }
    }

    /// See [`agentd_core::Sandbox::set_network`].
    pub(crate) async fn change_network(&self, network: &Network) -> Result<(), IsolationError> {
        let gateway = self.gateway.as_ref().ok_or_else(no_hosts)?;
        gateway.change(network, |ports| self.listen_at(ports)).await
    }

    /// Asks the agent to listen at all ports of the gateway. An earlier state of the machine may listen at fewer ports.
    pub(super) async fn listen_at_all_ports(&self) -> Result<(), IsolationError> {
        match &self.gateway {
            Some(gateway) => self.listen_at(gateway.ports().await).await,
            None => Ok(()),
        }
    }

    async fn listen_at(&self, ports: Vec<u16>) -> Result<(), IsolationError> {
        self.done(|id| ToGuest::Listen { id, ports }).await
    }

    /// Sends a request, and waits until the agent has carried it out.
    async fn done(&self, ask: impl FnOnce(u32) -> ToGuest) -> Result<(), IsolationError> {
        let mut operation = self.session().begin()?;
        operation.session.request(&ask(operation.id))?;
        match operation.answer("network").await? {
            FromGuest::Done { .. } => Ok(()),
            _ => Err(Operation::out_of_order()),
        }
    }

    /// Ends the programs of the sandbox, and waits a short time for the bytes that they sent last.
    pub(crate) async fn drain(&self) {
        if self.gateway.is_some() && self.answers() {
            let drained = timeout(DRAIN, self.done(|id| ToGuest::Drain { id })).await;
            // The connections that are left end with the machine.
            drained.or_debug("wait for the last connections of a guest", "guest");
            self.stop_gateway().await;
        }
    }

    /// Stops the gateway, and waits until all flows are recorded.
    pub(crate) async fn stop_gateway(&self) {
        if let Some(gateway) = &self.gateway {
            gateway.stop().await;
        }
    }
}
