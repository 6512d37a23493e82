//! A sandbox with its gateway, and servers outside.

use crate::namespace::{enter_sandbox, socket};
use agentd_egress::{
    Gateway, GatewayConfig, GatewayError, GatewaySockets, NetGrants, Resolve, grant::Transport, name::HostName,
    record::FlowRecord,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use rustix::net::SocketType;
use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        mpsc::{channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// A bound on every wait, so that a failure ends the test.
pub const LONG: Duration = Duration::from_secs(60);

/// The time after which a query is sent again, as resolvers do (RFC 1035, 4.2.1). The kernel occasionally drops an IPv6 datagram
/// in a new network namespace: `sendmsg` succeeds, and `Ip6OutNoRoutes` counts it.
const RESEND: Duration = Duration::from_secs(1);

/// Names outside. Each call of the resolver returns the next answer of a name, and all later calls the last one.
#[derive(Default)]
pub struct Names(Mutex<HashMap<HostName, Vec<Vec<IpAddr>>>>);

impl Names {
    pub fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let parse = |answers: &[&[&str]]| {
            answers.iter().rev().map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect()).collect()
        };
        Arc::new(Self(Mutex::new(names.iter().map(|(name, answers)| (name.parse().unwrap(), parse(answers))).collect())))
    }
}

impl Resolve for Names {
    fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() })
    }
}

/// The inside of a sandbox. Its methods are called in the sandbox's thread.
pub struct Inside<'a> {
    pub gateway: &'a Gateway,
}

/// Runs `client` in a sandbox with listeners on the ports, and UDP sockets at the ports that are granted with UDP. Returns its
/// result and all records.
pub fn sandbox<R: Send>(
    config: GatewayConfig,
    ports: &[u16],
    client: impl FnOnce(&Inside<'_>) -> R + Send,
) -> (R, Vec<FlowRecord>) {
    let (ready, sockets) = channel();
    let granted = config.grants.iter().filter(|grant| grant.transport() == Transport::Udp);
    let datagrams: BTreeSet<u16> = granted.map(|grant| grant.port).collect();
    let (start, started) = sync_channel::<Arc<Gateway>>(1);
    let (result, gateway) = thread::scope(|scope| {
        let inside = scope.spawn(move || {
            enter_sandbox();
            ready.send(sockets_of(ports, &datagrams)).unwrap();
            let gateway = started.recv().unwrap();
            client(&Inside { gateway: &gateway })
        });
        // The gateway's thread must be in the outer namespace, so this thread starts it.
        let gateway = Arc::new(start_gateway(sockets.recv().unwrap(), config).unwrap());
        start.send(gateway.clone()).unwrap();
        (inside.join(), gateway)
    });
    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let log = gateway.log().clone();
    drop(Arc::into_inner(gateway).unwrap());
    assert_eq!(log.take_dropped(), 0);
    (result, std::iter::from_fn(|| log.next(LONG)).collect())
}

/// Starts a gateway.
pub fn start_gateway(sockets: GatewaySockets, config: GatewayConfig) -> Result<Gateway, GatewayError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(Gateway::start(sockets, config))
}

fn sockets_of(ports: &[u16], datagrams: &BTreeSet<u16>) -> GatewaySockets {
    let both = |kind, port| [false, true].map(|v6| socket(v6, kind, port));
    GatewaySockets {
        tcp: ports.iter().flat_map(|port| both(SocketType::STREAM, *port)).collect(),
        udp: datagrams.iter().flat_map(|port| both(SocketType::DGRAM, *port)).collect(),
        dns_udp: both(SocketType::DGRAM, 53).into(),
        dns_tcp: both(SocketType::STREAM, 53).into(),
        ..GatewaySockets::default()
    }
}

pub fn config(grants: &str, names: Arc<Names>) -> GatewayConfig {
    let mut config = GatewayConfig::new(grants.parse::<NetGrants>().unwrap());
    config.resolver = names;
    config.limits.flows = 40;
    config
}

impl Inside<'_> {
    /// Queries the server at this address over UDP.
    pub fn ask_at(&self, server: &str, name: &str, kind: RecordType) -> (ResponseCode, Option<IpAddr>) {
        let server: SocketAddr = server.parse().unwrap();
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        // The kernel then discards an answer from another address.
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(RESEND)).unwrap();
        let mut buffer = [0; 1500];
        let deadline = Instant::now() + LONG;
        loop {
            socket.send(&question(name, kind)).unwrap();
            match socket.recv(&mut buffer) {
                Ok(length) => return answer(&buffer[..length]),
                Err(error) => assert!(error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Queries a server over TCP.
    pub fn ask_over_tcp(&self, name: &str, kind: RecordType) -> (ResponseCode, Option<IpAddr>) {
        let mut stream = TcpStream::connect("8.8.4.4:53").unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let question = question(name, kind);
        stream.write_all(&[&u16::try_from(question.len()).unwrap().to_be_bytes()[..], &question].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).unwrap();
        answer(&reply)
    }

    /// Returns the next record of an attempt or flow that has ended.
    pub fn next_end(&self) -> FlowRecord {
        let mut records = std::iter::from_fn(|| self.gateway.log().next(LONG));
        records.find(|record| !record.is_open()).unwrap()
    }

    /// Returns the IPv4 address of the name at this port.
    pub fn address(&self, name: &str, port: u16) -> SocketAddr {
        let address = self.ask_at("198.18.0.1:53", name, RecordType::A).1;
        SocketAddr::new(address.unwrap_or_else(|| panic!("{name} has no address")), port)
    }

    /// Connects to the name at its IPv4 address.
    pub fn connect(&self, name: &str, port: u16) -> TcpStream {
        self.connect_to(self.address(name, port))
    }

    /// Connects and reads to the end. The gateway may reset the connection before the call returns.
    pub fn attempt(&self, address: SocketAddr) -> Result<Vec<u8>, io::ErrorKind> {
        let stream = TcpStream::connect(address).map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(LONG)).unwrap();
        rest(&stream)
    }

    pub fn connect_to(&self, address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }
}

/// Reads to the end. A reset is an error.
pub fn rest(mut stream: &TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.kind())
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn answer(bytes: &[u8]) -> (ResponseCode, Option<IpAddr>) {
    let message = Message::from_vec(bytes).unwrap();
    assert_eq!(message.metadata.id, 77);
    let address = message.answers.first().and_then(|record| match &record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    });
    (message.metadata.response_code, address)
}

/// Calls `serve` for each connection at a free port of a loopback address, in a thread, until the process ends.
pub fn server(host: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for client in listener.incoming() {
            let serve = serve.clone();
            let client = client.unwrap();
            thread::spawn(move || serve(client));
        }
    });
    port
}

/// Sends back what it receives, and closes the connection after the client has closed its side.
pub fn echo(mut client: TcpStream) {
    let mut other = client.try_clone().unwrap();
    // A client that resets the connection ends the copy.
    let _ = io::copy(&mut client, &mut other);
}
