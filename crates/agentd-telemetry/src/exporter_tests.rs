//! Tests of the exporter against collectors that work, fail and stay silent.

use super::*;
use crate::{span_queue::SpanQueue, trace_context::TraceContext};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::SystemTime,
};

fn span() -> EndedSpan {
    let now = SystemTime::now();
    EndedSpan {
        context: TraceContext::new_trace(),
        parent: None,
        name: "exec".to_owned(),
        is_request: false,
        started: now,
        ended: now,
        attributes: Vec::new(),
    }
}

/// Exports a span to a collector at this address.
fn export(address: &str, spans: &[EndedSpan]) -> Result<(), ExportError> {
    let endpoint = format!("http://user:canary@{address}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=canary"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
    ];
    let get = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
    let exporter = SpanExporter::new(ExportSettings::of(get).unwrap().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(exporter.export(spans))
}

/// Reads a request. Returns its head and its body.
fn read(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

/// Starts a collector that answers each request, and returns its address and its requests.
fn collector(answer: &'static str) -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            sender.send(read(&stream)).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, requests)
}

#[test]
fn spans_are_posted_as_json_with_the_configured_headers() {
    let (address, requests) = collector("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    export(&address, &[span()]).unwrap();
    let (head, body) = requests.recv().unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/json\r\n") && head.contains("x-key: canary\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "exec");
}

#[test]
fn failing_collector_is_an_error_that_contains_no_secret() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (refusing, _requests) = collector("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let (redirecting, _more) = collector("HTTP/1.1 307 Moved\r\nlocation: http://canary/\r\ncontent-length: 0\r\n\r\n");
    let (broken, _rest) = collector("canary\r\n\r\n");
    for (address, expected) in [
        (closed, "refused"),
        (silent.local_addr().unwrap().to_string(), "did not answer in time"),
        (refusing, "503"),
        (redirecting, "307"),
        (broken, "export spans"),
    ] {
        let error = export(&address, &[span()]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains("canary"), "{text}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn empty_queue_causes_no_connection() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    export(&closed, &SpanQueue::default().take()).unwrap();
}
