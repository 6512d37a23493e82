//! Flows that a network grant allows.

use crate::{
    client_hello::real_hello,
    sandbox::{LONG, Names, config, echo, rest, sandbox, server},
};
use agentd_egress::{
    proxy::{ProxyServer, Upstream},
    record::{FlowEnd, FlowKind, FlowRecord, FlowVerdict},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    time::Duration,
};

pub const TESTS: &[(&str, fn())] = &[
    ("granted_name_is_resolved_at_every_address_over_udp_and_tcp", granted_name_is_resolved),
    ("tls_to_the_granted_name_is_carried_unchanged_and_recorded", tls_is_carried),
    ("name_with_ipv6_only_is_reached_over_either_family", ipv6_is_reached),
    ("granted_address_is_reached_without_a_name", granted_address_is_reached),
    ("both_sides_can_close_first", half_close),
    ("requests_and_bodies_for_the_granted_host_are_forwarded", requests_are_forwarded),
    ("reader_that_stops_holds_up_only_itself", slow_reader),
    ("connections_above_the_limit_wait", flow_limit),
    ("revoked_grant_ends_open_flows", revoked_grant),
    ("grant_added_later_is_served_at_a_new_listener", later_grant),
    ("stop_ends_and_records_open_flows", stop),
    ("open_flow_is_recorded_at_once_with_its_bytes_later_and_once_at_its_end", open),
    ("connections_that_wait_to_be_accepted_are_served_before_the_end", waiting),
    ("silent_flow_ends_as_idle", idle),
    ("proxy_gets_the_checked_address", proxy),
    ("proxy_that_needs_names_is_recorded_as_unchecked", proxy_with_names),
];

/// Sends everything, closes this side, and returns what comes back.
fn exchange(stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        rest(stream).unwrap()
    })
}

fn end(record: &FlowRecord) -> &FlowEnd {
    match &record.verdict {
        FlowVerdict::Granted { end, .. } => end,
        other => panic!("{other:?}"),
    }
}

fn granted_name_is_resolved() {
    let ((), records) = sandbox(config("a.example,*.b.example:22", Names::new(&[])), &[], |inside| {
        let first = inside.ask_at("198.18.0.1:53", "a.example.", RecordType::A);
        assert_eq!(first, (ResponseCode::NoError, Some("198.18.1.0".parse().unwrap())));
        for server in ["8.8.8.8:53", "127.0.0.53:53", "[2001:4860:4860::8888]:53"] {
            assert_eq!(inside.ask_at(server, "A.example.", RecordType::A), first, "{server}");
        }
        assert_eq!(inside.ask_over_tcp("a.example.", RecordType::A), first);
        let v6 = (ResponseCode::NoError, Some("fd61:6765:6e74::100".parse().unwrap()));
        assert_eq!(inside.ask_over_tcp("a.example.", RecordType::AAAA), v6);
        assert_eq!(inside.ask_at("8.8.8.8:53", "a.example.", RecordType::HTTPS), (ResponseCode::NoError, None));
        assert_eq!(inside.ask_at("8.8.8.8:53", "x.b.example.", RecordType::A).1, Some("198.18.1.1".parse().unwrap()));
        assert_eq!(inside.ask_at("8.8.8.8:53", "c.example.", RecordType::A), (ResponseCode::NXDomain, None));
    });
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].kind, records[0].name.as_deref()), (FlowKind::Dns, Some("c.example.")));
    assert_eq!(records[0].wanted, "8.8.8.8:53".parse().unwrap());
}

fn tls_is_carried() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let data = [&real_hello("a.example")[..], &vec![7; 8 << 20]].concat();
    let (returned, records) = sandbox(config(&format!("a.example:{port}/tls,127.0.0.1:{port}"), names), &[port], |inside| {
        exchange(&inside.connect("a.example.", port), &data)
    });
    assert!(returned == data, "{} of {} bytes", returned.len(), data.len());
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.verdict, FlowVerdict::Granted { rule: format!("a.example:{port}/tls"), end: FlowEnd::Closed });
    assert_eq!((record.sent, record.received), (data.len() as u64, data.len() as u64));
    assert_eq!((record.name.as_deref(), record.address_checked), (Some("a.example"), true));
    assert_eq!(record.wanted, SocketAddr::from(([198, 18, 1, 0], port)));
    assert_eq!(record.connected, Some(SocketAddr::from(([127, 0, 0, 1], port))));
}

fn ipv6_is_reached() {
    let port = server("::1", echo);
    let names = Names::new(&[("a.example", &[&["::1"]])]);
    let (_, records) = sandbox(config(&format!("a.example:{port},[::1]:{port}"), names), &[port], |inside| {
        for kind in [RecordType::A, RecordType::AAAA] {
            let address = inside.ask_at("[2001:db8::53]:53", "a.example.", kind).1.unwrap();
            assert_eq!(exchange(&inside.connect_to((address, port).into()), b"x"), b"x");
        }
    });
    let connected: Vec<_> = records.iter().map(|record| record.connected.unwrap().ip().to_string()).collect();
    assert_eq!(connected, ["::1", "::1"]);
}

fn granted_address_is_reached() {
    let port = server("127.0.0.1", echo);
    let (_, records) = sandbox(config(&format!("127.0.0.0/8:{port}"), Names::new(&[])), &[port], |inside| {
        // Inside, this address is that of the sandbox. The gateway treats it as the address outside.
        assert_eq!(exchange(&inside.connect_to(([127, 0, 0, 1], port).into()), b"x"), b"x");
    });
    assert_eq!(records[0].verdict, FlowVerdict::Granted { rule: format!("127.0.0.0/8:{port}"), end: FlowEnd::Closed });
}

fn half_close() {
    // The first server answers after the end of the request, the second one closes its side immediately.
    let late = server("127.0.0.1", |mut client| {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        client.write_all(&all).unwrap();
    });
    let (sent, received) = channel();
    let sent = Mutex::new(sent);
    let early = server("127.0.0.1", move |mut client| {
        client.write_all(b"banner").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        sent.lock().unwrap().send(all).unwrap();
    });
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let grants = format!("a.example:{late},a.example:{early},127.0.0.1:{late},127.0.0.1:{early}");
    let (_, records) = sandbox(config(&grants, names), &[late, early], move |inside| {
        assert_eq!(exchange(&inside.connect("a.example.", late), b"question"), b"question");
        let mut stream = inside.connect("a.example.", early);
        assert_eq!(rest(&stream).unwrap(), b"banner");
        stream.write_all(b"after the end").unwrap();
        drop(stream);
        assert_eq!(received.recv_timeout(LONG).unwrap(), b"after the end");
    });
    assert!(records.iter().all(|record| *end(record) == FlowEnd::Closed), "{records:?}");
}

/// Answers each request with its own head and body, whose length the test knows.
fn mirror(lengths: &'static [usize]) -> impl Fn(TcpStream) + Send + Sync {
    move |mut client: TcpStream| {
        for length in lengths {
            let mut request = vec![0; *length];
            if client.read_exact(&mut request).is_err() {
                return;
            }
            client.write_all(&request).unwrap();
        }
        // Waits for the end of the client.
        let _ = client.read(&mut [0]);
    }
}

const REQUESTS: [&[u8]; 3] = [
    b"POST /one HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n12345",
    b"POST /two HTTP/1.1\r\nHost: A.example.\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
    b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
];

fn requests_are_forwarded() {
    const LENGTHS: [usize; 3] = [REQUESTS[0].len(), REQUESTS[1].len(), REQUESTS[2].len()];
    let port = server("127.0.0.1", mirror(&LENGTHS));
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let grants = format!("a.example:{port}/http/*:/*,a.example:{port}/http/*:/,127.0.0.1:{port}");
    let (_, records) = sandbox(config(&grants, names), &[port], |inside| {
        // Send everything in one write, then byte by byte.
        let all = REQUESTS.concat();
        let stream = inside.connect("a.example.", port);
        assert_eq!(exchange(&stream, &all), all);
        let mut stream = inside.connect("a.example.", port);
        for byte in &all {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut returned = vec![0; all.len()];
        stream.read_exact(&mut returned).unwrap();
        assert_eq!(returned, all);
    });
    let total = REQUESTS.concat().len() as u64;
    assert!(records.iter().all(|record| (record.sent, record.received) == (total, total)), "{records:?}");
}

fn slow_reader() {
    const FLOOD: usize = 32 << 20;
    let flood = server("127.0.0.1", |mut client| client.write_all(&vec![1; FLOOD]).unwrap());
    let quick = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let mut config = config(&format!("a.example:{flood},a.example:{quick},127.0.0.1:{flood},127.0.0.1:{quick}"), names);
    // One pipe for each of the two flows.
    config.limits.pipes = 2;
    let (_, records) = sandbox(config, &[flood, quick], |inside| {
        let mut stopped = inside.connect("a.example.", flood);
        stopped.shutdown(Shutdown::Write).unwrap();
        stopped.read_exact(&mut [0]).unwrap();
        for _ in 0..20 {
            assert_eq!(exchange(&inside.connect("a.example.", quick), &[3; 100_000]).len(), 100_000);
        }
        assert_eq!(rest(&stopped).unwrap().len(), FLOOD - 1);
    });
    assert_eq!(records.len(), 21);
    assert!(records.iter().all(|record| *end(record) == FlowEnd::Closed));
}

fn flow_limit() {
    let (now, max) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let port = server("127.0.0.1", {
        let (now, max) = (now.clone(), max.clone());
        move |client| {
            max.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            echo(client);
            now.fetch_sub(1, Ordering::SeqCst);
        }
    });
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let mut config = config(&format!("a.example:{port},127.0.0.1:{port}"), names);
    config.limits.flows = 2;
    let (_, records) = sandbox(config, &[port], |inside| {
        let mut streams: Vec<_> = (0..6).map(|_| inside.connect("a.example.", port)).collect();
        streams.iter_mut().for_each(|stream| stream.write_all(b"x").unwrap());
        for mut stream in streams {
            stream.read_exact(&mut [0]).unwrap();
            assert_eq!(exchange(&stream, b"y"), b"y");
        }
    });
    assert_eq!(records.len(), 6);
    // The server ends a connection a moment after the gateway does.
    let max = max.load(Ordering::SeqCst);
    assert!((1..6).contains(&max), "{max} connections at once");
}

fn revoked_grant() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]]), ("b.example", &[&["127.0.0.1"]])]);
    let both = format!("a.example:{port},b.example:{port},127.0.0.1:{port}");
    let (_, records) = sandbox(config(&both, names), &[port], |inside| {
        let (mut a, mut b) = (inside.connect("a.example.", port), inside.connect("b.example.", port));
        for stream in [&mut a, &mut b] {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        inside.gateway.set_grants(format!("b.example:{port},127.0.0.1:{port}").parse().unwrap()).unwrap();
        assert_eq!(rest(&a), Err(io::ErrorKind::ConnectionReset));
        assert_eq!(inside.ask_at("8.8.8.8:53", "a.example.", RecordType::A).0, ResponseCode::NXDomain);
        assert_eq!(exchange(&b, b"y"), b"y");
        // The grant of the special range is revoked.
        let mut b = inside.connect("b.example.", port);
        b.write_all(b"x").unwrap();
        b.read_exact(&mut [0]).unwrap();
        inside.gateway.set_grants(format!("b.example:{port}").parse().unwrap()).unwrap();
        assert_eq!(rest(&b), Err(io::ErrorKind::ConnectionReset));
    });
    let ends: Vec<_> = records.iter().filter(|record| record.kind == FlowKind::Tcp).map(end).collect();
    assert_eq!(ends, [&FlowEnd::Revoked, &FlowEnd::Closed, &FlowEnd::Revoked]);
}

fn later_grant() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    sandbox(config("b.example", names), &[], |inside| {
        let socket = crate::namespace::socket(false, rustix::net::SocketType::STREAM, port);
        inside.gateway.listen(socket).unwrap();
        inside.gateway.set_grants(format!("a.example:{port},127.0.0.1:{port}").parse().unwrap()).unwrap();
        assert_eq!(exchange(&inside.connect("a.example.", port), b"x"), b"x");
    });
}

fn stop() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let (stream, records) = sandbox(config(&format!("a.example:{port},127.0.0.1:{port}"), names), &[port], |inside| {
        let mut stream = inside.connect("a.example.", port);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    });
    assert_eq!(records.iter().map(end).collect::<Vec<_>>(), [&FlowEnd::Stopped]);
    assert_eq!(rest(&stream), Err(io::ErrorKind::ConnectionReset));
}

fn open() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let (first, records) = sandbox(config(&format!("a.example:{port},127.0.0.1:{port}"), names), &[port], |inside| {
        let mut stream = inside.connect("a.example.", port);
        let record = || inside.gateway.log().next(LONG).unwrap();
        let first = record();
        stream.write_all(b"x").unwrap();
        // The record with the byte follows at one of the intervals.
        let later = std::iter::from_fn(|| Some(record())).find(|record| record.received == 1).unwrap();
        assert_eq!((later.id, &later.verdict), (first.id, &first.verdict));
        assert_eq!((first.sent, first.connected), (0, Some(([127, 0, 0, 1], port).into())));
        first
    });
    assert_eq!(first.verdict, FlowVerdict::Open { rule: format!("a.example:{port}") });
    let [last] = &records[..] else { panic!("{records:?}") };
    assert!(last.id == first.id && last.started == first.started && !last.is_open(), "{last:?}");
}

fn waiting() {
    let (sender, received) = channel();
    let port = server("127.0.0.1", move |mut client| {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        sender.send(bytes).unwrap();
    });
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let mut config = config(&format!("a.example:{port},127.0.0.1:{port}"), names);
    // The gateway accepts one further connection at most. The others wait in the kernel.
    config.limits.flows = 1;
    let (_, records) = sandbox(config, &[port], |inside| {
        let streams: Vec<_> = (0..8_u8)
            .map(|number| {
                let mut stream = inside.connect("a.example.", port);
                stream.write_all(&[number]).unwrap();
                stream
            })
            .collect();
        drop(streams);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(inside.gateway.idle(LONG));
    });
    assert_eq!(records.iter().map(end).collect::<Vec<_>>(), [&FlowEnd::Closed; 8]);
    let mut all: Vec<Vec<u8>> = (0..8).map(|_| received.recv_timeout(LONG).unwrap()).collect();
    all.sort();
    assert_eq!(all, (0..8_u8).map(|number| vec![number]).collect::<Vec<_>>());
}

fn idle() {
    let port = server("127.0.0.1", echo);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]])]);
    let mut config = config(&format!("a.example:{port},127.0.0.1:{port}"), names);
    config.limits.idle = Duration::from_millis(50);
    let (_, records) = sandbox(config, &[port], |inside| {
        assert_eq!(rest(&inside.connect("a.example.", port)), Err(io::ErrorKind::ConnectionReset));
    });
    assert_eq!(records.iter().map(end).collect::<Vec<_>>(), [&FlowEnd::Idle]);
}

/// A proxy that records the targets, and connects each to the port on the loopback address.
fn connect_proxy(target: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let port = server("127.0.0.1", {
        let requests = requests.clone();
        move |mut client| {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            requests.lock().unwrap().push(line.trim_end().to_owned());
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            let mut to = TcpStream::connect(("127.0.0.1", target)).unwrap();
            // Bytes of the tunnel arrive with the answer.
            client.write_all(b"HTTP/1.1 200 Connected\r\nVia: x\r\n\r\nbanner").unwrap();
            let mut back = (to.try_clone().unwrap(), client.try_clone().unwrap());
            let down = std::thread::spawn(move || {
                let _ = io::copy(&mut back.0, &mut back.1);
                let _ = back.1.shutdown(Shutdown::Write);
            });
            let _ = io::copy(&mut reader, &mut to);
            let _ = to.shutdown(Shutdown::Write);
            down.join().unwrap();
        }
    });
    (port, requests)
}

fn through_proxy(sends_names: bool, grants: &str, names: Arc<Names>) -> (Vec<String>, Vec<FlowRecord>) {
    let (port, requests) = connect_proxy(server("127.0.0.1", echo));
    let mut config = config(grants, names);
    let mut proxy = ProxyServer::from_settings(&format!("http://127.0.0.1:{port}"), "").unwrap();
    proxy.sends_names = sends_names;
    config.upstream = Upstream::Proxy(proxy);
    let (_, records) = sandbox(config, &[2222], |inside| {
        if grants.contains("10.0.0.5") || sends_names {
            assert_eq!(exchange(&inside.connect("a.example.", 2222), b"x"), b"bannerx");
        } else {
            assert_eq!(inside.attempt(inside.address("a.example.", 2222)), Err(io::ErrorKind::ConnectionReset));
        }
    });
    let requests = requests.lock().unwrap().clone();
    (requests, records)
}

fn proxy() {
    let names = || Names::new(&[("a.example", &[&["10.0.0.5"]])]);
    let (requests, records) = through_proxy(false, "a.example:2222,10.0.0.5:2222", names());
    assert_eq!(requests, ["CONNECT 10.0.0.5:2222 HTTP/1.1"]);
    assert_eq!((records[0].connected, records[0].address_checked), (Some(([10, 0, 0, 5], 2222).into()), true));
    assert_eq!((records[0].sent, records[0].received), (1, 7));
    let (requests, records) = through_proxy(false, "a.example:2222", names());
    assert_eq!(requests, Vec::<String>::new(), "a forbidden address does not reach the proxy");
    assert!(records[0].is_refused());
}

fn proxy_with_names() {
    let (requests, records) = through_proxy(true, "a.example:2222", Names::new(&[]));
    assert_eq!(requests, ["CONNECT a.example:2222 HTTP/1.1"]);
    assert_eq!((records[0].connected, records[0].address_checked), (None, false));
}
