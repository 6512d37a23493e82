//! A client of HTTP that sends exactly what a test writes.

use crate::server::Server;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub const OLD: &str = "2025-11-25";
pub const NEW: &str = "2026-07-28";

/// The answer to a request: the body is the last message of the server.
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Value,
}

/// Sends a request as a caller, and returns its result.
pub async fn request(server: &Server, caller: &str, version: &str, method: &str, params: Value) -> Value {
    let answer = call(server, caller, version, method, params, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.get("error").is_none(), "{:#}", answer.body);
    answer.body["result"].clone()
}

/// Sends a request as a caller, with headers that replace the usual ones.
pub async fn call(server: &Server, caller: &str, version: &str, method: &str, params: Value, headers: &[(&str, &str)]) -> Answer {
    let mut stream = begin(server, caller, version, method, params, headers).await;
    answer(&mut stream).await
}

/// Sends a request, and returns the connection.
pub async fn begin(
    server: &Server,
    caller: &str,
    version: &str,
    method: &str,
    mut params: Value,
    headers: &[(&str, &str)],
) -> TcpStream {
    let name = params["name"].as_str().map(str::to_owned);
    let mut usual = vec![("mcp-protocol-version", version)];
    if version != OLD {
        let meta = &mut params["_meta"];
        meta["io.modelcontextprotocol/protocolVersion"] = version.into();
        meta["io.modelcontextprotocol/clientInfo"] = json!({ "name": "test", "version": "1" });
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": { "form": {} } });
        usual.push(("mcp-method", method));
        usual.extend(name.iter().map(|name| ("mcp-name", name.as_str())));
    }
    usual.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
    usual.extend(headers);
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    send(server, caller, &body, &usual).await
}

/// Sends a body as a caller.
pub async fn post(server: &Server, caller: &str, body: String, headers: &[(&str, &str)]) -> Answer {
    let mut stream = send(server, caller, &body, headers).await;
    answer(&mut stream).await
}

async fn send(server: &Server, caller: &str, body: &str, headers: &[(&str, &str)]) -> TcpStream {
    let mut head = String::from("POST /mcp HTTP/1.1\r\nconnection: close\r\naccept: application/json, text/event-stream\r\n");
    if headers.iter().all(|(name, _)| *name != "host") {
        head.push_str("host: localhost\r\n");
    }
    let caller = Some(("x-caller", caller)).filter(|(_, caller)| !caller.is_empty());
    for (name, value) in headers.iter().copied().chain(caller) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses a long body closes the connection early.
    stream.write_all(body.as_bytes()).await.ok();
    stream
}

/// Sends a text, and returns the answer as text.
pub async fn raw(server: &Server, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // The server may have closed the connection with unread bytes.
    stream.read_to_end(&mut bytes).await.ok();
    String::from_utf8(bytes).unwrap()
}

async fn answer(stream: &mut TcpStream) -> Answer {
    let text = read(stream).await;
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let headers = headers.to_lowercase();
    let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = if headers.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    let last =
        body.lines().filter_map(|line| line.strip_prefix("data:")).filter_map(|data| serde_json::from_str(data).ok()).next_back();
    let body = last.or_else(|| serde_json::from_str(&body).ok()).unwrap_or_default();
    Answer { status, headers, body }
}

/// Joins the chunks of a body.
fn unchunked(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        let Some(chunk) = rest.get(..length) else { break };
        joined.push_str(chunk);
        body = rest.get(length + 2..).unwrap_or_default();
    }
    joined
}
