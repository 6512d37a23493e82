//! Hostile guests: what they state about connections decides nothing, and their connections stay bounded.

use super::*;
use agentd_core::{Network, NetworkFlow, NetworkVerdict};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::{net::TcpListener, task::block_in_place};

/// A sandbox with granted hosts whose guest is played by the test.
struct Networked {
    sandbox: Arc<GuestSandbox>,
    machine: Arc<Counted>,
    peer: Peer,
    received: Vec<u8>,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// Held by one test at a time, because the gateways of a process share its descriptors.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Networked {
    async fn new(grants: &[&str]) -> Self {
        Self::with(Network::Egress(grants.iter().map(|grant| (*grant).to_owned()).collect())).await
    }

    async fn with(network: Network) -> Self {
        let turn = TURN.lock().await;
        let (ours, theirs) = duplex(64 << 10);
        let (mut peer, machine) = (Peer(theirs), Arc::new(Counted::default()));
        let spec = SandboxSpec { network, ..SandboxSpec::default() };
        let how = Attach::New(Box::new(GuestSpec { spec, identity: None, copies: None }));
        let opened = GuestSandbox::open(SandboxId("x".to_owned()), machine.clone(), ours, how);
        let (sandbox, _) = tokio::join!(opened, peer.attach());
        Self { sandbox: sandbox.unwrap(), machine, peer, received: Vec::new(), _turn: turn }
    }

    /// Receives frames until `wanted` returns a value.
    async fn until<T>(&mut self, wanted: impl Fn(Frame<'_, ToGuest>) -> Option<T>) -> T {
        loop {
            while let Some((frame, length)) = frame::decode::<ToGuest>(&self.received, MAX_TO_GUEST).unwrap() {
                let found = wanted(frame);
                self.received.drain(..length);
                if let Some(found) = found {
                    return found;
                }
            }
            assert!(self.peer.0.read_buf(&mut self.received).await.unwrap() > 0, "the host closed the connection");
        }
    }

    /// Receives the number of connections that the guest may open in addition.
    async fn allowed(&mut self) -> u32 {
        self.until(|frame| if let Frame::Message(ToGuest::Connections(more)) = frame { Some(more) } else { None }).await
    }

    async fn connect(&mut self, connection: u32, to: SocketAddr) {
        self.peer.send(FromGuest::Connected { connection, to }).await;
    }

    async fn up(&mut self, connection: u32, bytes: &[u8]) {
        let stream = up(connection);
        self.peer.frame(&Frame::Data { stream, bytes: bytes.into() }).await;
    }

    /// Receives the bytes of a connection until its end. Returns true if the end is not a failure.
    async fn down(&mut self, connection: u32) -> (Vec<u8>, bool) {
        let stream = StreamId { operation: connection, kind: StreamKind::Down };
        let mut all = Vec::new();
        loop {
            let part = self.until(|frame| match frame {
                Frame::Data { stream: of, bytes } if of == stream => Some(Ok(bytes.into_owned())),
                Frame::Eof { stream: of } if of == stream => Some(Err(true)),
                Frame::Abort { stream: of } if of == stream => Some(Err(false)),
                _ => None,
            });
            match part.await {
                Ok(bytes) => all.extend(bytes),
                Err(is_complete) => return (all, is_complete),
            }
        }
    }

    /// Returns the next flow that has ended or was refused.
    fn flow(&self) -> NetworkFlow {
        let log = self.sandbox.network_log().unwrap();
        let mut flows = std::iter::from_fn(|| block_in_place(|| log.next(Duration::from_secs(60))));
        flows.find(|flow| !matches!(flow.verdict, NetworkVerdict::Open { .. })).unwrap()
    }

    /// Destroys the sandbox, whose guest has no connection left.
    async fn destroy(&mut self) {
        let sandbox = self.sandbox.clone();
        let drained = async {
            let id = self.until(|frame| if let Frame::Message(ToGuest::Drain { id }) = frame { Some(id) } else { None }).await;
            self.peer.send(FromGuest::Done { id, bytes: 0 }).await;
        };
        tokio::join!(sandbox.destroy(), drained).0.unwrap();
    }

    /// Waits until the host has ended the machine, and returns the reason.
    async fn reason(&self) -> String {
        while self.sandbox.is_alive().await {
            tokio::task::yield_now().await;
        }
        let reason = self.sandbox.exec(true_command()).await.unwrap_err().to_string();
        while !self.machine.is_killed() {
            tokio::task::yield_now().await;
        }
        reason
    }
}

fn up(connection: u32) -> StreamId {
    StreamId { operation: connection, kind: StreamKind::Up }
}

/// Starts a server that returns what it receives.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = client.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
                to.shutdown().await.ok();
            });
        }
    });
    at
}

/// Returns an address at which nothing listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

fn refusal(flow: &NetworkFlow) -> &str {
    match &flow.verdict {
        NetworkVerdict::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_reaches_its_granted_address_and_its_word_is_recorded_as_such() {
    let (granted, other) = (echo().await, echo().await);
    let mut guest = Networked::new(&[&granted.to_string()]).await;
    assert!(guest.allowed().await > 1);
    guest.connect(0, granted).await;
    guest.up(0, b"hello").await;
    guest.peer.frame(&Frame::Eof { stream: up(0) }).await;
    assert_eq!(guest.down(0).await, (b"hello".to_vec(), true));
    // The place of the connection is free again.
    assert_eq!(guest.allowed().await, 1);
    let flow = guest.flow();
    assert_eq!((flow.wanted, flow.connected, flow.sent, flow.received), (Some(granted), Some(granted), 5, 5));
    assert!(flow.from_guest && flow.verdict == NetworkVerdict::Granted { rule: granted.to_string(), cut: None }, "{flow:?}");
    // Whatever port and form of the address the guest states.
    let IpAddr::V4(address) = other.ip() else { panic!() };
    let mapped = SocketAddr::new(address.to_ipv6_mapped().into(), other.port());
    let forms = [other, mapped, ([169, 254, 169, 254], 80).into(), ([0; 4], 0).into(), ([198, 18, 77, 7], 443).into()];
    for (number, to) in (1..).zip(forms) {
        guest.connect(number, to).await;
        guest.up(number, b"hello").await;
        assert_eq!(guest.down(number).await, (Vec::new(), false), "{to}");
        let flow = guest.flow();
        assert!(flow.from_guest && flow.connected.is_none() && !refusal(&flow).is_empty(), "{flow:?}");
        guest.peer.frame(&Frame::Eof { stream: up(number) }).await;
    }
    guest.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_in_the_grants_outside_of_the_machine() {
    let mut guest = Networked::new(&["granted.invalid:2222"]).await;
    guest.allowed().await;
    let question = |name: &str| {
        let labels = name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()][..], label.as_bytes()].concat());
        [&[0_u8, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &labels.collect::<Vec<_>>(), &[0, 0, 1, 0, 1]].concat()
    };
    let server = IpAddr::from([8, 8, 8, 8]);
    let mut answers = Vec::new();
    for (query, name) in (0..).zip(["other.invalid", "granted.invalid", "x.granted.invalid"]) {
        guest.peer.send(FromGuest::Query { query, to: server, bytes: question(name) }).await;
        let answer = guest.until(|frame| match frame {
            Frame::Message(ToGuest::Answer { query: of, bytes }) if of == query => Some(bytes),
            _ => None,
        });
        answers.push(answer.await);
    }
    let codes: Vec<_> = answers.iter().map(|answer| (answer[3] & 15, answer[7])).collect();
    assert_eq!(codes, [(3, 0), (0, 1), (3, 0)]);
    let asked: Vec<_> = [guest.flow(), guest.flow()].into_iter().map(|flow| (flow.name.unwrap(), flow.from_guest)).collect();
    assert_eq!(asked, [("other.invalid".to_owned(), true), ("x.granted.invalid".to_owned(), true)]);
    // The address of the answer stands for the name. The next address stands for none, whatever the guest says.
    let synthetic: [u8; 4] = answers[1][answers[1].len() - 4..].try_into().unwrap();
    let next = Ipv4Addr::from_bits(Ipv4Addr::from(synthetic).to_bits() + 1);
    for (number, address, name) in [(0, Ipv4Addr::from(synthetic), Some("granted.invalid")), (1, next, None)] {
        guest.connect(number, (address, 2222).into()).await;
        assert!(!guest.down(number).await.1);
        assert_eq!(guest.flow().name.as_deref(), name);
    }
    // Bytes that are not a query get an empty answer.
    guest.peer.send(FromGuest::Query { query: 9, to: server, bytes: vec![0xff; 3] }).await;
    let answer = guest.until(|frame| match frame {
        Frame::Message(ToGuest::Answer { query: 9, bytes }) => Some(bytes),
        _ => None,
    });
    assert_eq!(answer.await, [0; 0]);
    guest.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_that_violates_the_rules_of_connections_is_killed() {
    let to = nowhere().await;
    let data = |connection| Frame::Data { stream: up(connection), bytes: (&b"x"[..]).into() };
    let connected = |connection| Frame::Message(FromGuest::Connected { connection, to });
    let cases: [(Vec<Frame<'_, FromGuest>>, &str); 6] = [
        (vec![connected(1)], "opened connection 1 instead of 0"),
        (vec![connected(0), connected(0)], "opened connection 0 instead of 1"),
        (vec![data(7)], "data for a stream that is not open"),
        (vec![Frame::Eof { stream: up(7) }], "ended a stream that is not open"),
        (vec![connected(0), Frame::Eof { stream: up(0) }, data(0)], "data for a stream that is not open"),
        (vec![connected(0), Frame::Abort { stream: up(0) }, Frame::Eof { stream: up(0) }], "ended a stream that is not open"),
    ];
    for (frames, expected) in cases {
        let mut guest = Networked::new(&[]).await;
        for frame in frames {
            guest.peer.frame(&frame).await;
        }
        let reason = guest.reason().await;
        assert!(reason.contains(expected), "{reason}");
    }
    let mut guest = Networked::with(Network::Off).await;
    guest.connect(0, to).await;
    let reason = guest.reason().await;
    assert!(reason.contains("its sandbox has no granted hosts"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_guest_never_ends_are_bounded() {
    let mut guest = Networked::new(&[]).await;
    let (max, to) = (guest.allowed().await, nowhere().await);
    // The host refuses each connection at once, but the guest does not end its streams.
    for number in 0..max {
        guest.connect(number, to).await;
        assert!(!guest.down(number).await.1);
    }
    assert!(guest.sandbox.is_alive().await);
    guest.connect(max, to).await;
    let reason = guest.reason().await;
    assert!(reason.contains("opened more connections than it may"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_credit_kill_the_machine() {
    // A server that accepts in the kernel only, and never reads.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to = silent.local_addr().unwrap();
    let mut guest = Networked::new(&[&to.to_string()]).await;
    guest.allowed().await;
    guest.connect(0, to).await;
    let part = vec![0; frame::CHUNK];
    // The kernel's buffers are bounded, so the credit ends.
    while guest.sandbox.is_alive().await {
        guest.up(0, &part).await;
    }
    let reason = guest.reason().await;
    assert!(reason.contains("more data than the credit of the stream"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_queries_and_attempts_is_dropped_and_connections_continue() {
    let granted = echo().await;
    let mut guest = Networked::new(&[&granted.to_string()]).await;
    guest.allowed().await;
    for query in 0..5_000 {
        guest.peer.send(FromGuest::Query { query, to: granted.ip(), bytes: vec![0; 60_000 * usize::from(query == 7)] }).await;
        guest.peer.send(FromGuest::Attempt { udp: query % 2 == 0, to: ([10, 0, 0, 5], 9).into() }).await;
    }
    guest.connect(0, granted).await;
    guest.up(0, b"hello").await;
    guest.peer.frame(&Frame::Eof { stream: up(0) }).await;
    assert_eq!(guest.down(0).await, (b"hello".to_vec(), true));
    guest.destroy().await;
    let log = guest.sandbox.network_log().unwrap();
    let flows: Vec<_> = std::iter::from_fn(|| block_in_place(|| log.next(Duration::from_secs(60)))).collect();
    assert!(flows.iter().all(|flow| flow.from_guest) && flows.len() < 5_000, "{}", flows.len());
    assert_eq!(flows.iter().filter(|flow| matches!(flow.verdict, NetworkVerdict::Granted { .. })).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_end_with_the_reason() {
    let granted = echo().await;
    let mut guest = Networked::new(&[&granted.to_string()]).await;
    guest.allowed().await;
    let cut = |flow: NetworkFlow| match flow.verdict {
        NetworkVerdict::Granted { cut, .. } => cut,
        other => panic!("{other:?}"),
    };
    // The program resets its connection.
    guest.connect(0, granted).await;
    guest.up(0, b"hello").await;
    guest.until(|frame| matches!(frame, Frame::Data { .. }).then_some(())).await;
    guest.peer.frame(&Frame::Abort { stream: up(0) }).await;
    assert!(!guest.down(0).await.1);
    assert_eq!(cut(guest.flow()).as_deref(), Some("the program or its machine reset the connection"));
    // A change of the grants ends a connection at once.
    guest.connect(1, granted).await;
    guest.up(1, b"hello").await;
    guest.until(|frame| matches!(frame, Frame::Data { .. }).then_some(())).await;
    guest.sandbox.set_network(&Network::Egress(Vec::new())).await.unwrap();
    assert!(!guest.down(1).await.1);
    assert_eq!(cut(guest.flow()).as_deref(), Some("the network grant was revoked"));
    let again = Network::Egress(vec![granted.to_string()]);
    guest.sandbox.set_network(&again).await.unwrap();
    // The machine is replaced.
    guest.connect(2, granted).await;
    guest.up(2, b"hello").await;
    guest.until(|frame| matches!(frame, Frame::Data { .. }).then_some(())).await;
    guest.sandbox.guest().detach("an earlier state of the machine was restored");
    assert_eq!(cut(guest.flow()).as_deref(), Some("an earlier state of the machine was restored"));
    guest.sandbox.destroy().await.unwrap();
}
