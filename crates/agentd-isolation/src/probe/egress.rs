//! The attacks on the gateway to granted hosts, and the servers that they try to reach.

use super::{Attackable, attack_sandbox, no_result};
use agentd_attack::Facts;
use agentd_core::{Evidence, EvidenceResult, IsolationError, Network, NetworkMode, SandboxSpec};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

/// Addresses of the loopback interface: the granted address, and another address.
const GRANTED: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The granted name. No resolver finds an address for this name (RFC 6761, 6.4).
const NAME: &str = "granted.invalid";

/// Servers on the host's loopback. Each sends a byte to its clients.
struct Servers {
    listeners: [TcpListener; 3],
    datagrams: UdpSocket,
}

impl Servers {
    async fn make() -> io::Result<Self> {
        let granted = TcpListener::bind((GRANTED, 0)).await?;
        let another = TcpListener::bind((OTHER_ADDRESS, granted.local_addr()?.port())).await?;
        let other_port = TcpListener::bind((GRANTED, 0)).await?;
        let datagrams = UdpSocket::bind((GRANTED, 0))?;
        datagrams.set_nonblocking(true)?;
        Ok(Self { listeners: [granted, another, other_port], datagrams })
    }

    fn facts(&self) -> io::Result<(SocketAddr, Facts)> {
        let [granted, another, other_port] = &self.listeners;
        let granted = granted.local_addr()?;
        let facts = [
            ("granted", granted),
            ("other_address", another.local_addr()?),
            ("other_port", other_port.local_addr()?),
            ("datagrams", self.datagrams.local_addr()?),
        ];
        Ok((granted, Facts::new(facts.map(|(name, address)| (name.to_owned(), address.to_string())))))
    }

    /// Serves clients until the attacks have ended.
    async fn serve(&self) {
        let [granted, another, other_port] = &self.listeners;
        tokio::join!(greet(granted), greet(another), greet(other_port));
    }
}

async fn greet(listener: &TcpListener) {
    // If accept(2) fails, the attacks cannot be tried.
    while let Ok((mut client, _)) = listener.accept().await {
        // An attack may end before it reads the byte.
        client.write_all(b"x").await.ok();
    }
}

/// Runs the attacks in a sandbox with network grants for one address of the host and one name, and returns the evidence. With
/// [`NetworkMode::Host`], the sandbox has the host's network instead: an attack that also fails there proves nothing.
pub async fn granted_hosts(backend: &impl Attackable, network: NetworkMode) -> Vec<Evidence> {
    let io = |source| IsolationError::Io { context: "create the servers of the probe's attacks".to_owned(), source };
    let tried = async {
        let servers = Servers::make().await.map_err(io)?;
        let (granted, facts) = servers.facts().map_err(io)?;
        let (network, facts) = match network {
            NetworkMode::Egress => {
                let grants = vec![granted.to_string(), format!("{NAME}:{}", granted.port())];
                (Network::Egress(grants), facts.with("name", NAME.to_owned()))
            }
            NetworkMode::Host => (Network::Host, facts),
            NetworkMode::Off => (Network::Off, facts),
        };
        let spec = SandboxSpec { network, ..SandboxSpec::default() };
        let mut evidence = tokio::select! {
            biased;
            evidence = attack_sandbox(backend, spec, &facts) => evidence?,
            () = servers.serve() => return Err(IsolationError::Internal("serve the attacks: accept(2) failed".to_owned())),
        };
        if servers.datagrams.recv(&mut [0]).is_ok() {
            let broken = evidence.iter_mut().filter(|evidence| evidence.check == "a12_send_a_datagram");
            broken.for_each(|evidence| evidence.result = EvidenceResult::Broken("a datagram reached the host".to_owned()));
        }
        Ok(evidence)
    };
    tried.await.unwrap_or_else(|error: IsolationError| {
        let facts = Facts::default().with("granted", String::new());
        let not_tried = |check| no_result(check, error.to_string(), error.remedy().as_str());
        agentd_attack::checks(&facts).map(not_tried).collect()
    })
}
