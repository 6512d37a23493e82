//! The gateway of a running sandbox.

use super::{
    EgressSettings,
    approvals::GatewayApprovals,
    descriptors::{self, DescriptorShare},
    ports_of,
    record::GatewayLog,
    refused,
};
use agentd_core::{Control, ControlError, IsolationError, NetworkApprovals, NetworkLog};
use agentd_egress::{
    Gateway, GatewayConfig, GatewaySockets, NetGrants, approval::HostApprovals, grant::Transport, limits::FlowLimits,
    synthetic::SyntheticNames,
};
use agentd_kernel::gateway::GatewaySocket;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::MutexGuard;

/// The time in which connections may end by themselves after their programs have ended, because data may still be forwarded.
const LAST_FLOWS: Duration = Duration::from_secs(2);

/// The maximum number of different ports at which a gateway listens. The gateway continues to listen on a port after its network
/// grants were revoked. Otherwise, a new socket could be bound to the port only after the kernel has forgotten the last
/// connections.
const MAX_LISTENING: usize = 96;

/// The gateway of one sandbox.
pub(crate) struct SandboxGateway {
    running: Mutex<Option<Gateway>>,
    log: GatewayLog,
    approvals: HostApprovals,
    /// The ports at which the gateway has sockets. Locked during a change of the grants, so that changes happen one after the
    /// other.
    ports: tokio::sync::Mutex<BTreeSet<(Transport, u16)>>,
    has_v6: bool,
    /// True if the gateway can inspect TLS.
    inspects: bool,
    environment: Vec<(OsString, OsString)>,
    _descriptors: DescriptorShare,
}

impl SandboxGateway {
    /// Starts a gateway that serves the sockets.
    ///
    /// # Errors
    /// The reason why the gateway does not start. The sockets are then closed.
    pub(crate) async fn start(sockets: Vec<(GatewaySocket, OwnedFd)>, settings: EgressSettings) -> Result<Self, IsolationError> {
        let mut taken = GatewaySockets::default();
        for (purpose, socket) in sockets {
            match purpose {
                GatewaySocket::Tcp => &mut taken.tcp,
                GatewaySocket::Udp => &mut taken.udp,
                GatewaySocket::DnsTcp => &mut taken.dns_tcp,
                GatewaySocket::DnsUdp => &mut taken.dns_udp,
                GatewaySocket::Attempts => &mut taken.attempts,
            }
            .push(socket);
        }
        Self::serve(taken, settings, descriptors::reserve()?).await
    }

    /// As [`SandboxGateway::start`], with these bounds.
    pub(super) async fn serve(
        taken: GatewaySockets,
        EgressSettings { gateway: config, environment, .. }: EgressSettings,
        (limits, share): (FlowLimits, DescriptorShare),
    ) -> Result<Self, IsolationError> {
        let from_guest = taken.guest.is_some();
        let config = GatewayConfig { limits, ..config };
        // One socket for each family.
        let (ports, has_v6) = (ports_of(&config.grants), taken.dns_udp.len() > 1);
        let inspects = config.inspection.is_some();
        let failed = |error| ControlError::caused_by(Control::Network, "start the gateway", error);
        let gateway = Gateway::start(taken, config).await.map_err(failed)?;
        let (log, approvals) = (gateway.log().clone(), gateway.approvals().clone());
        Ok(Self {
            running: Mutex::new(Some(gateway)),
            log: GatewayLog { log, from_guest },
            approvals,
            ports: ports.into(),
            has_v6,
            inspects,
            environment,
            _descriptors: share,
        })
    }

    /// Begins a change to these network grants. The caller must create a bound socket for each port of
    /// [`GatewayChange::missing`], and pass the sockets to [`GatewayChange::apply`].
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] if the gateway would listen at too many ports. Also for a grant that needs inspection if the
    /// gateway does not inspect TLS, because the programs of the sandbox then have no certificates.
    pub(crate) async fn begin_change<'a>(&'a self, grants: &'a NetGrants) -> Result<GatewayChange<'a>, IsolationError> {
        if let Some(grant) = grants.need_inspection().filter(|_| !self.inspects) {
            return Err(refused(&format!(
                "network grant {grant}: a method and path inside of TLS need inspection, which the sandbox was created without — \
                 remove the method and path, or create another sandbox with this grant"
            )));
        }
        let listening = self.ports.lock().await;
        let missing: BTreeSet<_> = ports_of(grants).difference(&listening).copied().collect();
        let count = listening.len() + missing.len();
        if count > MAX_LISTENING {
            return Err(refused(&format!(
                "{count} different ports have been granted since the processes of the sandbox were started; the maximum is \
                 {MAX_LISTENING} — end these processes, then try again"
            )));
        }
        Ok(GatewayChange { gateway: self, grants, listening, missing })
    }

    /// Returns the TCP ports at which the gateway listens.
    pub(super) async fn listening(&self) -> Vec<u16> {
        self.ports.lock().await.iter().filter(|port| port.0 == Transport::Tcp).map(|port| port.1).collect()
    }

    /// Notes TCP ports at which the sockets of the sandbox listen, in addition to those of the grants.
    pub(super) async fn listens_also_at(&self, ports: Vec<u16>) {
        self.ports.lock().await.extend(ports.into_iter().map(|port| (Transport::Tcp, port)));
    }

    /// Returns the names that have an address so far. `None` if the gateway has stopped.
    pub(super) fn names(&self) -> Option<SyntheticNames> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Gateway::names)
    }

    /// Returns true if the gateway listens at the TCP port. No program in the sandbox can then listen there.
    pub(crate) async fn listens_at(&self, port: u16) -> bool {
        self.ports.lock().await.contains(&(Transport::Tcp, port))
    }

    /// Waits up to [`LAST_FLOWS`] for connections to end by themselves. Then ends all other connections, and waits until they are
    /// recorded.
    pub(crate) async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(gateway) = running {
            // The programs have ended, so nobody needs the connections that wait for an approval.
            gateway.approvals().close();
            gateway.idle(LAST_FLOWS).await;
            gateway.stop().await;
        }
    }

    /// Returns the variables that commands need.
    pub(crate) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// Returns the requests for approvals of hosts.
    pub(crate) fn approvals(&self) -> Arc<dyn NetworkApprovals> {
        self.approvals.serve();
        Arc::new(GatewayApprovals(self.approvals.clone()))
    }

    /// Returns the queue of the flows.
    pub(crate) fn log(&self) -> Arc<dyn NetworkLog> {
        Arc::new(self.log.clone())
    }
}

/// A change of the network grants that has begun. No other change begins until this value is dropped.
pub(crate) struct GatewayChange<'a> {
    gateway: &'a SandboxGateway,
    grants: &'a NetGrants,
    listening: MutexGuard<'a, BTreeSet<(Transport, u16)>>,
    missing: BTreeSet<(Transport, u16)>,
}

impl GatewayChange<'_> {
    /// Returns the ports and families at which a socket must be bound; true stands for IPv6.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (Transport, u16, bool)> + use<'_> {
        let families: &[bool] = if self.gateway.has_v6 { &[false, true] } else { &[false] };
        self.missing.iter().flat_map(|(transport, port)| families.iter().map(|v6| (*transport, *port, *v6)))
    }

    /// Adds the sockets to the gateway, and replaces the network grants. Ends connections that the new network grants do not
    /// allow.
    ///
    /// # Errors
    /// The gateway has stopped, or a descriptor is not such a socket. The old network grants then still apply.
    pub(crate) fn apply(mut self, sockets: Vec<OwnedFd>) -> Result<(), IsolationError> {
        let failed = |error| ControlError::caused_by(Control::Network, "change the grants of the gateway", error);
        let running = self.gateway.running.lock().unwrap_or_else(PoisonError::into_inner);
        let gateway = running.as_ref().ok_or_else(|| IsolationError::SandboxGone("destroyed".to_owned()))?;
        for socket in sockets {
            gateway.listen(socket).map_err(failed)?;
        }
        // The gateway refuses connections to a port without a network grant, so its socket may remain.
        self.listening.append(&mut self.missing);
        Ok(gateway.set_grants(self.grants.clone()).map_err(failed)?)
    }
}
