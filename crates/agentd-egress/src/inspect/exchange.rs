//! One request and its response inside of an inspected connection.

use super::{
    Inspector,
    body::{MaskedBody, Reply, mask_headers},
    check,
    error::InspectRefusal,
    mask::{Masker, Patterns},
    secret::HostSecrets,
    tunnel::Tunnel,
};
use crate::{
    grant::RequestRule,
    http::RequestCheck,
    name::HostName,
    record::{FlowRefusal, RequestLine, RequestLog},
};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri, Version,
    body::{Body as _, Incoming},
    client::conn::{http1, http2},
    header::{self, HeaderValue},
    http::{
        request,
        uri::{PathAndQuery, Scheme},
    },
    upgrade,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::{Mutex, mpsc};

/// The connection to the server.
pub(crate) enum Sender {
    One(Mutex<http1::SendRequest<Incoming>>),
    Two(http2::SendRequest<Incoming>),
}

/// The events on a connection so far.
#[derive(Default)]
pub(crate) struct Marks {
    /// True once a request has arrived.
    pub(crate) seen: AtomicBool,
    /// True while the server may end its side of HTTP because of an upgrade.
    pub(crate) upgrading: AtomicBool,
}

/// The state that all requests of a connection share.
pub(crate) struct Exchange {
    pub(crate) inspector: Arc<Inspector>,
    pub(crate) name: HostName,
    pub(crate) port: u16,
    /// The allowed requests. Empty if every request is allowed.
    pub(crate) rules: Vec<RequestRule>,
    pub(crate) log: RequestLog,
    pub(crate) sender: Sender,
    /// Receives the tunnel (WebSocket) that replaces HTTP on this connection, after the response to the upgrade was sent.
    pub(crate) tunnels: mpsc::Sender<Tunnel>,
    pub(crate) marks: Arc<Marks>,
}

/// A request that may be sent.
struct Checked {
    request: Request<Incoming>,
    /// The secrets that the response must not contain.
    patterns: Option<Arc<Patterns>>,
    /// The sandbox's side of a WebSocket.
    upgrade: Option<upgrade::OnUpgrade>,
}

impl Exchange {
    /// Answers a request: with the response of the server, or with the reason of a refusal.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Reply>, hyper::Error> {
        self.marks.seen.store(true, Ordering::Relaxed);
        let line = RequestLine::new(request.method().as_str(), request.uri().path());
        let Checked { request, patterns, upgrade } = match self.check(request) {
            Ok(checked) => checked,
            Err(refusal) => return Ok(self.refuse(line, StatusCode::FORBIDDEN, refusal)),
        };
        self.marks.upgrading.store(upgrade.is_some(), Ordering::Relaxed);
        let response = self.sender.send(request).await?;
        self.marks.upgrading.store(response.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
        Ok(match self.pass(response, patterns, upgrade) {
            Ok(response) => response,
            Err(refusal) => self.refuse(line, StatusCode::BAD_GATEWAY, refusal.into()),
        })
    }

    /// Checks a request, and puts the secrets in.
    fn check(&self, request: Request<Incoming>) -> Result<Checked, FlowRefusal> {
        let (mut parts, body) = request.into_parts();
        let own = RequestCheck { name: &self.name, port: self.port, rules: &self.rules };
        check::request(&own, &parts)?;
        let websocket = check::wants_websocket(&parts)?;
        check::remove_hop_by_hop(&mut parts.headers);
        // The gateway asks for the body itself, once the request is allowed (RFC 9110, 10.1.1).
        parts.headers.remove(header::EXPECT);
        // The length is that of the body as it was read.
        parts.headers.remove(header::CONTENT_LENGTH);
        let secrets = HostSecrets::of(&self.inspector.settings.secrets, &self.name, self.port);
        let patterns = secrets.patterns();
        if patterns.is_some() {
            parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
            // A part of a response (`Range`) could contain a part of a secret, even if this request has no secret: the server may
            // have stored an earlier request.
            parts.headers.remove(header::RANGE);
            parts.headers.remove(header::IF_RANGE);
        }
        secrets.inject(&mut parts.headers)?;
        self.address(&mut parts);
        let upgrade = websocket.then(|| {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            parts.extensions.remove::<upgrade::OnUpgrade>()
        });
        parts.extensions.clear();
        Ok(Checked { request: Request::from_parts(parts, body), patterns, upgrade: upgrade.flatten() })
    }

    /// Leaves the host in one place only, in normal form.
    fn address(&self, parts: &mut request::Parts) {
        let host = if self.port == 443 { self.name.to_string() } else { format!("{}:{}", self.name, self.port) };
        let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.headers.remove(header::HOST);
        if parts.version == Version::HTTP_2 {
            let mut uri = hyper::http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTPS);
            uri.authority = host.parse().ok();
            uri.path_and_query = Some(path);
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
            return;
        }
        parts.version = Version::HTTP_11;
        parts.uri = path.into();
        if let Ok(host) = HeaderValue::from_str(&host) {
            parts.headers.insert(header::HOST, host);
        }
    }

    /// Prepares a response of the server for the sandbox.
    fn pass(
        &self,
        mut response: Response<Incoming>,
        patterns: Option<Arc<Patterns>>,
        client: Option<upgrade::OnUpgrade>,
    ) -> Result<Response<Reply>, InspectRefusal> {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches {
            let (Some(client), server) = (client, upgrade::on(&mut response)) else { return Err(InspectRefusal::Tunnel) };
            // The channel has space for the one upgrade that a connection can have.
            let _ = self.tunnels.try_send(Tunnel { client, server, patterns: patterns.clone() });
        }
        let (mut parts, body) = response.into_parts();
        parts.extensions.clear();
        if patterns.is_some() && !body.is_end_stream() && is_encoded(&parts.headers) {
            return Err(InspectRefusal::Encoded);
        }
        let closes = parts.headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        check::remove_hop_by_hop(&mut parts.headers);
        if switches {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        } else if closes {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let reply = match patterns.map(Masker::new) {
            None => Reply::Plain(body),
            Some(masker) => {
                mask_headers(&mut parts.headers, &masker);
                Reply::Masked(Box::new(MaskedBody::new(body, masker)))
            }
        };
        Ok(Response::from_parts(parts, reply))
    }

    /// Records a refusal, and explains it to the program.
    fn refuse(&self, line: RequestLine, status: StatusCode, refusal: FlowRefusal) -> Response<Reply> {
        let text = self.inspector.explain(&refusal);
        self.log.refused(line, refusal);
        let mut response = Response::new(Reply::Text(Some(text.into())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl Sender {
    async fn send(&self, request: Request<Incoming>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::One(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Returns true if a secret in the body would not be recognised.
fn is_encoded(headers: &HeaderMap) -> bool {
    let other = |name: header::HeaderName, plain: &'static str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| !value.is_empty() && !value.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    other(header::CONTENT_ENCODING, "identity") || other(header::TRANSFER_ENCODING, "chunked")
}
