//! One request and its response inside an inspected connection.

use super::{
    Inspector,
    aws::{self, AwsKey},
    body::{MaskedBody, Reply, mask_headers},
    check, credential,
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
    body::{Body as _, Bytes, Incoming},
    client::conn::{http1, http2},
    header::{self, HeaderValue},
    http::{
        request,
        uri::{PathAndQuery, Scheme},
    },
    upgrade,
};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::{Mutex, mpsc};

/// Maximum number of bytes of a refused request's body that are read before the answer.
const MAX_REFUSED_BODY: usize = 1 << 20;

/// Maximum time for reading the body of a refused request.
const REFUSED_BODY_TIME: Duration = Duration::from_secs(2);

/// The connection to the server.
pub(crate) enum Sender {
    Http1(Mutex<http1::SendRequest<Incoming>>),
    Http2(http2::SendRequest<Incoming>),
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
    /// The request without its body.
    parts: request::Parts,
    /// The secrets that the response must not contain.
    patterns: Option<Arc<Patterns>>,
    /// The sandbox's side of a WebSocket.
    upgrade: Option<upgrade::OnUpgrade>,
}

impl Exchange {
    /// Answers a request: with the response of the server, or with the reason for a refusal.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Reply>, hyper::Error> {
        self.marks.seen.store(true, Ordering::Relaxed);
        let line = RequestLine::new(request.method().as_str(), request.uri().path());
        let (parts, body) = request.into_parts();
        // With `Expect`, the client sends the body only if the gateway asks for it.
        let sends_body = !parts.headers.contains_key(header::EXPECT);
        let Checked { parts, patterns, upgrade } = match self.check(parts, !body.is_end_stream()) {
            Ok(checked) => checked,
            Err(refusal) => {
                if sends_body {
                    discard(body).await;
                }
                return Ok(self.refuse(line, StatusCode::FORBIDDEN, refusal));
            }
        };
        let request = Request::from_parts(parts, body);
        self.marks.upgrading.store(upgrade.is_some(), Ordering::Relaxed);
        let response = self.sender.send(request).await?;
        self.marks.upgrading.store(response.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
        Ok(match self.pass(response, patterns, upgrade) {
            Ok(response) => response,
            Err(refusal) => self.refuse(line, StatusCode::BAD_GATEWAY, refusal.into()),
        })
    }

    /// Checks a request, and puts the secrets in.
    fn check(&self, mut parts: request::Parts, has_body: bool) -> Result<Checked, FlowRefusal> {
        let own = RequestCheck { name: &self.name, port: self.port, rules: &self.rules };
        check::request(&own, &parts)?;
        let websocket = check::wants_websocket(&parts)?;
        let settings = &self.inspector.settings;
        let secrets = HostSecrets::of(&settings.secrets, &self.name, self.port);
        let for_this = |key: &&AwsKey| key.host().name == self.name && key.host().port == self.port;
        let keys: Vec<&AwsKey> = settings.aws.iter().filter(for_this).collect();
        let signed = aws::check(&keys, &parts, has_body, SystemTime::now())?;
        check::remove_hop_by_hop(&mut parts.headers);
        // The gateway asks for the body itself, once the request is allowed (RFC 9110, 10.1.1).
        parts.headers.remove(header::EXPECT);
        // The field states the length of the body as it was read.
        parts.headers.remove(header::CONTENT_LENGTH);
        let values = secrets.values().chain(keys.iter().flat_map(|key| key.values()));
        let has_secret = !secrets.is_empty() || !keys.is_empty();
        let patterns = has_secret.then(|| Arc::new(Patterns::new(values)));
        if has_secret {
            parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
        }
        // No request contains the secret of a key of AWS, and programs depend on the parts of objects.
        if !secrets.is_empty() {
            // A part of a response (`Range`) could contain a part of a secret, even if this request has no secret: the server may
            // have stored an earlier request.
            parts.headers.remove(header::RANGE);
            parts.headers.remove(header::IF_RANGE);
        }
        secrets.inject(&mut parts.headers)?;
        if patterns.is_some() {
            let (mut own, signature) = (secrets.headers(), header::AUTHORIZATION);
            // `aws::check` has refused every value that is not a signature of the placeholder.
            own.extend((!keys.is_empty()).then_some(&signature));
            credential::refuse_others(&own, &mut parts.headers, parts.uri.query().unwrap_or_default())?;
        }
        self.address(&mut parts);
        let upgrade = websocket.then(|| {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            parts.extensions.remove::<upgrade::OnUpgrade>()
        });
        parts.extensions.clear();
        // The signature is about the request as it is sent.
        if let Some((key, signed)) = signed {
            key.sign(&signed, &self.host(), &mut parts)?;
        }
        Ok(Checked { parts, patterns, upgrade: upgrade.flatten() })
    }

    /// Returns the host in normal form, with the port if it is not the usual one.
    fn host(&self) -> String {
        if self.port == 443 { self.name.to_string() } else { format!("{}:{}", self.name, self.port) }
    }

    /// Leaves the host in one place only, in normal form.
    fn address(&self, parts: &mut request::Parts) {
        let host = self.host();
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

/// Reads the body of a refused request, within bounds. If a request of HTTP/2 is answered before its body has arrived, its stream
/// is reset after the response (RFC 9113, 8.1), and curl 7.88 reports the reset instead of the response.
async fn discard(mut body: Incoming) {
    let read = async {
        let mut left = MAX_REFUSED_BODY;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // The rest of a larger or slower body is not read.
    tokio::time::timeout(REFUSED_BODY_TIME, read).await.ok();
}

impl Sender {
    async fn send(&self, request: Request<Incoming>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
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
