//! One connection of a sandbox, from its acceptance to its record.

use crate::{
    gate::Gate,
    grant::{Access, Carried, NetGrants},
    hello,
    http::{
        HeadError, RequestCheck,
        forward::{Requests, Stopped, refusal},
    },
    limits::MAX_FIRST_BYTES,
    name::HostName,
    reach::Reached,
    record::{FlowEnd, FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
    relay::{Direction, read_some},
    resolve::permitted,
    synthetic::is_synthetic,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// The destination that a program chose.
pub(crate) enum Wanted {
    Name(HostName),
    Address(IpAddr),
}

/// The progress of a flow, for its record.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) sent: Arc<AtomicU64>,
    pub(crate) received: Arc<AtomicU64>,
    /// The destination outside, once connected. The inner `None` means that a proxy chose the destination.
    pub(crate) connected: OnceLock<Option<SocketAddr>>,
}

/// The reason why a flow did not end by itself.
pub(crate) enum Cut {
    Refused(FlowRefusal),
    End(FlowEnd),
}

impl<E: Into<FlowRefusal>> From<E> for Cut {
    fn from(refusal: E) -> Self {
        Self::Refused(refusal.into())
    }
}

pub(crate) fn broken(error: &io::Error) -> Cut {
    Cut::End(FlowEnd::Broken(error.to_string()))
}

impl From<Stopped> for Cut {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Refused(refusal) => Self::Refused(refusal),
            Stopped::Broken(error) => broken(&error),
        }
    }
}

/// Carries one connection, and records it.
pub(crate) async fn serve(gate: Arc<Gate>, client: TcpStream) {
    // The destination is unknown if the connection was reset before it was accepted.
    let Ok(wanted) = client.local_addr() else { return };
    let wanted = SocketAddr::new(wanted.ip().to_canonical(), wanted.port());
    let client = Arc::new(client);
    let (started, clock) = (SystemTime::now(), Instant::now());
    let progress = Progress::default();
    let (target, verdict) = match target(&gate, wanted.ip()) {
        Ok(target) => {
            let verdict = verdict(&gate, &client, &target, wanted, &progress).await;
            (Some(target), verdict)
        }
        Err(refusal) => (None, FlowVerdict::Refused(refusal)),
    };
    if !matches!(verdict, FlowVerdict::Granted { end: FlowEnd::Closed, .. }) {
        // A reset, unlike a close, shows the program that the data is incomplete. If the call fails, the connection has ended
        // already.
        let _ = client.set_zero_linger();
    }
    drop(client);
    gate.log.add(FlowRecord {
        started,
        lasted: clock.elapsed(),
        kind: FlowKind::Tcp,
        name: target.and_then(|target| match target {
            Wanted::Name(name) => Some(name.to_string()),
            Wanted::Address(_) => None,
        }),
        wanted,
        connected: progress.connected.get().copied().flatten(),
        address_checked: progress.connected.get() != Some(&None),
        sent: progress.sent.load(Ordering::Relaxed),
        received: progress.received.load(Ordering::Relaxed),
        request: None,
        verdict,
    });
}

fn target(gate: &Gate, address: IpAddr) -> Result<Wanted, FlowRefusal> {
    if !is_synthetic(address) {
        return Ok(Wanted::Address(address));
    }
    gate.names().name_of(address).cloned().map(Wanted::Name).ok_or(FlowRefusal::NoName)
}

impl Wanted {
    fn access(&self, grants: &NetGrants, port: u16) -> Option<Access> {
        match self {
            Self::Name(name) => grants.tcp_name(name, port),
            Self::Address(address) => grants.tcp_address(*address, port),
        }
    }
}

async fn verdict(gate: &Gate, client: &Arc<TcpStream>, target: &Wanted, wanted: SocketAddr, progress: &Progress) -> FlowVerdict {
    let port = wanted.port();
    let Some(access) = target.access(&gate.grants(), port) else {
        return FlowVerdict::Refused(FlowRefusal::NotGranted);
    };
    let flow = Flow { gate, client, target, wanted, port, access: &access, progress };
    let ended = tokio::select! {
        ended = flow.run() => ended,
        end = flow.withdrawn() => Err(Cut::End(end)),
    };
    let end = match ended {
        Ok(()) => FlowEnd::Closed,
        Err(Cut::End(end)) => end,
        Err(Cut::Refused(refusal)) if progress.connected.get().is_none() => {
            if let FlowRefusal::Request(error) = &refusal {
                flow.explain(error).await;
            }
            return FlowVerdict::Refused(refusal);
        }
        Err(Cut::Refused(refusal)) => FlowEnd::Refused(refusal),
    };
    FlowVerdict::Granted { rule: access.rule, end }
}

/// A flow that a grant allows.
pub(crate) struct Flow<'a> {
    pub(crate) gate: &'a Gate,
    pub(crate) client: &'a Arc<TcpStream>,
    pub(crate) target: &'a Wanted,
    /// The address and port that the program used.
    pub(crate) wanted: SocketAddr,
    pub(crate) port: u16,
    pub(crate) access: &'a Access,
    pub(crate) progress: &'a Progress,
}

impl Flow<'_> {
    async fn run(&self) -> Result<(), Cut> {
        // Small writes must leave at once, as they would without a gateway. If the calls fail, the connection has ended already.
        let _ = self.client.set_nodelay(true);
        match (self.access.carried, self.target) {
            (Carried::Http, Wanted::Name(name)) => self.http(name).await,
            (Carried::Tls, Wanted::Name(name)) => {
                let first = self.hello(name).await?;
                match &self.gate.inspector {
                    Some(inspector) if inspector.wants(name, self.port, self.access) => {
                        self.inspected(name, first, inspector).await
                    }
                    // `enforceable` refuses such grants. Without this check, they would allow every request.
                    None if !self.access.requests.is_empty() => Err(FlowRefusal::NotGranted.into()),
                    _ => self.bytes(first).await,
                }
            }
            _ => self.bytes(Vec::new()).await,
        }
    }

    /// Reads the ClientHello and checks its name.
    async fn hello(&self, name: &HostName) -> Result<Vec<u8>, Cut> {
        let mut first = Vec::new();
        let read = async {
            loop {
                if let Some(hello) = hello::decode(&first)? {
                    hello::check(&hello, name)?;
                    return Ok(());
                }
                let more = read_some(self.client, &mut first, MAX_FIRST_BYTES).await.map_err(|error| broken(&error))?;
                if !more {
                    return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
                }
            }
        };
        timeout(self.gate.limits.first_bytes, read).await.unwrap_or(Err(Cut::Refused(FlowRefusal::TimedOut("ClientHello"))))?;
        Ok(first)
    }

    /// Carries bytes without examining them.
    async fn bytes(&self, first: Vec<u8>) -> Result<(), Cut> {
        let Reached { stream, early } = self.reach().await?;
        let (up, down) = (self.up(&stream), self.down(&stream));
        let up = async {
            up.write(&first).await?;
            drop(first);
            up.pump_to_end().await
        };
        let down = async {
            down.write(&early).await?;
            down.pump_to_end().await
        };
        self.until_idle(async { tokio::try_join!(up, down).map(drop).map_err(|error| broken(&error)) }).await
    }

    /// Carries HTTP/1, and checks each request.
    async fn http(&self, name: &HostName) -> Result<(), Cut> {
        let check = RequestCheck { name, port: self.port, rules: &self.access.requests };
        let mut requests = Requests::new(check, self.gate.limits.first_bytes);
        let Some(first) = self.until_idle(async { Ok(requests.next(self.client).await?) }).await? else { return Ok(()) };
        let Reached { stream, early } = self.reach().await?;
        let (up, down) = (self.up(&stream), self.down(&stream));
        let up = async { requests.forward(first, up).await.map_err(Cut::from) };
        let down = async {
            down.write(&early).await.map_err(|error| broken(&error))?;
            down.pump_to_end().await.map_err(|error| broken(&error))
        };
        self.until_idle(async { tokio::try_join!(up, down).map(drop) }).await
    }

    /// Answers a refused first request, so that the program and its user learn the reason.
    async fn explain(&self, error: &HeadError) {
        let sent = AtomicU64::new(0);
        let to = Direction { from: self.client, to: self.client, count: &sent, pipes: &self.gate.pipes };
        let answer = async {
            to.write(&refusal(error, self.gate.deny_reason.as_deref())).await?;
            to.finish()?;
            // A reset would discard the answer at the client, so the rest of its request is read first.
            let mut rest = Vec::new();
            while read_some(self.client, &mut rest, MAX_FIRST_BYTES).await? {
                rest.clear();
            }
            io::Result::Ok(())
        };
        // The refusal itself is recorded, whether the client reads the answer or not.
        tokio::select! {
            _ = timeout(self.gate.limits.first_bytes, answer) => {}
            () = self.gate.stopped() => {}
        }
    }

    fn up<'b>(&'b self, stream: &'b TcpStream) -> Direction<'b> {
        Direction { from: self.client, to: stream, count: &self.progress.sent, pipes: &self.gate.pipes }
    }

    fn down<'b>(&'b self, stream: &'b TcpStream) -> Direction<'b> {
        Direction { from: stream, to: self.client, count: &self.progress.received, pipes: &self.gate.pipes }
    }

    /// Ends the work if no byte is carried for the idle limit.
    pub(crate) async fn until_idle<T>(&self, work: impl Future<Output = Result<T, Cut>>) -> Result<T, Cut> {
        let carried = || self.progress.sent.load(Ordering::Relaxed) + self.progress.received.load(Ordering::Relaxed);
        let idle = async {
            let mut before = None;
            while before != Some(carried()) {
                before = Some(carried());
                sleep(self.gate.limits.idle).await;
            }
        };
        tokio::select! {
            result = work => result,
            () = idle => Err(Cut::End(FlowEnd::Idle)),
        }
    }

    /// Waits until the grants no longer allow the flow, or until the gateway stops.
    async fn withdrawn(&self) -> FlowEnd {
        let mut grants = self.gate.grants.clone();
        loop {
            if grants.changed().await.is_err() {
                return FlowEnd::Stopped;
            }
            let grants = grants.borrow_and_update().clone();
            let same = self
                .target
                .access(&grants, self.port)
                .is_some_and(|now| now.carried == self.access.carried && now.requests == self.access.requests);
            let address = self.progress.connected.get().copied().flatten().map(|address| [address.ip()]);
            if !same || address.is_some_and(|address| permitted(&grants, &address, self.port).is_err()) {
                return FlowEnd::Revoked;
            }
        }
    }
}
