//! One connection of a sandbox, from its acceptance to its record.

use crate::{
    budget::Meter,
    dns,
    gate::Gate,
    grant::{Access, Carried, NetGrants, Transport},
    hello,
    http::{
        HeadError, RequestCheck,
        forward::{Requests, Stopped, refusal},
    },
    limits::MAX_FIRST_BYTES,
    name::HostName,
    progress::Progress,
    reach::Reached,
    record::{FlowEnd, FlowKind, FlowRefusal, FlowVerdict},
    relay::{Direction, read_some},
    resolve::permitted,
    socket::{Client, Socket},
    synthetic::is_synthetic,
};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::time::{sleep, timeout};

/// The destination that a program chose.
#[derive(Clone)]
pub(crate) enum Wanted {
    Name(HostName),
    Address(IpAddr),
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

/// Serves a connection by its port: as DNS at port 53, and otherwise as a flow. A guest can state any port.
pub(crate) async fn serve_by_port(gate: Arc<Gate>, client: Client, late: bool) {
    let is_dns = client.wanted.port() == dns::serve::PORT;
    if is_dns { dns::serve::tcp(gate, client, late).await } else { serve(gate, client, late).await }
}

/// Carries one connection, and records it. `late` is true if the limit on connections per second delayed the connection.
pub(crate) async fn serve(gate: Arc<Gate>, mut client: Client, late: bool) {
    let wanted = client.wanted;
    let mut progress = Progress::new(&gate, FlowKind::Tcp, wanted, late);
    let verdict = match target(&gate, wanted.ip()) {
        Ok(target) => {
            progress.name = target.name().map(ToString::to_string);
            verdict(&gate, &mut client, &target, &progress).await
        }
        Err(refusal) => FlowVerdict::Refused(refusal),
    };
    if matches!(verdict, FlowVerdict::Granted { end: FlowEnd::Closed, .. }) {
        client.close();
    } else {
        client.reset();
    }
    gate.log.add(progress.record(verdict));
}

/// Returns the destination that a program means with the address.
///
/// # Errors
/// The address could belong to a name, but does not.
pub(crate) fn target(gate: &Gate, address: IpAddr) -> Result<Wanted, FlowRefusal> {
    if !is_synthetic(address) {
        return Ok(Wanted::Address(address));
    }
    gate.names().name_of(address).cloned().map(Wanted::Name).ok_or(FlowRefusal::NoName)
}

/// The form of a grant, without a port.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Wanted {
    pub(crate) fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }

    pub(crate) fn access(&self, grants: &NetGrants, transport: Transport, port: u16) -> Option<Access> {
        match self {
            Self::Name(name) => grants.name(transport, name, port),
            Self::Address(address) => grants.address(transport, *address, port),
        }
    }
}

async fn verdict(gate: &Gate, client: &mut Client, target: &Wanted, progress: &Progress) -> FlowVerdict {
    let (wanted, port, socket) = (client.wanted, client.wanted.port(), client.socket.clone());
    let Some(access) = target.access(&gate.grants(), Transport::Tcp, port) else {
        return FlowVerdict::Refused(FlowRefusal::NotGranted);
    };
    let _admitted = match gate.admit() {
        Ok(permit) => permit,
        Err(refusal) => return FlowVerdict::Refused(refusal),
    };
    let flow = Flow { gate, client: &socket, target, wanted, port, access: &access, progress };
    let ended = tokio::select! {
        // The bytes of a connection that broke in the guest end like those of a connection that was closed.
        biased;
        why = client.broken() => Err(Cut::End(FlowEnd::Broken(why))),
        ended = flow.run() => ended,
        end = gate.withdrawn(|grants| flow.is_granted(grants)) => Err(Cut::End(end)),
        () = gate.budget.exhausted() => Err(Cut::Refused(FlowRefusal::UsedUp)),
        never = progress.report(&gate.log, &access.rule) => match never {},
    };
    let connected = progress.connected.get().is_some();
    if let Err(Cut::Refused(FlowRefusal::Request(error))) = &ended
        && !connected
    {
        flow.explain(error).await;
    }
    verdict_of(access.rule, ended, connected)
}

/// Returns the decision about a flow with this grant that has ended.
pub(crate) fn verdict_of(rule: String, ended: Result<(), Cut>, connected: bool) -> FlowVerdict {
    let end = match ended {
        Ok(()) => FlowEnd::Closed,
        Err(Cut::End(end)) => end,
        Err(Cut::Refused(refusal)) if !connected => return FlowVerdict::Refused(refusal),
        Err(Cut::Refused(refusal)) => FlowEnd::Refused(refusal),
    };
    FlowVerdict::Granted { rule, end }
}

/// A flow that a grant allows.
pub(crate) struct Flow<'a> {
    pub(crate) gate: &'a Gate,
    pub(crate) client: &'a Arc<Socket>,
    pub(crate) target: &'a Wanted,
    /// The address and port that the program used.
    pub(crate) wanted: SocketAddr,
    pub(crate) port: u16,
    pub(crate) access: &'a Access,
    pub(crate) progress: &'a Progress,
}

impl Flow<'_> {
    /// Carries the flow. Each way has memory of its own, so that a flow does not take that of the largest way.
    async fn run(&self) -> Result<(), Cut> {
        match (self.access.carried, self.target) {
            (Carried::Http, Wanted::Name(name)) => Box::pin(self.http(name)).await,
            (Carried::Tls, Wanted::Name(name)) => {
                let first = self.hello(name).await?;
                match &self.gate.inspector {
                    Some(inspector) if inspector.wants(name, self.port, self.access) => {
                        Box::pin(self.inspected(name, first, inspector)).await
                    }
                    // `enforceable` refuses such grants. Without this check, they would allow every request.
                    None if !self.access.requests.is_empty() => Err(FlowRefusal::NotGranted.into()),
                    _ => Box::pin(self.bytes(first)).await,
                }
            }
            _ => Box::pin(self.bytes(Vec::new())).await,
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
        let ended = self.requests(&mut requests).await;
        let of_request = |error: &HeadError| matches!(error, HeadError::NotAllowed | HeadError::Override(_) | HeadError::Path(_));
        if let Err(Cut::Refused(FlowRefusal::Request(error))) = &ended
            && of_request(error)
            && let Some(line) = requests.refused()
        {
            let _ = self.progress.refused.set(line);
        }
        ended
    }

    async fn requests(&self, requests: &mut Requests<'_>) -> Result<(), Cut> {
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
        let meter = Meter::new(self.gate.budget.clone());
        let to = Direction { from: self.client, to: self.client, meter: &meter, pipes: &self.gate.pipes };
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

    fn up<'b>(&'b self, stream: &'b Socket) -> Direction<'b> {
        Direction { from: self.client, to: stream, meter: &self.progress.sent, pipes: &self.gate.pipes }
    }

    fn down<'b>(&'b self, stream: &'b Socket) -> Direction<'b> {
        Direction { from: stream, to: self.client, meter: &self.progress.received, pipes: &self.gate.pipes }
    }

    /// Ends the work if no byte is carried for the idle limit.
    pub(crate) async fn until_idle<T>(&self, work: impl Future<Output = Result<T, Cut>>) -> Result<T, Cut> {
        let carried = || self.progress.sent.carried() + self.progress.received.carried();
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

    /// Returns true if the grants allow the flow as the grants of its start did.
    fn is_granted(&self, grants: &NetGrants) -> bool {
        let access = self.target.access(grants, Transport::Tcp, self.port);
        let address = self.progress.peer().map(|address| [address.ip()]);
        let same = |now: &Access| {
            let approved = self.access.approval || !now.approval;
            now.carried == self.access.carried && now.requests == self.access.requests && approved
        };
        access.as_ref().is_some_and(same)
            && address.is_none_or(|address| permitted(grants, Transport::Tcp, &address, self.port).is_ok())
    }
}
