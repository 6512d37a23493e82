//! The requests that an inspected connection refuses, and the bounds of a connection.

use crate::{
    inspect::{bearer, refused, text},
    origin::{Client, HTTP_1, HTTP_2, SECRET, Scene, certificate, inspected, read_until, settings},
    sandbox::{Names, config, rest, start_gateway},
};
use agentd_egress::{
    GatewayError, GatewaySockets,
    grant::PathError,
    http::HeadError,
    inspect::error::InspectRefusal,
    record::{FlowEnd, FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
};
use hickory_proto::rr::RecordType;
use std::{
    io::{self, Read, Write},
    net::UdpSocket,
    process::Command,
    sync::Arc,
    time::Duration,
};

pub const TESTS: &[(&str, fn())] = &[
    ("inspected_requests_without_a_rule_are_answered_with_the_reason_and_recorded", rules),
    ("inspected_request_for_another_host_is_refused_wherever_it_is_named", other_host),
    ("inspected_host_has_no_other_way_over_ipv6_quic_or_no_proxy", other_ways),
    ("inspected_connect_and_other_upgrades_are_refused", tunnels),
    ("inspected_second_request_is_checked_like_the_first", second_request),
    ("inspected_ambiguous_framing_reaches_the_server_in_one_form", framing),
    ("inspected_data_before_its_headers_reaches_no_server", data_first),
    ("inspected_headers_without_end_are_refused", endless_headers),
    ("inspected_bomb_of_compressed_headers_is_refused", header_bomb),
    ("inspected_streams_at_once_are_limited", streams),
    ("inspected_slow_and_half_open_clients_are_refused_after_the_time_limit", slow),
    ("inspected_body_of_a_refused_request_is_read_within_bounds", refused_body),
    ("inspected_protocol_that_is_not_http_is_refused", other_protocol),
    ("inspected_flow_ends_when_its_grant_is_revoked", revoked),
    ("inspected_connections_above_the_limit_wait", limit),
    ("inspection_that_is_missing_or_useless_is_refused_at_the_start", start),
];

const RULES: &[&str] = &["/GET:/v1/*", "/POST:/v1/echo"];

fn ends(records: &[FlowRecord]) -> Vec<&FlowEnd> {
    let flows = records.iter().filter(|record| record.kind == FlowKind::Tcp);
    flows
        .map(|record| match &record.verdict {
            FlowVerdict::Granted { end, .. } => end,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn rules() {
    let upload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(upload.path(), [b'a'; 500_000]).unwrap();
    let body = format!("@{}", upload.path().display());
    for flag in ["--http1.1", "--http2"] {
        let scene = Scene {
            rules: RULES,
            change: |config| config.deny_reason = Some("Ask the platform team.".to_owned()),
            ..Scene::default()
        };
        let (answers, records, seen) = inspected(scene, |client| {
            let code = "%{http_code}";
            [
                client.curl(&[flag, "-w", code], "/v1/echo"),
                client.curl(&[flag, "-w", code, "-X", "DELETE"], "/v1/echo?key=x"),
                client.curl(&[flag, "-w", code], "/v1/../admin"),
                client.curl(&[flag, "-w", code], "/v1/a%2Fb"),
                client.curl(&[flag, "-w", code], "/v1//b"),
                client.curl(&[flag, "-w", code], "/admin"),
                client.curl(&[flag, "-w", code, "-X", "PUT", "-H", "Expect:", "--data-binary", &body], "/v1/echo"),
            ]
            .map(|output| text(&output.stdout))
        });
        assert_eq!(answers[0], "200");
        for answer in &answers[1..] {
            assert!(answer.starts_with("agentd: ") && answer.ends_with("\nAsk the platform team.\n403"), "{answer}");
        }
        assert!(answers[1].contains("no network grant allows this method and path"), "{}", answers[1]);
        let paths = [PathError::Dots, PathError::Hidden, PathError::Doubled].map(HeadError::Path);
        let expected = [&[HeadError::NotAllowed][..], &paths, &[HeadError::NotAllowed, HeadError::NotAllowed]].concat();
        assert_eq!(refused(&records), expected.into_iter().map(FlowRefusal::Request).collect::<Vec<_>>(), "{flag}");
        let line = records.iter().find_map(|record| record.request.as_ref()).unwrap();
        assert_eq!((line.method.as_str(), line.path.as_str()), ("DELETE", "/v1/echo"), "the query is not recorded");
        let refusal = records.iter().find(|record| record.kind == FlowKind::Request).unwrap();
        assert_eq!((refusal.name.as_deref(), refusal.connected.is_some()), (Some("a.example"), true));
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
}

fn other_host() {
    let (answers, records, seen) = inspected(Scene::default(), |client| {
        let own = ["--http1.1", "--http2"].map(|flag| text(&client.curl(&[flag, "-H", "Host: b.example"], "/v1/echo").stdout));
        let heads = [
            "GET https://b.example/v1/echo HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /v1/echo HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        ];
        let raw = heads.map(|head| {
            let mut stream = client.tls(HTTP_1);
            stream.write_all(head.as_bytes()).unwrap();
            text(&read_until(&mut stream, b"agentd: "))
        });
        (own, raw)
    });
    assert!(answers.0.iter().all(|answer| answer.starts_with("agentd: the request is for b.example")), "{answers:?}");
    assert!(answers.1.iter().all(|answer| answer.starts_with("HTTP/1.1 403 ")), "{answers:?}");
    assert!(seen.is_empty(), "{seen:?}");
    let other = HeadError::OtherHost { asked: "b.example".parse().unwrap(), granted: "a.example".parse().unwrap() };
    let expected = [other.clone(), other.clone(), other, HeadError::NoHost];
    assert_eq!(refused(&records), expected.map(FlowRefusal::Request));
}

fn other_ways() {
    let (_, records, seen) = inspected(Scene { rules: RULES, ..Scene::default() }, |client| {
        let v6 = client.inside.ask_at("[2001:db8::53]:53", "a.example.", RecordType::AAAA).1.unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-6", "--max-time", "60", "--cacert"]).arg(client.authority.path()).env("NO_PROXY", "*");
        curl.arg("--resolve").arg(format!("a.example:{}:[{v6}]", client.port));
        let answer = text(&curl.arg(format!("https://a.example:{}/admin", client.port)).output().unwrap().stdout);
        assert!(answer.starts_with("agentd: no network grant allows"), "{answer}");
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        udp.connect(client.inside.address("a.example.", client.port)).unwrap();
        udp.send(b"QUIC").unwrap();
        assert_eq!(udp.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    });
    assert!(seen.is_empty() && records[0].wanted.is_ipv6(), "{records:?}");
    assert_eq!(refused(&records), [FlowRefusal::Request(HeadError::NotAllowed)]);
}

fn tunnels() {
    let (_, records, seen) = inspected(Scene::default(), |client| {
        for head in [
            "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /v1/socket HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            "POST /v1/socket HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        ] {
            let mut stream = client.tls(HTTP_1);
            stream.write_all(head.as_bytes()).unwrap();
            let answer = text(&read_until(&mut stream, b"agentd: "));
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        }
    });
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(refused(&records), vec![FlowRefusal::Inspect(InspectRefusal::Tunnel); 3]);
}

fn second_request() {
    let (_, records, seen) = inspected(Scene { rules: RULES, ..Scene::default() }, |client| {
        let mut stream = client.tls(HTTP_1);
        // The two requests arrive at once.
        let both = "GET /v1/echo HTTP/1.1\r\nHost: a.example\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n";
        stream.write_all(both.as_bytes()).unwrap();
        let answer = text(&read_until(&mut stream, b"agentd: "));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    });
    assert_eq!(seen.len(), 1);
    assert_eq!(refused(&records), [FlowRefusal::Request(HeadError::NotAllowed)]);
}

fn framing() {
    let (_, _, seen) = inspected(Scene { rules: RULES, ..Scene::default() }, |client| {
        let mut stream = client.tls(HTTP_1);
        // To a server that follows `Content-Length`, the body would be a second request.
        let hidden = "GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let request = format!(
            "POST /v1/echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             {:x}\r\n{hidden}\r\n0\r\n\r\n",
            hidden.len()
        );
        // The gateway may refuse the request as a whole.
        let _ = stream.write_all(request.as_bytes());
        read_until(&mut stream, b"0\r\n\r\n");
    });
    assert!(seen.iter().all(|seen| seen.uri == "/v1/echo" && seen.body.starts_with(b"GET /admin ")), "{seen:?}");
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// `GET https://a.example/v1/PATH` with indexed fields of HPACK's static table, and literals for the rest.
fn head(path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| [&[index, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x82, 0x87][..], &literal(0x04, path), &literal(0x01, "a.example")].concat()
}

/// Opens a connection with HTTP/2, and sends the preface and empty settings.
fn http_2(client: &Client<'_>) -> impl Read + Write + use<> {
    let mut stream = client.tls(HTTP_2);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

/// Reads the next frame: its kind, its stream, and its payload. `None` at the end.
fn next(stream: &mut impl Read) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]).try_into().unwrap()];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], u32::from_be_bytes(head[5..].try_into().unwrap()), payload))
}

fn data_first() {
    let (_, _, seen) = inspected(Scene::default(), |client| {
        let mut stream = http_2(client);
        stream.write_all(&frame(DATA, END_STREAM, 1, b"data without headers")).unwrap();
        let _ = stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/v1/echo")));
        let frames: Vec<_> = std::iter::from_fn(|| next(&mut stream)).collect();
        assert!(frames.iter().any(|(kind, ..)| *kind == GO_AWAY), "{frames:?}");
        // A body whose headers are refused is not forwarded either.
        let mut stream = http_2(client);
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &head("/v2/echo"))).unwrap();
        let _ = stream.write_all(&frame(DATA, END_STREAM, 1, b"data"));
        assert!(
            std::iter::from_fn(|| next(&mut stream)).any(|(kind, _, payload)| kind == DATA && payload.starts_with(b"agentd: "))
        );
    });
    assert!(seen.is_empty(), "{seen:?}");
}

fn endless_headers() {
    let (answers, records, seen) = inspected(Scene::default(), |client| {
        let many = (0..150).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
        let long = format!("X-Long: {}\r\n", "y".repeat(200_000));
        [many, long].map(|fields| {
            let mut stream = client.tls(HTTP_1);
            // The gateway closes the connection while the rest is sent.
            let _ = write!(stream, "GET /v1/echo HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
            text(&read_until(&mut stream, b"\r\n\r\n"))
        })
    });
    assert!(answers[0].starts_with("HTTP/1.1 431 "), "{answers:?}");
    assert!(seen.is_empty());
    assert_eq!(ends(&records), [&FlowEnd::Refused(HeadError::TooLong.into()); 2]);
}

fn header_bomb() {
    let (_, _, seen) = inspected(Scene::default(), |client| {
        let mut stream = http_2(client);
        // A field of 3,000 bytes that enters the dynamic table, then 8,000 references of one byte: 24 MB of headers.
        let value = vec![b'y'; 3000];
        let field = [&[0x40, 1, b'x', 0x7f, 0xb9, 0x16][..], &value].concat();
        let block = [&head("/v1/echo")[..], &field, &[0xbe; 8000]].concat();
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).unwrap();
        // The gateway itself ends the connection; a server's refusal would reset the stream. ENHANCE_YOUR_CALM is 11.
        let ended = std::iter::from_fn(|| next(&mut stream)).find(|(kind, ..)| [HEADERS, RESET, GO_AWAY].contains(kind));
        let calm = matches!(&ended, Some((GO_AWAY, _, payload)) if payload[4..8] == 11_u32.to_be_bytes());
        assert!(calm, "{ended:?}");
    });
    assert!(seen.is_empty(), "{seen:?}");
}

fn streams() {
    inspected(Scene::default(), |client| {
        let mut stream = http_2(client);
        let (kind, _, settings) = next(&mut stream).unwrap();
        assert_eq!(kind, SETTINGS);
        // SETTINGS_MAX_CONCURRENT_STREAMS is 3.
        let limit = settings.chunks(6).find(|entry| entry[..2] == [0, 3]).unwrap();
        assert_eq!(limit[2..], 32_u32.to_be_bytes());
        for number in 0..40 {
            stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head("/v1/events"))).unwrap();
        }
        let refused = std::iter::from_fn(|| next(&mut stream)).find(|(kind, ..)| *kind == RESET);
        let (_, number, reason) = refused.unwrap();
        // REFUSED_STREAM is 7.
        assert!(number > 64 && reason == 7_u32.to_be_bytes(), "{number} {reason:?}");
    });
}

fn slow() {
    let scene = Scene { change: |config| config.limits.first_bytes = Duration::from_secs(2), ..Scene::default() };
    let (_, records, seen) = inspected(scene, |client| {
        let mut head = client.tls(HTTP_1);
        head.write_all(b"GET /v1/echo HTTP/1.1\r\nHost: ").unwrap();
        let mut preface = client.tls(HTTP_2);
        preface.write_all(b"PRI * HTTP/2.0").unwrap();
        let mut silent = http_2(client);
        // Neither handshake continues after the ClientHello.
        let mut hello = client.inside.connect("a.example.", client.port);
        hello.write_all(&crate::client_hello::real_hello("a.example")).unwrap();
        for stream in [&mut head, &mut preface] {
            read_until(stream, b"never");
        }
        while next(&mut silent).is_some() {}
        let _ = rest(&hello);
    });
    assert!(seen.is_empty());
    let ends = ends(&records);
    assert_eq!(ends.len(), 4);
    let late = FlowEnd::Refused(FlowRefusal::TimedOut("request"));
    assert_eq!(ends.iter().filter(|end| ***end == late).count(), 3, "{ends:?}");
    assert!(ends.iter().any(|end| matches!(end, FlowEnd::Broken(reason) if reason.contains("timed out"))), "{ends:?}");
}

/// The answer comes although neither body ends. A body that arrives without a pause is read up to its bound only.
fn refused_body() {
    const HEAD: &[u8] = b"POST /admin HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000000\r\n\r\n";
    let (sent, records, seen) = inspected(Scene { rules: RULES, ..Scene::default() }, |client| {
        let mut slow = client.tls(HTTP_1);
        slow.write_all(HEAD).unwrap();
        slow.write_all(b"part").unwrap();
        assert!(text(&read_until(&mut slow, b"agentd: ")).starts_with("HTTP/1.1 403 "));
        let mut fast = client.tls(HTTP_1);
        fast.write_all(b"POST /admin HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let chunk = [&b"4000\r\n"[..], &[b'a'; 0x4000], b"\r\n"].concat();
        // The gateway ends the connection.
        let mut sent = 0;
        while fast.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        sent
    });
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(refused(&records), [FlowRefusal::Request(HeadError::NotAllowed), FlowRefusal::Request(HeadError::NotAllowed)]);
    // The bound is 1 MiB. The bytes in the buffers of the kernel are added.
    assert!((1 << 20..16 << 20).contains(&sent), "{sent} bytes were accepted");
}

fn other_protocol() {
    let (_, records, seen) = inspected(Scene::default(), |client| {
        let mut stream = client.tls(b"imap");
        assert_eq!(read_until(&mut stream, b"never"), b"");
        let mut stream = client.tls(HTTP_1);
        stream.write_all(b"EHLO there\r\n\r\n").unwrap();
        read_until(&mut stream, b"never");
    });
    assert!(seen.is_empty());
    assert_eq!(records[0].verdict, FlowVerdict::Refused(InspectRefusal::Protocol.into()));
    assert_eq!(ends(&records[1..]), [&FlowEnd::Refused(HeadError::NotHttp.into())]);
    // The server speaks only HTTP/2, and the client only HTTP/1.1.
    let (_, records, seen) = inspected(Scene { protocols: &[HTTP_2], ..Scene::default() }, |client| {
        assert!(!client.curl(&["--http1.1"], "/v1/echo").status.success());
    });
    assert!(seen.is_empty() && matches!(ends(&records)[..], [FlowEnd::Unreachable(_)]), "{records:?}");
}

fn revoked() {
    let (_, records, _) = inspected(Scene::default(), |client| {
        let mut stream = client.tls(HTTP_1);
        write!(stream, "GET /v1/events HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        read_until(&mut stream, b"first\n\n");
        let narrower = format!("a.example:{port}/tls/GET:/v2/*,127.0.0.1:{port}", port = client.port);
        client.inside.gateway.set_grants(narrower.parse().unwrap()).unwrap();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof), "{error}");
    });
    assert_eq!(ends(&records), [&FlowEnd::Revoked]);
}

fn limit() {
    let scene = Scene { change: |config| config.limits.inspected = 1, ..Scene::default() };
    let (_, records, seen) = inspected(scene, |client| {
        let mut first = client.tls(HTTP_1);
        write!(first, "GET /v1/events HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        read_until(&mut first, b"first\n\n");
        // The handshake of the second connection continues once the first connection has ended.
        let mut second = client.tls(HTTP_1);
        second.sock.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let request = b"POST /v1/echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nend";
        assert_eq!(second.write_all(request).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        second.sock.set_read_timeout(Some(crate::sandbox::LONG)).unwrap();
        second.write_all(request).unwrap();
        assert!(text(&read_until(&mut second, b"end")).starts_with("HTTP/1.1 200 OK\r\n"));
    });
    assert_eq!((records.len(), seen.len()), (2, 2));
}

fn start() {
    let error = start_gateway(GatewaySockets::default(), config("a.example/GET:/x", Names::new(&[]))).unwrap_err();
    assert!(matches!(error, GatewayError::Inspection { .. }));
    for grants in ["b.example", "a.example/tcp", "a.example:8443/tls"] {
        let mut config = config(grants, Names::new(&[]));
        let certificate = certificate(&["a.example"], &[]);
        config.inspection = Some(Arc::new(settings(&certificate, 443, bearer()).0));
        assert!(!format!("{config:?}").contains(SECRET));
        let error = start_gateway(GatewaySockets::default(), config).unwrap_err();
        assert!(matches!(&error, GatewayError::Secret { .. }), "{grants}: {error}");
        assert!(!agentd_core::Remedy::in_message(&error.to_string()).as_str().is_empty(), "{error}");
    }
}
