//! Clients that violate the protocol. The connection serves other calls afterwards.

use crate::place::{Place, call_error, shell};
use agentd_proto::{
    limits::MAX_REQUEST,
    v1::{self, agentd_client::AgentdClient, execute_stream_request::Message},
};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::Code;

/// A connection that sends any bytes.
struct RawConnection(SendRequest<Full<Bytes>>);

impl RawConnection {
    async fn to(place: &Place) -> Self {
        let io = TokioIo::new(UnixStream::connect(place.socket()).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a body to a method, and returns the status of gRPC.
    async fn status(&mut self, method: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Code {
        let mut request = Request::post(format!("http://localhost/agentd.v1.Agentd/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let of = |headers: &HeaderMap| headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
        let in_headers = of(response.headers());
        let trailers = response.into_body().collect().await.unwrap().trailers().cloned();
        in_headers.or_else(|| of(&trailers?)).unwrap()
    }
}

/// Returns a message with its head.
fn frame(flag: u8, length: u32, content: &[u8]) -> Vec<u8> {
    [&[flag], length.to_be_bytes().as_slice(), content].concat()
}

#[tokio::test]
async fn malformed_messages_are_errors_and_the_connection_remains() {
    let place = Place::new().await;
    let mut connection = RawConnection::to(&place).await;
    for (name, body) in [
        ("no message", Vec::new()),
        ("half of a head", vec![0, 0]),
        ("garbage", frame(0, 4, b"\xff\xff\xff\xff")),
        ("a text that is not UTF-8", frame(0, 4, b"\x0a\x02\xff\xfe")),
        ("an end within a message", frame(0, 100, b"\x0a\x02ab")),
        ("a compressed message without an encoding", frame(1, 4, b"\x0a\x02ab")),
        ("an unknown flag", frame(0xff, 4, b"\x0a\x02ab")),
        ("a length of 4 GiB", frame(0, u32::MAX, b"\x0a\x02ab")),
        ("a field of 4 GiB", frame(0, 6, b"\x0a\xff\xff\xff\xff\x0f")),
    ] {
        for method in ["Execute", "ExecuteStream"] {
            let code = connection.status(method, &[], body.clone()).await;
            assert_ne!(code, Code::Ok, "{method}: {name}");
        }
        assert_eq!(connection.status("Health", &[], frame(0, 0, b"")).await, Code::Ok, "after {name}");
    }
    assert_eq!(connection.status("Unknown", &[], frame(0, 0, b"")).await, Code::Unimplemented);
}

#[tokio::test]
async fn compressed_request_is_not_decompressed() {
    let place = Place::new().await;
    let mut connection = RawConnection::to(&place).await;
    let headers = [("grpc-encoding", "gzip")];
    assert_eq!(connection.status("Execute", &headers, frame(1, 4, b"\x1f\x8b\x08\x00")).await, Code::Unimplemented);
}

#[tokio::test]
async fn malformed_deadline_is_refused() {
    let place = Place::new().await;
    let mut connection = RawConnection::to(&place).await;
    for timeout in ["", "1", "-1S", "123456789S", "1s", "S"] {
        let code = connection.status("Execute", &[("grpc-timeout", timeout)], frame(0, 0, b"")).await;
        assert_eq!(code, Code::InvalidArgument, "{timeout:?}");
    }
}

#[tokio::test]
async fn message_beyond_the_limit_is_refused_and_one_within_is_not() {
    let place = Place::new().await;
    let mut connection = RawConnection::to(&place).await;
    let long = MAX_REQUEST + 1;
    let body = frame(0, u32::try_from(long).unwrap(), &vec![0; long]);
    assert_eq!(connection.status("Execute", &[], body).await, Code::OutOfRange);
    // The longest parameters that the engine accepts.
    let parameters_json = format!("{{\"command\":\"x\"{}}}", " ".repeat((16 << 20) - 15));
    assert_eq!(parameters_json.len(), 16 << 20);
    let request = v1::ExecuteRequest { parameters_json, ..shell("x") };
    place.operator().await.execute(request.clone()).await.unwrap();
    let parameters_json = format!("{} ", request.parameters_json);
    let refused = call_error(place.operator().await.execute(v1::ExecuteRequest { parameters_json, ..request }).await);
    assert_eq!(refused.code, Code::InvalidArgument);
}

#[tokio::test]
async fn stream_without_or_with_a_second_request_is_refused_and_its_intent_cancelled() {
    let mut place = Place::new().await;
    let socket = place.socket();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut client = AgentdClient::new(channel);
    let message = |message| v1::ExecuteStreamRequest { message: Some(message) };
    let stdin = message(Message::Stdin(Bytes::from_static(b"x")));
    for first in [stdin.clone(), v1::ExecuteStreamRequest { message: None }] {
        let mut replies = client.execute_stream(tokio_stream::once(first)).await.unwrap().into_inner();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::InvalidArgument);
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(message(Message::Execute(shell("wait")))).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.execute_stream(messages).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    assert_eq!(place.begun.recv().await.unwrap(), "wait");
    sender.send(message(Message::Execute(shell("wait")))).await.unwrap();
    assert_eq!(replies.message().await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(place.cancelled.recv().await.unwrap(), "wait");
}
