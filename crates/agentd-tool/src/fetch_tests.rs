use super::*;
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

/// Answers one request.
type Answer = Box<dyn FnOnce(&mut TcpStream) + Send>;

/// Serves connections one after the other with the answers, and returns the port and the heads of the requests.
fn serve(answers: Vec<Answer>) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heads) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            // The test may have ended.
            let _ = sender.send(String::from_utf8(head).unwrap());
            answer(&mut client);
        }
    });
    (port, heads)
}

fn text(answer: String) -> Answer {
    Box::new(move |client| drop(client.write_all(answer.as_bytes())))
}

fn asked(port: u16, more: &serde_json::Value) -> FetchRequest {
    let mut value = json!({ "url": format!("http://127.0.0.1:{port}/a?b#c") });
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

fn code(request: &FetchRequest) -> ErrorCode {
    fetch(request, Vec::new()).unwrap_err().code
}

#[test]
fn response_has_status_headers_and_exact_bytes() {
    let answer = "HTTP/1.1 418 Tea\r\nContent-Length: 3\r\nX-One: 1\r\nX-One: \u{e9}\r\n\r\n\0\u{1}x";
    let (port, heads) = serve(vec![text(answer.to_owned())]);
    let request = asked(port, &json!({ "method": "PUT", "headers": { "X-Sent": "v" } }));
    let (result, content) = fetch(&request, b"body".to_vec()).unwrap();
    assert_eq!((result.status, &content[..], result.length, result.truncated), (418, &b"\0\x01x"[..], 3, None));
    let ones: Vec<_> =
        result.headers.iter().filter(|header| header.name == "x-one").map(|header| header.value.as_bytes()).collect();
    assert_eq!(ones, [&b"1"[..], "\u{e9}".as_bytes()]);
    let head = heads.recv().unwrap();
    assert!(head.starts_with("PUT /a?b HTTP/1.1\r\n") && head.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{head}");
    assert!(head.contains("x-sent: v\r\n") && head.contains("content-length: 4\r\n"), "{head}");
}

#[test]
fn endless_body_is_cut_at_the_limit() {
    let endless = |client: &mut TcpStream| {
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while client
            .write_all(b"400\r\n")
            .and_then(|()| client.write_all(&[b'a'; 0x400]))
            .and_then(|()| client.write_all(b"\r\n"))
            .is_ok()
        {}
    };
    let (port, _heads) = serve(vec![Box::new(endless)]);
    let (result, content) = fetch(&asked(port, &json!({ "max_bytes": 100_000 })), Vec::new()).unwrap();
    assert_eq!((result.truncated, content.len(), result.length), (Some(Truncation::Bytes), 100_000, 100_000));
}

#[test]
fn body_of_exactly_the_limit_is_whole() {
    let (port, _heads) = serve(vec![text("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour".to_owned())]);
    let (result, content) = fetch(&asked(port, &json!({ "max_bytes": 4 })), Vec::new()).unwrap();
    assert_eq!((result.truncated, &content[..]), (None, &b"four"[..]));
}

#[test]
fn slow_body_is_cut_at_the_time_limit_and_a_silent_server_is_an_error() {
    let (end, ended) = mpsc::channel::<()>();
    let slow = move |client: &mut TcpStream| {
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart").unwrap();
        let _ = ended.recv();
    };
    let (port, _heads) = serve(vec![Box::new(slow)]);
    let (result, content) = fetch(&asked(port, &json!({ "time_ms": 1000 })), Vec::new()).unwrap();
    assert_eq!((result.truncated, &content[..]), (Some(Truncation::Time), &b"part"[..]));
    drop(end);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(code(&asked(silent.local_addr().unwrap().port(), &json!({ "time_ms": 100 }))), ErrorCode::Limit);
}

#[test]
fn malformed_endless_or_cut_responses_are_errors() {
    let endless = |client: &mut TcpStream| {
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\n");
        while client.write_all(b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok() {}
    };
    let long = |client: &mut TcpStream| {
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nX-Header: ");
        while client.write_all(&[b'a'; 1024]).is_ok() {}
    };
    let (port, _heads) = serve(vec![
        Box::new(endless),
        Box::new(long),
        text("garbage\r\n\r\n".to_owned()),
        text("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut".to_owned()),
        text(String::new()),
    ]);
    for _ in 0..5 {
        assert_eq!(code(&asked(port, &json!({}))), ErrorCode::Network);
    }
    // Nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(code(&asked(closed, &json!({}))), ErrorCode::Network);
}

#[test]
fn redirects_are_followed_and_recorded() {
    let (other, at_other) = serve(vec![text("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend".to_owned())]);
    let moved = |to: &str| text(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"));
    let (port, at_first) = serve(vec![moved("/second"), moved(&format!("http://127.0.0.1:{other}/third"))]);
    let (result, content) = fetch(&asked(port, &json!({ "headers": { "Authorization": "secret" } })), Vec::new()).unwrap();
    assert_eq!((&content[..], result.url), (&b"end"[..], format!("http://127.0.0.1:{other}/third")));
    assert_eq!(result.redirects.len(), 2);
    let has = |head: String| head.contains("authorization: secret");
    assert!(has(at_first.recv().unwrap()) && has(at_first.recv().unwrap()) && !has(at_other.recv().unwrap()));
    let again: Vec<_> = (0..4).map(|_| moved("/again")).collect();
    let (port, _heads) = serve(again);
    assert_eq!(code(&asked(port, &json!({ "max_redirects": 3 }))), ErrorCode::Limit);
    let (port, _heads) = serve(vec![moved("/elsewhere")]);
    let (result, _) = fetch(&asked(port, &json!({ "max_redirects": 0 })), Vec::new()).unwrap();
    assert_eq!((result.status, result.redirects.len()), (302, 0));
}

#[test]
fn method_of_the_connection_and_malformed_methods_are_refused() {
    for name in ["CONNECT", "TRACE", "get", "GET /x", "", "A\r\nB"] {
        assert_eq!(method(name).unwrap_err().code, ErrorCode::Invalid, "{name:?}");
    }
    assert_eq!(method("PROPFIND").unwrap().as_str(), "PROPFIND");
}
