//! The way of a flow to its destination: resolution, the check of the addresses, and the connection.

use crate::{
    approval::ApprovalRefusal,
    connect::{MAX_ADDRESSES, connect},
    flow::{Cut, Flow, Wanted},
    grant::Transport,
    proxy::{ProxyServer, Upstream},
    record::FlowEnd,
    resolve::permitted,
    socket::Socket,
};
use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    task::Poll,
    time::Duration,
};
use tokio::time::timeout;

/// The time between two checks whether the program of a connection that waits for an approval still waits too.
const PRESENCE: Duration = Duration::from_millis(250);

/// A connection outside.
pub(crate) struct Reached {
    pub(crate) stream: Socket,
    /// Bytes that arrived with the answer of a proxy.
    pub(crate) early: Vec<u8>,
}

impl Flow<'_> {
    /// Connects to the destination, after its approval if the grant needs one.
    pub(crate) async fn reach(&self) -> Result<Reached, Cut> {
        self.approve().await?;
        let reached = timeout(self.gate.limits.connect, Box::pin(self.reach_in_time())).await;
        reached.unwrap_or_else(|_| Err(unreachable(&io::ErrorKind::TimedOut.into())))
    }

    /// Waits for the approval of the destination if the grant needs one, and the flow has none yet.
    pub(crate) async fn approve(&self) -> Result<(), Cut> {
        if self.access.approval && self.progress.approved_by.get().is_none() {
            // Only this flow sets the fact.
            let _ = self.progress.approved_by.set(self.approved().await?);
        }
        Ok(())
    }

    /// Waits for the approval of the destination. The request of a program that has given up meanwhile is never sent. A
    /// connection whose destination is already approved does not wait, so its program may close its sending side at once.
    async fn approved(&self) -> Result<String, ApprovalRefusal> {
        let to = format!("{}:{}", self.target, self.port);
        let mut wait = pin!(self.gate.approvals.wait(&to, &self.access.approval_rule, self.gate.limits.approval));
        if let Poll::Ready(approved) = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await {
            return approved;
        }
        loop {
            match timeout(PRESENCE, &mut wait).await {
                Ok(Err(refusal)) => return Err(refusal),
                _ if self.client.has_hung_up() => return Err(ApprovalRefusal::Left),
                Ok(approved) => return approved,
                Err(_) => {}
            }
        }
    }

    async fn reach_in_time(&self) -> Result<Reached, Cut> {
        let _turn = self.gate.connecting.acquire().await;
        let name = self.target.name();
        let proxy = match &self.gate.upstream {
            Upstream::Proxy(proxy) if !proxy.excepts(name, None) => Some(proxy),
            _ => None,
        };
        if let (Some(proxy), Some(name)) = (proxy, name)
            && proxy.sends_names
        {
            let (stream, early) = proxy.tunnel(&format!("{name}:{}", self.port)).await.map_err(|error| unreachable(&error))?;
            return Ok(self.connected(stream, early, None));
        }
        let addresses = match self.target {
            Wanted::Name(name) => self.gate.resolve(name).await.map_err(|error| unreachable(&error))?,
            Wanted::Address(address) => vec![*address],
        };
        let destinations = permitted(&self.gate.grants(), Transport::Tcp, &addresses, self.port)?;
        // A loopback address stands for this host. To a proxy, the same address stands for the proxy's host.
        let is_direct = |to: &SocketAddr, proxy: &ProxyServer| to.ip().is_loopback() || proxy.excepts(None, Some(to.ip()));
        match proxy.filter(|proxy| !destinations.iter().any(|to| is_direct(to, proxy))) {
            Some(proxy) => self.through(proxy, &destinations).await,
            None => {
                let stream = connect(&destinations).await.map_err(|error| unreachable(&error))?;
                let peer = stream.peer_addr().map_err(|error| unreachable(&error))?;
                Ok(self.connected(Socket::Tcp(stream), Vec::new(), Some(peer)))
            }
        }
    }

    /// Connects through a proxy to the first address for which the proxy opens a tunnel.
    async fn through(&self, proxy: &ProxyServer, destinations: &[SocketAddr]) -> Result<Reached, Cut> {
        let mut last = unreachable(&io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for destination in destinations.iter().take(MAX_ADDRESSES) {
            match proxy.tunnel(&destination.to_string()).await {
                Ok((stream, early)) => return Ok(self.connected(stream, early, Some(*destination))),
                Err(error) => last = unreachable(&error),
            }
        }
        Err(last)
    }

    fn connected(&self, stream: Socket, early: Vec<u8>, to: Option<SocketAddr>) -> Reached {
        let _ = self.progress.connected.set(to);
        self.progress.record_open(&self.gate.log, &self.access.rule);
        Reached { stream, early }
    }
}

pub(crate) fn unreachable(error: &io::Error) -> Cut {
    Cut::End(FlowEnd::Unreachable(error.to_string()))
}
