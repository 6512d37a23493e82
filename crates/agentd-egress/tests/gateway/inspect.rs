//! The requests that pass an inspected connection, and the treatment of secrets.

use crate::origin::{Client, HTTP_1, HTTP_2, LONG_BODY, SECRET, Scene, Seen, inspected, long_byte, read_until};
use agentd_egress::{
    inspect::{error::InspectRefusal, secret::SecretPlace},
    record::{FlowEnd, FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
};
use data_encoding::BASE64;
use std::{
    io::{Read as _, Write as _},
    process::{Command, Output},
};

pub const TESTS: &[(&str, fn())] = &[
    ("inspected_requests_pass_over_the_version_that_both_sides_speak", versions),
    ("inspected_host_is_reached_by_programs_that_know_nothing_of_it", programs),
    ("inspected_secret_reaches_its_host_and_is_masked_in_head_body_and_trailers", secret),
    ("inspected_password_of_basic_authentication_is_filled_in", basic),
    ("inspected_secret_stays_outside_of_requests_to_another_host", other_host),
    ("inspected_credential_of_the_program_is_refused", own_credential),
    ("inspected_other_credential_at_the_host_of_a_secret_is_refused", another_credential),
    ("inspected_secret_is_not_sent_to_a_server_that_is_not_verified", unverified),
    ("inspected_encoded_response_of_a_host_with_a_secret_is_refused", encoded),
    ("inspected_body_that_breaks_gives_no_part_of_a_secret", broken_body),
    ("inspected_long_bodies_are_carried_in_both_directions_and_resumed", download),
    ("inspected_range_of_a_response_to_a_secret_is_not_asked_for", range),
    ("inspected_event_arrives_before_the_stream_ends", events),
    ("inspected_grpc_trailers_arrive", grpc),
    ("inspected_expectation_is_answered_once_the_request_is_allowed", expectation),
    ("inspected_websocket_is_carried_and_secrets_in_its_frames_are_masked", websocket),
    ("inspected_connection_of_a_server_that_closes_ends_cleanly", closing),
];

pub fn bearer() -> Option<SecretPlace> {
    Some(SecretPlace::Header("authorization".to_owned()))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that curl succeeded, and returns its output.
fn done(output: Output) -> String {
    assert!(output.status.success(), "{} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub fn refused(records: &[FlowRecord]) -> Vec<FlowRefusal> {
    let requests = records.iter().filter(|record| record.kind == FlowKind::Request);
    requests
        .map(|record| match &record.verdict {
            FlowVerdict::Refused(refusal) => refusal.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Returns true if the flow was granted and ended without an error. The gateway may stop before it has read the end of the
/// client.
fn ended_well(record: &FlowRecord) -> bool {
    matches!(record.verdict, FlowVerdict::Granted { end: FlowEnd::Closed | FlowEnd::Stopped, .. })
}

fn versions() {
    for (flag, protocols, two) in [
        ("--http2", &[HTTP_2, HTTP_1][..], true),
        ("--http1.1", &[HTTP_2, HTTP_1], false),
        ("--http2", &[HTTP_1], false),
        ("--http2", &[], false),
        ("--no-alpn", &[HTTP_1], false),
    ] {
        let (answer, records, seen) = inspected(Scene { protocols, ..Scene::default() }, |client| {
            done(client.curl(&[flag, "-d", "a body", "-H", "X-Own: 1", "-w", " %{http_version}"], "/v1/echo?query=1"))
        });
        assert_eq!(answer, format!("a body {}", if two { "2" } else { "1.1" }), "{flag} {protocols:?}");
        let [Seen { method, uri, two: seen_two, headers, body }] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((method.as_str(), &body[..], *seen_two), ("POST", &b"a body"[..], two));
        assert_eq!(headers["x-own"], "1");
        let [record] = &records[..] else { panic!("{records:?}") };
        let host = format!("a.example:{}", record.wanted.port());
        if two {
            assert_eq!(uri, &format!("https://{host}/v1/echo?query=1"));
        } else {
            assert_eq!((uri.as_str(), headers["host"].to_str().unwrap()), ("/v1/echo?query=1", host.as_str()));
        }
        assert!(ended_well(record), "{record:?}");
        assert!(record.sent > 0 && record.received > 0 && record.connected.is_some());
    }
}

fn programs() {
    let python = "import os, urllib.request as r\nprint(r.urlopen(os.environ['URL'], b'x').read().decode())";
    let node = "fetch(process.env.URL, { method: 'POST', body: 'x' }).then((r) => r.text()).then(console.log)";
    for (program, option, script, variable) in
        [("python3", "-c", python, "SSL_CERT_FILE"), ("node", "-e", node, "NODE_EXTRA_CA_CERTS")]
    {
        // Not every machine has Node.
        if program == "node" && Command::new(program).arg("--version").output().is_err() {
            continue;
        }
        let (answer, _, seen) = inspected(Scene::default(), |client| {
            let url = format!("https://a.example:{}/v1/echo", client.port);
            let mut command = Command::new(program);
            command.args([option, script]).env("URL", url).env(variable, client.authority.path());
            done(command.output().unwrap())
        });
        assert_eq!((answer.as_str(), seen.len()), ("x\n", 1), "{program}");
    }
}

fn secret() {
    for flag in ["--http1.1", "--http2"] {
        let (answer, _, seen) = inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
            let header = format!("Authorization: Bearer {}", client.placeholder);
            done(client.curl(&[flag, "-H", &header, "-H", "Accept-Encoding: gzip", "-D", "-"], "/v1/reflect"))
        });
        assert_eq!(seen[0].headers["authorization"], format!("Bearer {SECRET}"));
        assert_eq!(seen[0].headers["accept-encoding"], "identity");
        let mask = "*".repeat(SECRET.len());
        assert!(answer.contains(&format!("x-reflected: Bearer {mask}")), "{flag}: {answer}");
        assert!(answer.contains(&format!("you sent: Bearer {mask}.")), "{flag}: {answer}");
        assert!(flag == "--http1.1" || answer.contains(&format!("x-late: Bearer {mask}")), "{answer}");
        assert!(!answer.contains(SECRET));
    }
}

fn basic() {
    let (answer, _, seen) = inspected(Scene { secret: Some(SecretPlace::BasicPassword), ..Scene::default() }, |client| {
        done(client.curl(&["-u", &format!("user:{}", client.placeholder), "-D", "-"], "/v1/reflect"))
    });
    let filled = BASE64.encode(format!("user:{SECRET}").as_bytes());
    assert_eq!(seen[0].headers["authorization"], format!("Basic {filled}"));
    // The characters that the secret decides are masked.
    assert!(!answer.contains(&filled[8..filled.len() - 2]) && answer.contains(&"*".repeat(filled.len() - 10)), "{answer}");
}

fn other_host() {
    let (placeholder, _, seen) = inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
        let header = format!("Authorization: Bearer {}", client.placeholder);
        done(client.curl_at("b.example", &["-H", &header], "/v1/echo"));
        // Send the placeholder to the right host in another header and in the body.
        let other = format!("X-Other: {}", client.placeholder);
        done(client.curl(&["-H", &other, "-d", &client.placeholder], "/v1/echo"));
        client.placeholder.clone()
    });
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {placeholder}"));
    assert_eq!((&seen[1].headers["x-other"], &seen[1].body[..]), (&placeholder.parse().unwrap(), placeholder.as_bytes()));
}

fn own_credential() {
    let (answers, records, seen) = inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
        let placeholder = format!("Authorization: Bearer {}", client.placeholder);
        let own = "Authorization: Bearer the-program's-own";
        let two = ["-H", placeholder.as_str(), "-H", "Authorization: Bearer x"];
        [&["-H", own][..], &two, &["--http2", "-H", own]].map(|arguments| done(client.curl(arguments, "/v1/reflect")))
    });
    for answer in answers {
        assert!(answer.starts_with("agentd: the header `authorization` is reserved for a secret"), "{answer}");
    }
    assert!(seen.is_empty(), "{seen:?}");
    let refusal = FlowRefusal::Inspect(InspectRefusal::Credential { header: "authorization".to_owned() });
    assert_eq!(refused(&records), vec![refusal; 3]);
}

fn another_credential() {
    let scene = || Scene { secret: bearer(), ..Scene::default() };
    for flag in ["--http1.1", "--http2"] {
        let (answers, records, seen) = inspected(scene(), |client| {
            let own = format!("Authorization: Bearer {}", client.placeholder);
            let ask = |header: &str, path: &str| done(client.curl(&[flag, "-H", &own, "-H", header, "-w", "%{http_code}"], path));
            let refused = [
                ask("X-Api-Key: own", "/v1/echo"),
                ask("X_Api_Key: own", "/v1/echo"),
                ask("A: b", "/v1/echo?%61ccess_token=own"),
            ];
            assert_eq!(ask("Cookie: session=own", "/v1/echo?page_token=1"), "200", "{flag}");
            // No secret is for this host.
            let other = ["-H", "X-Api-Key: own", "-w", "%{http_code}"];
            assert_eq!(done(client.curl_at("b.example", &other, "/v1/echo?key=own")), "200");
            refused
        });
        let places = ["header `x-api-key`", "header `x_api_key`", "parameter `%61ccess_token`"];
        for (answer, place) in answers.iter().zip(places) {
            let start = format!("agentd: the {place} can carry another credential");
            assert!(answer.starts_with(&start) && answer.ends_with("403"), "{flag}: {answer}");
        }
        let refusals = places.map(|place| FlowRefusal::Inspect(InspectRefusal::OtherCredential { place: place.to_owned() }));
        assert_eq!(refused(&records), refusals);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen.iter().all(|seen| !seen.headers.contains_key("cookie")), "{seen:?}");
    }
}

fn unverified() {
    let other: fn(&mut agentd_egress::GatewayConfig) = |config| {
        let other = crate::origin::certificate(&["a.example"], &[]);
        let settings = std::sync::Arc::get_mut(config.inspection.as_mut().unwrap()).unwrap();
        settings.roots = agentd_egress::inspect::roots::TrustedRoots::from_pem(&other.authority).unwrap();
    };
    for (certified, change) in [(&["a.example"][..], other), (&["b.example"], |_| {})] {
        let (output, records, seen) = inspected(Scene { secret: bearer(), certified, change, ..Scene::default() }, |client| {
            let header = format!("Authorization: Bearer {}", client.placeholder);
            client.curl(&["-k", "-H", &header], "/v1/echo")
        });
        assert!(!output.status.success() && seen.is_empty(), "{certified:?}");
        let FlowVerdict::Granted { end: FlowEnd::Unreachable(reason), .. } = &records[0].verdict else { panic!("{records:?}") };
        assert!(reason.contains("certificate"), "{reason}");
    }
}

fn encoded() {
    for flag in ["--http1.1", "--http2"] {
        let (answer, records, seen) = inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
            done(client.curl(&[flag, "-d", "x", "-w", " %{http_code}"], "/v1/encoded"))
        });
        assert!(answer.starts_with("agentd: the server encoded its response") && answer.ends_with(" 502"), "{answer}");
        assert_eq!(seen.len(), 1);
        assert_eq!(refused(&records), [FlowRefusal::Inspect(InspectRefusal::Encoded)]);
    }
    // A host without a secret may encode.
    let (answer, records, _) = inspected(Scene::default(), |client| done(client.curl(&["-d", "x"], "/v1/encoded")));
    assert_eq!((answer.as_str(), refused(&records).len()), ("x", 0));
}

fn broken_body() {
    for flag in ["--http1.1", "--http2"] {
        let (output, ..) = inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
            client.curl(&[flag, "-H", &format!("Authorization: {}", client.placeholder)], "/v1/broken")
        });
        let got = text(&output.stdout);
        assert!(!output.status.success(), "the end of the body is not hidden");
        assert!(got.bytes().all(|byte| byte == b'*'), "{flag}: {got}");
    }
}

fn download() {
    // A download from the host of a secret cannot be resumed.
    let scenes: [(_, &[u64]); 2] = [(bearer(), &[0]), (None, &[0, 1_000_000])];
    for (flag, (secret, starts)) in
        ["--http1.1", "--http2"].into_iter().flat_map(|flag| scenes.clone().map(|scene| (flag, scene)))
    {
        inspected(Scene { secret, ..Scene::default() }, |client| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let path = file.path().to_str().unwrap();
            for start in starts.iter().copied() {
                file.as_file().set_len(start).unwrap();
                done(client.curl(&[flag, "-C", &start.to_string(), "-o", path], "/v1/long"));
                let all = std::fs::read(path).unwrap();
                assert_eq!(all.len() as u64, LONG_BODY, "{flag} {start}");
                let from = usize::try_from(start).unwrap();
                assert!(all[from..].iter().zip(start..).all(|(byte, at)| *byte == long_byte(at)), "{flag} {start}");
            }
            // The server returns the bytes that it received.
            let back = tempfile::NamedTempFile::new().unwrap();
            let whole = format!("@{path}");
            done(client.curl(&[flag, "--data-binary", &whole, "-o", back.path().to_str().unwrap()], "/v1/echo"));
            assert!(std::fs::read(back.path()).unwrap() == std::fs::read(path).unwrap(), "{flag}");
        });
    }
}

fn range() {
    let (answer, _, seen) = inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
        let header = format!("Authorization: Bearer {}", client.placeholder);
        // The server may send a secret that it has stored in the answer to a request without it.
        done(client.curl(&["-r", "20-25", "-H", "If-Range: x"], "/v1/reflect"));
        done(client.curl(&["-H", &header, "-r", "20-25", "-H", "If-Range: x"], "/v1/reflect"))
    });
    assert!(answer.starts_with("you sent: Bearer **"), "{answer}");
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| !request.headers.contains_key("range") && !request.headers.contains_key("if-range")));
}

fn events() {
    inspected(Scene { secret: bearer(), ..Scene::default() }, |client| {
        // The server sends nothing after the first event, until the client leaves.
        let mut stream = client.tls(HTTP_1);
        write!(stream, "GET /v1/events HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let got = text(&read_until(&mut stream, b"first\n\n"));
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains("data: first\n\n"), "{got}");
    });
}

fn grpc() {
    for secret in [None, bearer()] {
        let (answer, _, seen) = inspected(Scene { secret, ..Scene::default() }, |client| {
            done(client.curl(&["--http2", "-H", "TE: trailers", "-d", "message", "-D", "-"], "/v1/grpc"))
        });
        assert_eq!(seen[0].headers["te"], "trailers");
        assert!(answer.contains("message") && answer.contains("grpc-status: 0"), "{answer}");
    }
}

fn expectation() {
    let (refusal, _, seen) = inspected(Scene::default(), |client| {
        let mut answers = ["/v1/echo", "/v2/echo"].map(|path| {
            let mut stream = client.tls(HTTP_1);
            write!(stream, "POST {path} HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
                .unwrap();
            let first = text(&read_until(&mut stream, b"\r\n\r\n"));
            if first.starts_with("HTTP/1.1 100 Continue\r\n") {
                stream.write_all(b"body").unwrap();
                assert!(text(&read_until(&mut stream, b"body")).starts_with("HTTP/1.1 200 OK\r\n"));
            }
            first
        });
        assert!(answers[0].starts_with("HTTP/1.1 100"), "{}", answers[0]);
        std::mem::take(&mut answers[1])
    });
    assert!(refusal.starts_with("HTTP/1.1 403 Forbidden\r\n"), "the body is not asked for: {refusal}");
    assert_eq!((seen.len(), &seen[0].body[..]), (1, &b"body"[..]));
}

fn upgrade(client: &Client<'_>, authorization: &str) -> (impl std::io::Read + std::io::Write + use<>, String) {
    let mut stream = client.tls(HTTP_1);
    write!(
        stream,
        "GET /v1/socket HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: {authorization}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (stream, text(&head))
}

fn websocket() {
    for secret in [bearer(), None] {
        let has = secret.is_some();
        let (_, records, seen) = inspected(Scene { secret, ..Scene::default() }, |client| {
            let sent = if has { client.placeholder.as_str() } else { "an-own-credential-0123456789" };
            let (mut stream, head) = upgrade(client, sent);
            assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
            let got = if has { vec![b'*'; SECRET.len()] } else { sent.as_bytes().to_vec() };
            let (first, second) = got.split_at(got.len() / 2);
            let frame = |head: u8, payload: &[u8]| [&[head, u8::try_from(payload.len()).unwrap()], payload].concat();
            // The server returns the bytes that the test sends.
            let echoed = frame(0x82, b"echo");
            stream.write_all(&echoed).unwrap();
            let expected = [frame(0x01, first), frame(0x80, second), echoed].concat();
            let mut frames = vec![0; expected.len()];
            stream.read_exact(&mut frames).unwrap();
            assert_eq!(frames, expected);
        });
        let headers = &seen[0].headers;
        assert_eq!(headers["sec-websocket-key"], "AAAAAAAAAAAAAAAAAAAAAA==");
        assert_eq!(headers.contains_key("sec-websocket-extensions"), !has);
        assert!(!has || headers["authorization"] == SECRET);
        assert!(refused(&records).is_empty());
    }
}

fn closing() {
    let (answer, records, seen) = inspected(Scene::default(), |client| {
        // The second request needs a new connection.
        let first = format!("https://a.example:{}/v1/close", client.port);
        done(client.curl(&["--http1.1", "-d", "x", "-D", "-", &first], "/v1/close"))
    });
    assert_eq!(answer.matches("connection: close").count(), 2, "{answer}");
    assert_eq!(seen.len(), 2);
    assert_eq!(records.len(), 2);
    for record in records {
        assert!(ended_well(&record), "{record:?}");
    }
}
