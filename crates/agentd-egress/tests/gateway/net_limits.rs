//! The limits that a user sets for one sandbox.

use crate::{
    origin::{LONG_BODY, Scene, inspected},
    sandbox::{LONG, Names, config, echo, rest, sandbox, server},
};
use agentd_egress::{
    GatewayConfig,
    record::{FlowEnd, FlowRecord, FlowRefusal, FlowVerdict},
};
use hickory_proto::rr::RecordType;
use std::{
    io::{self, Read as _, Write as _},
    net::UdpSocket,
    thread,
};

pub const TESTS: &[(&str, fn())] = &[
    ("limited_bytes_are_carried_in_full_and_then_every_connection_ends", bytes),
    ("limited_bytes_end_an_inspected_connection", inspected_bytes),
    ("limited_bytes_count_datagrams_and_refuse_those_that_do_not_fit", datagrams),
    ("limited_connections_are_refused_until_one_has_ended", connections),
    ("limited_rate_delays_bytes_and_loses_none", rate),
    ("limited_rate_delays_an_inspected_connection", inspected_rate),
    ("limited_new_connections_are_delayed_and_served", new_connections),
    ("limited_queries_are_delayed_and_answered", queries),
];

fn limited(port: u16, limits: &str) -> GatewayConfig {
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let grants = format!("a.example:{port},127.0.0.1:{port},a.example:{port}/udp,127.0.0.1:{port}/udp");
    let mut config = config(&grants, names);
    config.network_limits = limits.parse().unwrap();
    config
}

fn end(record: &FlowRecord) -> Option<&FlowEnd> {
    match &record.verdict {
        FlowVerdict::Granted { end, .. } => Some(end),
        _ => None,
    }
}

fn is_used_up(record: &&FlowRecord) -> bool {
    end(record) == Some(&FlowEnd::Refused(FlowRefusal::UsedUp))
}

fn bytes() {
    let port = server("127.0.0.1", |mut client| {
        let mut first = [0];
        let _ = client.read(&mut first);
        // The client, or the gateway, ends the connection.
        while client.write_all(&[7; 1000]).is_ok() {}
    });
    let ((), records) = sandbox(limited(port, "bytes=100000"), &[port], |inside| {
        let mut idle = inside.connect("a.example.", port);
        let mut stream = inside.connect("a.example.", port);
        stream.write_all(b"x").unwrap();
        let mut received = 0;
        let mut part = [0; 4096];
        let error = loop {
            match stream.read(&mut part) {
                Ok(0) => panic!("the connection must not end as if it were complete"),
                Ok(length) => received += length,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        // A reset can discard the last bytes that have arrived.
        assert!(received < 100_000, "{received}");
        assert_eq!(idle.read(&mut part).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(inside.attempt(inside.address("a.example.", port)), Err(io::ErrorKind::ConnectionReset));
    });
    let carried: u64 = records.iter().map(|record| record.sent + record.received).sum();
    assert!(carried <= 100_000 && records.len() == 3, "{records:?}");
    assert_eq!(records.iter().filter(is_used_up).count(), 2, "{records:?}");
    let refused: Vec<_> = records.iter().filter(|record| record.is_refused()).map(|record| &record.verdict).collect();
    assert_eq!(refused, [&FlowVerdict::Refused(FlowRefusal::UsedUp)]);
}

fn inspected_bytes() {
    let scene = Scene { change: |config| config.network_limits = "bytes=1M".parse().unwrap(), ..Scene::default() };
    let (output, records, _) = inspected(scene, |client| client.curl(&[], "/v1/long"));
    assert!(!output.status.success() && output.stdout.len() < 1 << 20, "{} bytes", output.stdout.len());
    let [record] = &records[..] else { panic!("{records:?}") };
    assert!(is_used_up(&record) && record.sent + record.received <= 1 << 20, "{record:?}");
}

fn datagrams() {
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = outside.recv_from(&mut buffer) {
            outside.send_to(&buffer[..length], from).unwrap();
        }
    });
    let ((), records) = sandbox(limited(port, "bytes=3000"), &[], |inside| {
        let connect = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(inside.address("a.example.", port)).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket
        };
        let ask = connect();
        assert_eq!(ask.send(&[1; 1000]).unwrap(), 1000);
        assert_eq!(ask.recv(&mut [0; 2000]).unwrap(), 1000);
        // 1000 bytes are left, and the flow ends.
        ask.send(&[1; 1001]).unwrap();
        assert!(is_used_up(&&inside.next_end()));
    });
    assert!(records.is_empty(), "{records:?}");
}

fn connections() {
    let port = server("127.0.0.1", echo);
    let ((), records) = sandbox(limited(port, "connections=2"), &[port], |inside| {
        let ask = |mut stream: &std::net::TcpStream| {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        };
        let (first, second) = (inside.connect("a.example.", port), inside.connect("a.example.", port));
        ask(&first);
        ask(&second);
        assert_eq!(inside.attempt(inside.address("a.example.", port)), Err(io::ErrorKind::ConnectionReset));
        // A flow of UDP counts like a connection.
        let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
        datagrams.send_to(b"x", inside.address("a.example.", port)).unwrap();
        let refused = [inside.next_end(), inside.next_end()];
        for record in refused {
            assert_eq!(record.verdict, FlowVerdict::Refused(FlowRefusal::TooManyConnections));
        }
        drop(first);
        // The record is written when the connection has ended.
        assert_eq!(end(&inside.next_end()), Some(&FlowEnd::Closed));
        ask(&inside.connect("a.example.", port));
        ask(&second);
    });
    assert!(records.iter().all(|record| !record.is_refused()), "{records:?}");
}

fn rate() {
    let length = 300_000;
    let port = server("127.0.0.1", move |mut client| {
        let bytes: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
        client.write_all(&bytes).unwrap();
    });
    let (received, records) =
        sandbox(limited(port, "rate=200000/s"), &[port], |inside| rest(&inside.connect("a.example.", port)).unwrap());
    let expected: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
    assert!(received == expected, "{} bytes", received.len());
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.delayed.names(), ["rate"]);
}

fn inspected_rate() {
    let scene = Scene { change: |config| config.network_limits = "rate=6000/s".parse().unwrap(), ..Scene::default() };
    // One record of TLS has more bytes than may pass at once, so a slow host delays no less.
    let length = 15_000;
    let range = format!("Range: bytes={}-", LONG_BODY - length);
    let (output, records, _) = inspected(scene, |client| client.curl(&["-H", &range], "/v1/long"));
    assert_eq!(output.stdout.len() as u64, length);
    assert_eq!(records[0].delayed.names(), ["rate"]);
}

fn new_connections() {
    let port = server("127.0.0.1", echo);
    let ((), records) = sandbox(limited(port, "new-connections=2/s"), &[port], |inside| {
        let address = inside.address("a.example.", port);
        let streams: Vec<_> = (0..6).map(|_| inside.connect_to(address)).collect();
        for mut stream in &streams {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
    });
    assert_eq!(records.len(), 6, "each connection has one record");
    assert!(records.iter().any(|record| record.delayed.names() == ["new-connections"]), "{records:?}");
}

fn queries() {
    let mut config = limited(2222, "queries=2/s");
    config.grants = "a.example:443".parse().unwrap();
    let ((), records) = sandbox(config, &[], |inside| {
        for _ in 0..3 {
            assert!(inside.ask_over_tcp("a.example.", RecordType::A).1.is_some());
            assert!(inside.ask_over_tcp("b.example.", RecordType::A).1.is_none());
        }
    });
    assert!(records.len() == 3 && records.iter().any(|record| record.delayed.names() == ["queries"]), "{records:?}");
}
