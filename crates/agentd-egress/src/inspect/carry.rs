//! Carries a flow by inspection: TLS to the sandbox with the authority of the sandbox, and verified TLS to the server.

use super::{Inspector, error::InspectRefusal, exchange::Exchange, session::Session, tunnel::TunnelEnd, wire::Wire};
use crate::{
    flow::{Cut, Flow, broken},
    name::HostName,
    reach::{Reached, unreachable},
    record::{FlowEnd, FlowRefusal, RequestLog},
};
use rustls::pki_types::ServerName;
use std::{io, sync::Arc};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// A client's handshake that waits for the choice of the protocol.
struct Offer {
    handshake: StartHandshake<Wire>,
    /// The protocols that both the client and the gateway speak.
    protocols: Vec<Vec<u8>>,
    /// True if the client expects an answer to its offer.
    negotiates: bool,
}

impl Flow<'_> {
    /// Carries the flow, whose ClientHello was checked and begins with `first`.
    pub(crate) async fn inspected(&self, name: &HostName, first: Vec<u8>, inspector: &Arc<Inspector>) -> Result<(), Cut> {
        // A flow that waits for a user takes no memory of an inspected one, and must not delay the others.
        self.approve().await?;
        // Further flows wait, so that their number bounds the memory.
        let _turn = self.gate.inspected.acquire().await;
        let client = Wire::new(self.client.clone(), first, self.progress.received.clone());
        let time_limit = self.gate.limits.first_bytes;
        let offer =
            timeout(time_limit, offer(client)).await.unwrap_or(Err(Cut::Refused(FlowRefusal::TimedOut("ClientHello"))))?;
        let Reached { stream, early } = self.reach().await?;
        let server = Wire::new(Arc::new(stream), early, self.progress.sent.clone());
        let domain = ServerName::try_from(name.to_string()).map_err(|error| unreachable(&io::Error::other(error)))?;
        let connect = inspector.connector.with_alpn(offer.protocols.clone()).connect(domain, server);
        let server = timeout(self.gate.limits.connect, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let server = server.map_err(|error| unreachable(&error))?;
        let chosen = server.get_ref().1.alpn_protocol().unwrap_or(HTTP_1).to_vec();
        if !offer.protocols.contains(&chosen) {
            return Err(Cut::Refused(InspectRefusal::Protocol.into()));
        }
        let two = chosen == HTTP_2;
        let config = inspector.server(name, if offer.negotiates { vec![chosen] } else { Vec::new() });
        let config = config.map_err(|error| broken(&io::Error::other(error)))?;
        let accepted = timeout(time_limit, offer.handshake.into_stream(config)).await;
        let client = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| broken(&error))?;
        let session = Session { client, server, two, time_limit };
        self.until_idle(async { session.serve(self.prepare(name, inspector)).await.map_err(Cut::from) }).await
    }

    fn prepare(&self, name: &HostName, inspector: &Arc<Inspector>) -> super::session::Prepare {
        let log = RequestLog {
            log: self.gate.log.clone(),
            name: name.to_string(),
            wanted: self.wanted,
            connected: self.progress.connected.get().copied().flatten(),
            address_checked: self.progress.connected.get() != Some(&None),
        };
        let (inspector, name, port, rules) = (inspector.clone(), name.clone(), self.port, self.access.requests.clone());
        Box::new(move |sender, tunnels, marks| Exchange { inspector, name, port, rules, log, sender, tunnels, marks })
    }
}

impl From<TunnelEnd> for Cut {
    fn from(end: TunnelEnd) -> Self {
        match end {
            TunnelEnd::Refused(refusal) => Self::Refused(refusal),
            TunnelEnd::Broken(error) => Self::End(FlowEnd::Broken(error.to_string())),
        }
    }
}

/// Reads the ClientHello again, now with all of its content.
async fn offer(client: Wire) -> Result<Offer, Cut> {
    let handshake = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), client).await.map_err(|error| broken(&error))?;
    let offered: Option<Vec<Vec<u8>>> = handshake.client_hello().alpn().map(|all| all.map(<[u8]>::to_vec).collect());
    let negotiates = offered.is_some();
    let mut protocols = offered.unwrap_or_else(|| vec![HTTP_1.to_vec()]);
    protocols.retain(|one| one == HTTP_1 || one == HTTP_2);
    if protocols.is_empty() {
        return Err(Cut::Refused(InspectRefusal::Protocol.into()));
    }
    Ok(Offer { handshake, protocols, negotiates })
}
