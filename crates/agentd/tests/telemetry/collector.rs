//! A collector of spans, as far as agentd uses it: an HTTP server that keeps what it receives.

use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

/// A running collector.
pub struct Collector {
    pub endpoint: String,
    received: Receiver<(String, Vec<u8>)>,
}

impl Collector {
    /// Starts a collector that answers every request with this status.
    pub fn answering(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                // A client that closes the connection early has sent nothing.
                if let Some(request) = read(&stream) {
                    sender.send(request).unwrap();
                    write!(&stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                }
            }
        });
        Self { endpoint, received }
    }

    /// Returns head and body of the next request.
    pub fn request(&self) -> (String, String) {
        let (head, body) = self.received.recv().unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// Returns the spans of the next request.
    pub fn spans(&self) -> Vec<Value> {
        let request: Value = serde_json::from_str(&self.request().1).unwrap();
        request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))?;
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}
