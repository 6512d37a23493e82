//! The gateway of a sandbox in a virtual machine. The agent in the machine holds the listening sockets, and passes what they
//! receive to a [`GuestPort`] of this process.

use super::{EgressSettings, SandboxGateway, descriptors, grants, refused, settings};
use crate::blocking::blocking;
use agentd_core::{IsolationError, Network, NetworkApprovals, NetworkLog, SandboxSpec};
use agentd_egress::{GatewaySockets, NetGrants, guest::GuestPort, limits::FlowLimits};
use agentd_kernel::mount::trust::TrustPlan;
use std::{
    ffi::OsString,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The maximum number of concurrent connections of one machine. Each connection takes memory in the channel to the guest too.
const MAX_FLOWS: usize = 512;

/// The gateway of one virtual machine. It stays the same if the machine is replaced because an earlier state is restored.
pub struct MachineGateway {
    gateway: SandboxGateway,
    port: Arc<GuestPort>,
    settings: EgressSettings,
    network: Mutex<Network>,
}

impl fmt::Debug for MachineGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secrets in the settings must not be printed.
        f.debug_struct("MachineGateway").field("network", &*self.network_now()).finish_non_exhaustive()
    }
}

impl MachineGateway {
    /// Starts a gateway for the network of this spec. Returns `None` if the network has no granted hosts.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for network grants and secrets that cannot be enforced or used. [`IsolationError::Control`] if
    /// the gateway does not start.
    pub async fn start(spec: &SandboxSpec) -> Result<Option<Self>, IsolationError> {
        let planned = spec.clone();
        // The certificates that the host trusts are read from files.
        match blocking(move || settings(&planned)).await? {
            Some(settings) => Self::serve(settings, spec.network.clone()).await.map(Some),
            None => Ok(None),
        }
    }

    async fn serve(settings: EgressSettings, network: Network) -> Result<Self, IsolationError> {
        carried(&settings.gateway.grants)?;
        let (limits, share) = descriptors::reserve()?;
        // A connection needs two sockets here, and a pair of sockets to the channel instead of one.
        let flows = (limits.flows / 3 * 2).clamp(1, MAX_FLOWS);
        let limits = FlowLimits { flows, datagram_flows: 0, ..limits };
        let port = GuestPort::new(flows);
        let sockets = GatewaySockets { guest: Some(port.clone()), ..GatewaySockets::default() };
        let gateway = SandboxGateway::serve(sockets, settings.clone(), (limits, share)).await?;
        Ok(Self { gateway, port, settings, network: Mutex::new(network) })
    }

    /// Starts a gateway for a copy of the machine. It has the same grants, certificates, placeholders and addresses of names,
    /// because programs in the copy know them. It shares no connection and no record.
    ///
    /// # Errors
    /// As [`MachineGateway::start`].
    pub async fn copy(&self) -> Result<Self, IsolationError> {
        let network = self.network();
        let mut settings = self.settings.clone();
        if let Some(grants) = grants(&network)? {
            settings.gateway.grants = grants;
        }
        settings.gateway.names = self.gateway.names();
        let copy = Self::serve(settings, network).await?;
        copy.gateway.listens_also_at(self.ports().await).await;
        Ok(copy)
    }

    fn network_now(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current network.
    pub fn network(&self) -> Network {
        self.network_now().clone()
    }

    /// Returns the place to which the flows of the guest are passed.
    pub fn port(&self) -> &Arc<GuestPort> {
        &self.port
    }

    /// Returns the trust stores of the payload, if its TLS is inspected.
    pub fn trust(&self) -> Option<&TrustPlan> {
        self.settings.trust.as_ref()
    }

    /// Returns the variables that commands need.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        self.gateway.environment().to_vec()
    }

    /// Returns the queue of the flows.
    pub fn log(&self) -> Arc<dyn NetworkLog> {
        self.gateway.log()
    }

    /// Returns the requests for approvals of hosts.
    pub fn approvals(&self) -> Arc<dyn NetworkApprovals> {
        self.gateway.approvals()
    }

    /// Returns the ports at which the agent listens.
    pub async fn ports(&self) -> Vec<u16> {
        self.gateway.listening().await
    }

    /// Replaces the network grants. `listen` asks the agent to listen at further ports. Ends connections that the new network
    /// grants do not allow.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a network without granted hosts, and for network grants that cannot be enforced; the error
    /// of `listen`; [`IsolationError::SandboxGone`] after [`MachineGateway::stop`]. The old network grants then still apply.
    pub async fn change<F>(&self, network: &Network, listen: impl FnOnce(Vec<u16>) -> F) -> Result<(), IsolationError>
    where
        F: Future<Output = Result<(), IsolationError>>,
    {
        let grants = grants(network)?.ok_or_else(no_hosts)?;
        carried(&grants)?;
        let change = self.gateway.begin_change(&grants).await?;
        let missing: Vec<u16> = change.missing().map(|(_, port, _)| port).collect();
        if !missing.is_empty() {
            listen(missing).await?;
        }
        change.apply(Vec::new())?;
        *self.network_now() = network.clone();
        Ok(())
    }

    /// Waits a short time for connections to end by themselves, ends all others, and waits until they are recorded.
    pub async fn stop(&self) {
        self.gateway.stop().await;
    }
}

/// Refuses network grants of UDP, which the agent in a machine does not carry.
pub(super) fn carried(grants: &NetGrants) -> Result<(), IsolationError> {
    grants.need_datagrams().map_or(Ok(()), |grant| {
        Err(refused(&format!(
            "network grant {grant}: UDP is not carried out of a virtual machine — use --backend linux-native or container, or \
             remove the grant"
        )))
    })
}

/// Returns the error for a change of the network of a sandbox that has no granted hosts, or to such a network.
pub fn no_hosts() -> IsolationError {
    refused(&"the sandbox or the new network has no granted hosts — create another sandbox")
}
