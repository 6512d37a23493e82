//! Refused flows, and the records of the refusals.

use crate::{
    client_hello::real_hello,
    namespace::socket,
    sandbox::{Names, config, echo, rest, sandbox, server, start_gateway},
};
use agentd_egress::{
    GatewayConfig, GatewayError, GatewaySockets,
    address::SpecialKind,
    hello::HelloError,
    http::HeadError,
    record::{FlowEnd, FlowRecord, FlowRefusal, FlowVerdict},
};
use hickory_proto::rr::RecordType;
use rustix::net::{SocketType, sockopt};
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

pub const TESTS: &[(&str, fn())] = &[
    ("destinations_without_a_grant_are_reset_and_recorded", without_a_grant),
    ("port_without_a_listener_is_refused_by_the_kernel", closed_port),
    ("name_that_leads_to_a_forbidden_address_is_refused_when_it_does", rebinding),
    ("tls_with_another_name_without_a_name_and_other_protocols_is_refused", other_tls),
    ("refused_first_request_is_answered_with_the_reason", first_request),
    ("second_request_for_another_host_ends_the_connection", second_request),
    ("silent_client_is_refused_after_the_time_limit", silent_client),
    ("two_sandboxes_share_no_name", two_sandboxes),
    ("sockets_and_grants_that_cannot_be_enforced_are_refused_at_the_start", start),
];

const RESET: Result<Vec<u8>, io::ErrorKind> = Err(io::ErrorKind::ConnectionReset);

fn refusal(record: &FlowRecord) -> &FlowRefusal {
    match &record.verdict {
        FlowVerdict::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Sends bytes and returns the answer.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> Result<Vec<u8>, io::ErrorKind> {
    // The gateway may have reset the connection.
    let _ = stream.write_all(bytes);
    rest(stream)
}

fn without_a_grant() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let grants = format!("a.example:{port},127.0.0.1:{port},b.example:1,10.0.0.0/8:2");
    let addresses = ["93.184.216.34", "169.254.169.254", "10.0.0.1", "198.18.77.7", "2606:4700::1111", "fd61:6765:6e74::abcd"];
    let (_, records) = sandbox(config(&grants, names), &[port], |inside| {
        for address in addresses {
            assert_eq!(inside.attempt(SocketAddr::new(address.parse().unwrap(), port)), RESET, "{address}");
        }
        // An IPv4 address in IPv6 form is the IPv4 address.
        assert_eq!(inside.attempt(SocketAddr::new("::ffff:10.0.0.2".parse().unwrap(), port)), RESET);
        // A name that is granted at another port.
        assert_eq!(inside.attempt(inside.address("b.example.", port)), RESET);
    });
    let refused: Vec<_> = records.iter().map(|record| (record.wanted.ip().to_string(), refusal(record).clone())).collect();
    let expected = |address: &str| match address {
        "198.18.77.7" | "fd61:6765:6e74::abcd" => FlowRefusal::NoName,
        _ => FlowRefusal::NotGranted,
    };
    let all = addresses.iter().chain(&["10.0.0.2", "198.18.1.0"]);
    assert_eq!(refused, all.map(|address| ((*address).to_owned(), expected(address))).collect::<Vec<_>>());
    assert!(records.iter().all(|record| record.connected.is_none() && record.sent + record.received == 0));
}

fn closed_port() {
    sandbox(config("a.example:4444", Names::new(&[])), &[4444], |inside| {
        let address = inside.ask_at("8.8.8.8:53", "a.example.", RecordType::A).1.unwrap();
        for (address, port) in [(address, 443), (address, 4445), ("93.184.216.34".parse().unwrap(), 80)] {
            assert_eq!(TcpStream::connect((address, port)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        udp.connect((address, 443)).unwrap();
        udp.send(b"QUIC").unwrap();
        assert_eq!(udp.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    });
}

fn rebinding() {
    let port = server("127.0.0.1", echo);
    let forbidden = ["169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "93.184.216.34", "0.0.0.0"];
    let answers: Vec<&[&str]> = std::iter::once(&["127.0.0.1"][..]).chain(forbidden.iter().map(std::slice::from_ref)).collect();
    let names = Names::new(&[("a.example", &answers)]);
    let (_, records) = sandbox(config(&format!("a.example:{port},127.0.0.1:{port}"), names), &[port], |inside| {
        let mut stream = inside.connect("a.example.", port);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        for address in forbidden {
            assert_eq!(inside.attempt(inside.address("a.example.", port)), RESET, "{address}");
        }
    });
    let special = |address: &str, kind| FlowRefusal::Special { address: address.parse::<IpAddr>().unwrap(), kind };
    let refused: Vec<_> = records.iter().filter(|record| record.is_refused()).map(refusal).cloned().collect();
    assert_eq!(
        refused,
        [
            special("169.254.169.254", SpecialKind::LinkLocal),
            special("10.0.0.1", SpecialKind::Private),
            special("::1", SpecialKind::Loopback),
            special("::ffff:127.0.0.1", SpecialKind::Mapped),
            special("64:ff9b::7f00:1", SpecialKind::Embedded),
            // In the outer namespace of the tests, every address is one of the host.
            special("93.184.216.34", SpecialKind::Own),
            special("0.0.0.0", SpecialKind::Unspecified),
        ]
    );
}

fn other_tls() {
    let port = server("127.0.0.1", |_| panic!("nothing reaches the server"));
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let (_, records) = sandbox(config(&format!("a.example:{port}/tls,127.0.0.1:{port}"), names), &[port], |inside| {
        for first in
            [real_hello("b.example"), real_hello("10.0.0.1"), b"SSH-2.0-x\r\n".to_vec(), b"GET / HTTP/1.1\r\n\r\n".to_vec()]
        {
            assert_eq!(send(&inside.connect("a.example.", port), &first), RESET);
        }
    });
    let name = |text: &str| text.parse().unwrap();
    let expected = [
        HelloError::OtherName { asked: name("b.example"), granted: name("a.example") },
        HelloError::NoName,
        HelloError::NotTls,
        HelloError::NotTls,
    ];
    assert_eq!(records.iter().map(refusal).cloned().collect::<Vec<_>>(), expected.map(FlowRefusal::Hello));
}

fn first_request() {
    let port = server("127.0.0.1", |_| panic!("nothing reaches the server"));
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let grants = format!("a.example:{port}/http/GET:/public/*,127.0.0.1:{port}");
    let (_, records) = sandbox(config(&grants, names), &[port], |inside| {
        for request in [
            "GET /public/x HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /public/../admin HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ] {
            let stream = inside.connect("a.example.", port);
            (&stream).write_all(request.as_bytes()).unwrap();
            let answer = String::from_utf8(rest(&stream).unwrap()).unwrap();
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n") && answer.contains("\r\n\r\nagentd: "), "{answer}");
        }
    });
    assert!(matches!(refusal(&records[0]), FlowRefusal::Request(HeadError::OtherHost { .. })));
    assert_eq!(refusal(&records[1]), &FlowRefusal::Request(HeadError::NotAllowed));
    assert!(matches!(refusal(&records[2]), FlowRefusal::Request(HeadError::Path(_))));
    assert_eq!(refusal(&records[3]), &FlowRefusal::Request(HeadError::Tunnel));
}

fn second_request() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let (_, records) = sandbox(config(&format!("a.example:{port}/http/*:/,127.0.0.1:{port}"), names), &[port], |inside| {
        let first = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        for second in [
            "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: x\r\n\r\n",
            "PUT /admin?key=x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "PUT http://a.example/admin HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ] {
            let mut stream = inside.connect("a.example.", port);
            stream.write_all(first).unwrap();
            stream.read_exact(&mut [0; 35]).unwrap();
            assert_eq!(send(&stream, second.as_bytes()), RESET);
        }
    });
    for record in &records {
        let FlowVerdict::Granted { end: FlowEnd::Refused(FlowRefusal::Request(_)), .. } = &record.verdict else {
            panic!("{record:?}");
        };
        assert_eq!(record.sent, 35, "the refused request is not forwarded");
    }
    // The request is named where the reason is its method or path, without its query.
    let lines = records.iter().map(|record| record.request.as_ref().map(|line| format!("{} {}", line.method, line.path)));
    assert_eq!(lines.collect::<Vec<_>>(), [None, None, Some("PUT /admin".to_owned()), Some("PUT /admin".to_owned())]);
}

fn silent_client() {
    let names = Names::new(&[]);
    let mut config = config("a.example:4444/tls,a.example:4445/http", names);
    config.limits.first_bytes = Duration::from_millis(50);
    let (_, records) = sandbox(config, &[4444, 4445], |inside| {
        assert_eq!(send(&inside.connect("a.example.", 4444), &real_hello("a.example")[..40]), RESET);
        assert_eq!(send(&inside.connect("a.example.", 4445), b"GET / HTTP/1.1\r\nHost: "), RESET);
    });
    let expected = [FlowRefusal::TimedOut("ClientHello"), FlowRefusal::TimedOut("request")];
    assert_eq!(records.iter().map(refusal).cloned().collect::<Vec<_>>(), expected);
}

fn two_sandboxes() {
    let ask = |grants: &str, own: &str, other: &str| {
        sandbox(config(grants, Names::new(&[])), &[4444], |inside| {
            let address = inside.ask_at("8.8.8.8:53", own, RecordType::A).1;
            assert_eq!(inside.ask_at("8.8.8.8:53", other, RecordType::A).1, None);
            // The gateway of the sandbox knows only the first address.
            assert_eq!(inside.attempt("198.18.1.1:4444".parse().unwrap()), RESET);
            address.unwrap()
        })
    };
    let (a, _) = ask("a.example:4444", "a.example.", "b.example.");
    let (b, records) = ask("b.example:4444", "b.example.", "a.example.");
    assert_eq!(a, b, "each sandbox has its own table");
    assert_eq!(records.iter().map(refusal).collect::<Vec<_>>(), [&FlowRefusal::NameNotGranted, &FlowRefusal::NoName]);
}

fn start() {
    let config = |grants: &str| {
        let mut config = GatewayConfig::new(grants.parse().unwrap());
        config.limits.flows = 4;
        config
    };
    let tcp = |socket| GatewaySockets { tcp: vec![socket], ..GatewaySockets::default() };
    let shared = |option: fn(&rustix::fd::OwnedFd)| {
        let socket = socket(false, SocketType::STREAM, 0);
        option(&socket);
        start_gateway(tcp(socket), config("a.example")).unwrap_err()
    };
    assert!(matches!(shared(|socket| sockopt::set_socket_reuseaddr(socket, true).unwrap()), GatewayError::Shared));
    assert!(matches!(shared(|socket| sockopt::set_socket_reuseport(socket, true).unwrap()), GatewayError::Shared));
    let datagrams = start_gateway(tcp(socket(false, SocketType::DGRAM, 0)), config("a.example")).unwrap_err();
    assert!(datagrams.to_string().contains("its type is SOCK_DGRAM, expected SOCK_STREAM — "), "{datagrams}");
    let udp = GatewaySockets { udp: vec![socket(false, SocketType::STREAM, 0)], ..GatewaySockets::default() };
    let stream = start_gateway(udp, config("a.example")).unwrap_err();
    assert!(stream.to_string().contains("its type is SOCK_STREAM, expected SOCK_DGRAM — "), "{stream}");
    let attempts = GatewaySockets { attempts: vec![socket(false, SocketType::DGRAM, 0)], ..GatewaySockets::default() };
    let datagrams = start_gateway(attempts, config("a.example")).unwrap_err();
    assert!(datagrams.to_string().contains("its type is SOCK_DGRAM, expected SOCK_RAW — "), "{datagrams}");
    let stream = Arc::new(crate::sandbox::server("127.0.0.1", echo));
    let connected = TcpStream::connect(("127.0.0.1", *stream)).unwrap();
    assert!(matches!(start_gateway(tcp(connected.into()), config("a.example")).unwrap_err(), GatewayError::NotListening));
    for (grants, inspection) in [("a.example/GET:/x", true), ("a.example:80/GET:/x,a.example:80/udp", false)] {
        let error = start_gateway(GatewaySockets::default(), config(grants)).unwrap_err();
        let expected =
            matches!((&error, inspection), (GatewayError::Inspection { .. }, true) | (GatewayError::Bypassed { .. }, false));
        assert!(expected, "{error}");
        assert!(!agentd_core::Remedy::in_message(&error.to_string()).as_str().is_empty(), "{error}");
    }
    let mut greedy = config("a.example");
    greedy.limits.flows = usize::MAX;
    assert!(matches!(start_gateway(GatewaySockets::default(), greedy).unwrap_err(), GatewayError::Descriptors { .. }));
}
