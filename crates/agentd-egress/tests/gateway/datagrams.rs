//! UDP: what a grant allows, and what stays refused.

use crate::{
    namespace::socket,
    origin::{certificate, settings},
    sandbox::{Inside, LONG, Names, config, sandbox, start_gateway},
};
use agentd_egress::{
    GatewayConfig, GatewayError, GatewaySockets, Resolve,
    address::SpecialKind,
    guest::GuestPort,
    inspect::secret::SecretPlace,
    name::HostName,
    record::{FlowEnd, FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
};
use hickory_proto::rr::RecordType;
use rustix::net::SocketType;
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

pub const TESTS: &[(&str, fn())] = &[
    ("datagrams_reach_the_granted_name_unchanged_and_are_counted", carried),
    ("datagrams_cross_the_families_of_addresses", families),
    ("datagrams_without_bytes_and_of_the_maximum_size_pass_and_longer_answers_are_dropped", sizes),
    ("datagrams_to_other_destinations_are_refused_and_recorded", refused),
    ("datagrams_of_a_rebound_name_do_not_reach_the_metadata_service", rebinding),
    ("datagram_grant_of_a_name_does_not_permit_addresses_granted_for_tcp", addresses),
    ("datagrams_from_another_peer_do_not_reach_the_program", other_peer),
    ("datagrams_with_a_chosen_source_address_are_flows_of_their_own", chosen_source),
    ("datagram_flows_above_the_limit_displace_the_one_that_was_used_least_recently", displaced),
    ("datagram_flows_whose_name_is_not_resolved_yet_hold_up_no_other", slow_names),
    ("datagram_flows_above_the_rate_are_refused", rate),
    ("datagram_flow_ends_at_once_when_its_grant_is_withdrawn", withdrawn),
    ("datagram_grant_added_later_is_served_at_a_new_socket", later_grant),
    ("datagram_flow_without_datagrams_ends_as_idle", idle),
    ("datagrams_that_wait_are_sent_before_the_end", waiting),
    ("datagram_grant_that_circumvents_inspection_is_refused_at_the_start", bypass),
    ("datagram_grant_of_a_sandbox_in_a_machine_is_refused", machine),
];

/// Answers each datagram with the datagrams that `answer` returns, at a free port of the address, until the process ends.
fn server(host: &str, answer: impl Fn(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> u16 {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        // An error is about an earlier answer, whose receiver has gone.
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                answer(&socket, &buffer[..length], from);
            }
        }
    });
    port
}

fn echo(host: &str) -> u16 {
    server(host, |socket, bytes, from| {
        socket.send_to(bytes, from).unwrap();
    })
}

/// Returns a socket of the sandbox that receives datagrams from this address only.
fn connect(to: SocketAddr) -> UdpSocket {
    connect_from(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, to)
}

fn connect_from(from: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(from).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn ask(socket: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    assert_eq!(socket.send(bytes).unwrap(), bytes.len());
    receive(socket)
}

/// Sends a byte until an answer arrives. A new network namespace drops a datagram of IPv6 now and then.
fn ask_again(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let deadline = Instant::now() + LONG;
    loop {
        socket.send(b"x").unwrap();
        match socket.recv(&mut [0; 8]) {
            Ok(length) => return assert_eq!(length, 1),
            Err(error) => assert!(error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline, "{error}"),
        }
    }
}

/// Waits until the gateway has handled every datagram that was sent.
fn settle(inside: &Inside<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(inside.gateway.idle(LONG));
}

fn names() -> Arc<Names> {
    Names::new(&[("a.example", &[&["127.0.0.1"]]), ("b.example", &[&["127.0.0.1"]])])
}

/// Grants UDP to `a.example` at the port, and permits the loopback address for it.
fn granted(port: u16) -> GatewayConfig {
    config(&format!("a.example:{port}/udp,127.0.0.1:{port}/udp"), names())
}

fn refusals(records: &[FlowRecord]) -> Vec<(String, FlowRefusal)> {
    let refused = records.iter().filter_map(|record| match &record.verdict {
        FlowVerdict::Refused(refusal) => Some((record.wanted.to_string(), refusal.clone())),
        _ => None,
    });
    refused.collect()
}

fn ends(records: &[FlowRecord]) -> Vec<&FlowEnd> {
    let ends = records.iter().filter_map(|record| match &record.verdict {
        FlowVerdict::Granted { end, .. } => Some(end),
        _ => None,
    });
    ends.collect()
}

fn carried() {
    let port = echo("127.0.0.1");
    let ((), records) = sandbox(granted(port), &[], |inside| {
        let socket = connect(inside.address("a.example.", port));
        for bytes in [&b"one"[..], b"two!", b"three"] {
            assert_eq!(ask(&socket, bytes), bytes);
        }
    });
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.verdict, FlowVerdict::Granted { rule: format!("a.example:{port}/udp"), end: FlowEnd::Stopped });
    assert_eq!((record.kind, record.name.as_deref(), record.address_checked), (FlowKind::Udp, Some("a.example"), true));
    assert_eq!(record.connected, Some(SocketAddr::from(([127, 0, 0, 1], port))));
    assert_eq!((record.sent, record.received), (12, 12));
    let count = record.datagrams.unwrap();
    assert_eq!((count.sent, count.received), (3, 3));
}

fn families() {
    let port = echo("::1");
    let grants = format!("a.example:{port}/udp,[::1]:{port}/udp");
    let (_, records) = sandbox(config(&grants, Names::new(&[("a.example", &[&["::1"]])])), &[], |inside| {
        for kind in [RecordType::A, RecordType::AAAA] {
            let address = inside.ask_at("198.18.0.1:53", "a.example.", kind).1.unwrap();
            ask_again(&connect((address, port).into()));
        }
    });
    assert!(records.iter().all(|record| record.connected == Some(format!("[::1]:{port}").parse().unwrap())), "{records:?}");
    assert_eq!(records.len(), 2);
}

fn sizes() {
    // An answer over IPv6 can be longer than a datagram of IPv4.
    let port = server("::1", |socket, bytes, from| {
        if bytes == b"long" {
            socket.send_to(&vec![7; 65_527], from).unwrap();
        } else {
            socket.send_to(bytes, from).unwrap();
        }
    });
    let grants = format!("a.example:{port}/udp,[::1]:{port}/udp");
    let (_, records) = sandbox(config(&grants, Names::new(&[("a.example", &[&["::1"]])])), &[], |inside| {
        ask_again(&connect(inside.address("a.example.", port)));
        let socket = connect(inside.address("a.example.", port));
        assert_eq!(ask(&socket, b""), b"");
        let longest: Vec<u8> = (0..65_507_u32).map(|at| at.to_le_bytes()[0]).collect();
        assert!(ask(&socket, &longest) == longest);
        socket.send(b"long").unwrap();
        assert_eq!(ask(&socket, b"next"), b"next", "the longer answer is dropped, and the flow continues");
    });
    let record = records.iter().max_by_key(|record| record.received).unwrap();
    let count = record.datagrams.unwrap();
    assert_eq!((count.sent, count.received, record.received), (4, 3, 65_507 + 4));
}

fn refused() {
    let (port, other) = (echo("127.0.0.1"), echo("127.0.0.1"));
    let grants = format!("a.example:{port}/udp,127.0.0.1:{port}/udp,b.example:{port},b.example:{other},127.0.0.1:{other}");
    let ((), records) = sandbox(config(&grants, names()), &[], |inside| {
        // No socket is bound to a port without a grant of UDP, so the kernel refuses at once.
        let unbound = connect(inside.address("b.example.", other));
        unbound.send(b"x").unwrap();
        assert_eq!(unbound.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        for to in ["93.184.216.34", "169.254.169.254", "127.0.0.2", "198.18.9.9"] {
            connect(format!("{to}:{port}").parse().unwrap()).send(b"x").unwrap();
        }
        connect(inside.address("b.example.", port)).send(b"x").unwrap();
        settle(inside);
        assert_eq!(ask(&connect(inside.address("a.example.", port)), b"y"), b"y");
    });
    let b = format!("198.18.1.0:{port}");
    let mut expected: Vec<_> = ["93.184.216.34", "169.254.169.254", "127.0.0.2"]
        .map(|to| (format!("{to}:{port}"), FlowRefusal::Udp))
        .into_iter()
        .chain([(format!("198.18.9.9:{port}"), FlowRefusal::NoName), (b, FlowRefusal::Udp)])
        .collect();
    let mut found = refusals(&records);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected);
    assert!(records.iter().filter(|record| record.is_refused()).all(|record| record.connected.is_none() && record.sent == 1));
}

fn rebinding() {
    let port = echo("127.0.0.1");
    let names = Names::new(&[("a.example", &[&["127.0.0.1"], &["169.254.169.254"]])]);
    let grants = format!("a.example:{port}/udp,127.0.0.1:{port}/udp");
    let ((), records) = sandbox(config(&grants, names), &[], |inside| {
        let first = connect(inside.address("a.example.", port));
        assert_eq!(ask(&first, b"x"), b"x");
        connect(inside.address("a.example.", port)).send(b"x").unwrap();
        settle(inside);
        // The name is resolved once for a flow, so the first flow continues.
        assert_eq!(ask(&first, b"y"), b"y");
    });
    let address = "169.254.169.254".parse().unwrap();
    let special = FlowRefusal::Special { address, kind: SpecialKind::LinkLocal };
    assert_eq!(refusals(&records), [(format!("198.18.1.0:{port}"), special)]);
    assert_eq!(ends(&records), [&FlowEnd::Stopped]);
}

fn addresses() {
    let port = echo("127.0.0.1");
    let ((), records) = sandbox(config(&format!("a.example:{port}/udp,127.0.0.1:{port}"), names()), &[], |inside| {
        connect(inside.address("a.example.", port)).send(b"x").unwrap();
        settle(inside);
    });
    let address = "127.0.0.1".parse().unwrap();
    let special = FlowRefusal::Special { address, kind: SpecialKind::Loopback };
    assert_eq!(refusals(&records), [(format!("198.18.1.0:{port}"), special)]);
}

fn other_peer() {
    let port = server("127.0.0.1", |socket, bytes, from| {
        for host in ["127.0.0.1:0", "127.0.0.2:0"] {
            let other = UdpSocket::bind(host).unwrap();
            for _ in 0..3 {
                other.send_to(b"from another peer", from).unwrap();
            }
        }
        socket.send_to(bytes, from).unwrap();
    });
    let ((), records) = sandbox(granted(port), &[], |inside| {
        let socket = connect(inside.address("a.example.", port));
        for bytes in [b"1", b"2"] {
            assert_eq!(ask(&socket, bytes), bytes);
        }
    });
    let count = records[0].datagrams.unwrap();
    assert_eq!((count.sent, count.received), (2, 2));
}

fn chosen_source() {
    let port = echo("127.0.0.1");
    let ((), records) = sandbox(granted(port), &[], |inside| {
        let to = inside.address("a.example.", port);
        // Every address is local, also that of the destination itself.
        let own = format!("{}:5000", to.ip());
        let sockets = ["8.8.8.8:5000", "9.9.9.9:5000", "127.0.0.1:5000", &own].map(|from| connect_from(from, to));
        for (socket, bytes) in sockets.iter().zip([b"a", b"b", b"c", b"d"]) {
            socket.send(bytes).unwrap();
        }
        for (socket, bytes) in sockets.iter().zip([b"a", b"b", b"c", b"d"]) {
            assert_eq!(receive(socket), bytes);
        }
        // The port of the gateway cannot be taken, at any address.
        for host in ["0.0.0.0", "127.0.0.1", "8.8.8.8"] {
            assert_eq!(UdpSocket::bind((host, port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    });
    assert_eq!(records.len(), 4);
}

fn displaced() {
    let port = echo("127.0.0.1");
    let mut config = granted(port);
    config.limits.datagram_flows = 4;
    let ((), records) = sandbox(config, &[], |inside| {
        let to = inside.address("a.example.", port);
        let kept = connect(to);
        // All sockets stay open, so that each has another port.
        let sockets: Vec<_> = (0..40).map(|_| connect(to)).collect();
        for socket in &sockets {
            assert_eq!(ask(socket, b"x"), b"x");
            assert_eq!(ask(&kept, b"y"), b"y", "a flow that is used is not displaced");
        }
    });
    let displaced = ends(&records).into_iter().filter(|end| **end == FlowEnd::Displaced).count();
    assert_eq!((records.len(), displaced), (41, 37));
    let kept = records.iter().filter(|record| record.sent == 40).count();
    assert_eq!(kept, 1, "{records:?}");
}

/// A resolver that answers for `a.example` only. Every other call waits until the sender is dropped.
struct SlowNames(Mutex<Receiver<()>>);

impl Resolve for SlowNames {
    fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        if name.as_str() == "a.example" {
            return Ok(vec!["127.0.0.1".parse().unwrap()]);
        }
        let _ = self.0.lock().unwrap().recv();
        Err(io::ErrorKind::NotFound.into())
    }
}

fn slow_names() {
    let port = echo("127.0.0.1");
    let (sender, receiver) = channel();
    let mut config = config(&format!("a.example:{port}/udp,b.example:{port}/udp,127.0.0.1:{port}/udp"), names());
    config.resolver = Arc::new(SlowNames(Mutex::new(receiver)));
    config.limits.datagram_flows = 4;
    let ((), records) = sandbox(config, &[], |inside| {
        let slow = inside.address("b.example.", port);
        let sockets: Vec<_> = (0..4).map(|_| connect(slow)).collect();
        for socket in &sockets {
            socket.send(b"x").unwrap();
        }
        assert_eq!(ask(&connect(inside.address("a.example.", port)), b"y"), b"y");
        drop(sender);
    });
    assert_eq!(ends(&records).into_iter().filter(|end| **end == FlowEnd::Displaced).count(), 1, "{records:?}");
}

fn rate() {
    let port = echo("127.0.0.1");
    let mut config = granted(port);
    config.limits.flows_per_second = 1;
    let ((), records) = sandbox(config, &[], |inside| {
        let to = inside.address("a.example.", port);
        let first = connect(to);
        assert_eq!(ask(&first, b"x"), b"x");
        let sockets: Vec<_> = (0..100).map(|_| connect(to)).collect();
        for socket in &sockets {
            socket.send(b"x").unwrap();
        }
        settle(inside);
        assert_eq!(ask(&first, b"y"), b"y");
    });
    let refused = refusals(&records);
    assert!(!refused.is_empty() && refused.iter().all(|(_, refusal)| *refusal == FlowRefusal::TooManyFlows), "{refused:?}");
    assert_eq!(records.len(), 101, "each flow has one record");
}

fn withdrawn() {
    let port = echo("127.0.0.1");
    let ((), records) = sandbox(granted(port), &[], |inside| {
        let socket = connect(inside.address("a.example.", port));
        assert_eq!(ask(&socket, b"x"), b"x");
        let revoked = || ends(&[inside.next_end()]) == [&FlowEnd::Revoked];
        inside.gateway.set_grants(format!("b.example:{port}/udp,127.0.0.1:{port}/udp").parse().unwrap()).unwrap();
        assert!(revoked());
        socket.send(b"while it is not granted").unwrap();
        settle(inside);
        inside.gateway.set_grants(format!("a.example:{port}/udp,127.0.0.1:{port}/udp").parse().unwrap()).unwrap();
        assert_eq!(ask(&socket, b"y"), b"y");
        // Without the grant of its address, the name leads nowhere.
        let refused = inside.next_end();
        assert_eq!(refused.verdict, FlowVerdict::Refused(FlowRefusal::Udp));
        inside.gateway.set_grants(format!("a.example:{port}/udp").parse().unwrap()).unwrap();
        assert!(revoked());
        socket.send(b"while the address is not granted").unwrap();
        settle(inside);
    });
    let [record] = &records[..] else { panic!("{records:?}") };
    assert!(matches!(record.verdict, FlowVerdict::Refused(FlowRefusal::Special { .. })), "{record:?}");
}

fn later_grant() {
    let port = echo("127.0.0.1");
    let (_, records) = sandbox(config("b.example:443", names()), &[], |inside| {
        inside.gateway.listen(socket(false, SocketType::DGRAM, port)).unwrap();
        inside.gateway.set_grants(format!("a.example:{port}/udp,127.0.0.1:{port}/udp").parse().unwrap()).unwrap();
        assert_eq!(ask(&connect(inside.address("a.example.", port)), b"x"), b"x");
    });
    assert_eq!(ends(&records), [&FlowEnd::Stopped]);
}

fn idle() {
    let port = echo("127.0.0.1");
    let mut config = granted(port);
    config.limits.datagram_idle = Duration::from_millis(50);
    let (ended, records) = sandbox(config, &[], |inside| {
        let socket = connect(inside.address("a.example.", port));
        assert_eq!(ask(&socket, b"x"), b"x");
        let ended = inside.next_end();
        assert_eq!(ask(&socket, b"y"), b"y", "a later datagram starts another flow");
        ended
    });
    assert_eq!(ends(&[ended]), [&FlowEnd::Idle]);
    assert_eq!(records.len(), 1);
}

fn waiting() {
    let (sender, received) = channel();
    let port = server("127.0.0.1", move |_, bytes, _| sender.send(bytes.to_vec()).unwrap());
    let ((), _) = sandbox(granted(port), &[], |inside| {
        let to = inside.address("a.example.", port);
        for bytes in [b"1", b"2", b"3"] {
            connect(to).send(bytes).unwrap();
        }
        settle(inside);
    });
    let mut all: Vec<Vec<u8>> = (0..3).map(|_| received.recv_timeout(LONG).unwrap()).collect();
    all.sort();
    assert_eq!(all, [b"1", b"2", b"3"]);
}

fn bypass() {
    let start = |grants: &str, secret: Option<SecretPlace>| {
        let mut config = config(grants, names());
        let certificate = certificate(&["a.example"], &[]);
        config.inspection = Some(Arc::new(settings(&certificate, 443, secret).0));
        start_gateway(GatewaySockets::default(), config).map(drop)
    };
    let error = start("a.example/GET:/x,*.example:443/udp", None);
    assert!(matches!(error, Err(GatewayError::Bypassed { .. })), "{error:?}");
    let error = start("a.example,a.example:443/udp", Some(SecretPlace::BasicPassword));
    assert!(matches!(error, Err(GatewayError::SecretBypassed { .. })), "{error:?}");
    assert!(start("a.example,a.example:443/udp", None).is_ok());
}

fn machine() {
    let start = |grants: &str| {
        let sockets = GatewaySockets { guest: Some(GuestPort::new(8)), ..GatewaySockets::default() };
        start_gateway(sockets, config(grants, names()))
    };
    let error = start("a.example,a.example:123/udp").map(drop);
    assert!(matches!(error, Err(GatewayError::Datagrams { .. })), "{error:?}");
    let gateway = start("a.example").unwrap();
    let error = gateway.set_grants("a.example:123/udp".parse().unwrap());
    assert!(matches!(error, Err(GatewayError::Datagrams { .. })), "{error:?}");
}
