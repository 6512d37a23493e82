//! A real server with TLS outside, and functions with which a test uses the server.

use crate::sandbox::{Inside, LONG, Names, config, sandbox};
use agentd_egress::{
    GatewayConfig, Inspection,
    inspect::{
        authority::SandboxAuthority,
        roots::TrustedRoots,
        secret::{Placeholder, Secret, SecretHost, SecretPlace},
    },
    record::FlowRecord,
};
use data_encoding::BASE64;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    header, server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use std::{
    io::{self, Write as _},
    net::TcpStream,
    pin::Pin,
    process::{Command, Output},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    thread,
};
use tokio::sync::mpsc;

/// The value of the secret. Its characters have no other form in JSON or in a URL.
pub const SECRET: &str = "real-secret-value-0123456789";
pub const HTTP_1: &[u8] = b"http/1.1";
pub const HTTP_2: &[u8] = b"h2";
/// The length of the long body, in bytes.
pub const LONG_BODY: u64 = 16 << 20;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub two: bool,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The requests that arrived at a server, in order.
pub type Requests = Arc<Mutex<Vec<Seen>>>;

/// A body whose parts come from a channel. An error truncates the body.
struct Parts(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

/// A test authority with a certificate for names.
pub struct Certificate {
    pub authority: Vec<u8>,
    config: rustls::ServerConfig,
}

pub fn certificate(names: &[&str], protocols: &[&[u8]]) -> Certificate {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &*issuer).unwrap();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let text = BASE64.encode(issuer.der());
    Certificate { authority: format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes(), config }
}

/// Starts a server at a free port of the loopback address.
pub fn origin(certificate: &Certificate) -> (u16, Requests) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let requests = Requests::default();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(certificate.config.clone()));
    let seen = requests.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(acceptor.clone(), client, seen.clone()));
            }
        });
    });
    (port, requests)
}

async fn serve(acceptor: tokio_rustls::TlsAcceptor, client: tokio::net::TcpStream, seen: Requests) {
    // A client that rejects the certificate ends the handshake.
    let Ok(client) = acceptor.accept(client).await else { return };
    let two = client.get_ref().1.alpn_protocol() == Some(HTTP_2);
    let client = TokioIo::new(client);
    let service = service_fn(move |request| answer(request, two, seen.clone()));
    // Some tests break connections on purpose.
    if two {
        let _ = server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(client, service).await;
    } else {
        let _ = server::conn::http1::Builder::new().serve_connection(client, service).with_upgrades().await;
    }
}

async fn answer(mut request: Request<Incoming>, two: bool, requests: Requests) -> Result<Response<Parts>, hyper::Error> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = Seen { method: parts.method.to_string(), uri: parts.uri.to_string(), two, headers: parts.headers, body };
    requests.lock().unwrap().push(seen.clone());
    let (send, receive) = mpsc::channel(4);
    let mut response = Response::new(Parts(receive));
    let reflected = seen.headers.get(header::AUTHORIZATION).cloned().unwrap_or(header::HeaderValue::from_static("nothing"));
    let path = parts.uri.path().to_owned();
    match path.as_str() {
        "/v1/reflect" => {
            response.headers_mut().insert("x-reflected", reflected.clone());
            response.headers_mut().insert("trailer", header::HeaderValue::from_static("x-late"));
        }
        "/v1/grpc" => drop(response.headers_mut().insert("content-type", "application/grpc".parse().unwrap())),
        "/v1/encoded" => drop(response.headers_mut().insert("content-encoding", "gzip".parse().unwrap())),
        "/v1/close" => drop(response.headers_mut().insert("connection", "close".parse().unwrap())),
        "/v1/long" => {
            let from = start(&seen.headers);
            response.headers_mut().insert("content-length", (LONG_BODY - from).into());
            if from > 0 {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {from}-{}/{LONG_BODY}", LONG_BODY - 1);
                response.headers_mut().insert("content-range", range.parse().unwrap());
            }
        }
        "/v1/socket" => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            tokio::spawn(socket(upgrade, reflected));
            return Ok(response);
        }
        _ => {}
    }
    tokio::spawn(async move {
        // The body ends if the client has disconnected.
        let _ = body_of(&path, &seen, reflected, send).await;
    });
    Ok(response)
}

async fn body_of(
    path: &str,
    seen: &Seen,
    reflected: header::HeaderValue,
    send: mpsc::Sender<io::Result<Frame<Bytes>>>,
) -> Result<(), mpsc::error::SendError<io::Result<Frame<Bytes>>>> {
    let data = |bytes: Vec<u8>| Ok(Frame::data(Bytes::from(bytes)));
    match path {
        "/v1/reflect" => {
            for part in [b"you sent: ", reflected.as_bytes(), b"."].concat().chunks(3) {
                send.send(data(part.to_vec())).await?;
            }
            let trailers = [(header::HeaderName::from_static("x-late"), reflected)].into_iter().collect();
            send.send(Ok(Frame::trailers(trailers))).await
        }
        "/v1/broken" => {
            send.send(data(reflected.as_bytes().to_vec())).await?;
            send.send(data(SECRET.as_bytes()[..20].to_vec())).await?;
            // All sent bytes arrive before the end.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            send.send(Err(io::Error::other("the test breaks the body"))).await
        }
        "/v1/grpc" => {
            send.send(data(seen.body.to_vec())).await?;
            let trailers = [(header::HeaderName::from_static("grpc-status"), header::HeaderValue::from_static("0"))];
            send.send(Ok(Frame::trailers(trailers.into_iter().collect()))).await
        }
        "/v1/events" => {
            send.send(data(b"data: first\n\n".to_vec())).await?;
            // Waits for a client that disconnects.
            send.closed().await;
            Ok(())
        }
        "/v1/long" => {
            let mut at = start(&seen.headers);
            while at < LONG_BODY {
                let part = (LONG_BODY - at).min(50_000);
                send.send(data((at..at + part).map(long_byte).collect())).await?;
                at += part;
            }
            Ok(())
        }
        _ => send.send(data(seen.body.to_vec())).await,
    }
}

/// The byte at a place of the long body.
pub fn long_byte(at: u64) -> u8 {
    u8::try_from(at % 251).unwrap()
}

fn start(headers: &HeaderMap) -> u64 {
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
}

/// Sends the credential in two fragments, then sends back what it receives.
async fn socket(upgrade: hyper::upgrade::OnUpgrade, reflected: header::HeaderValue) {
    use tokio::io::AsyncWriteExt as _;
    let mut stream = TokioIo::new(upgrade.await.unwrap());
    let (first, second) = reflected.as_bytes().split_at(reflected.len() / 2);
    let frame = |head: u8, payload: &[u8]| [&[head, u8::try_from(payload.len()).unwrap()], payload].concat();
    stream.write_all(&[frame(0x01, first), frame(0x80, second)].concat()).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// The settings of a test.
pub struct Scene<'a> {
    /// The suffixes of grants of `a.example`, such as `/GET:/v1/*`.
    pub rules: &'a [&'a str],
    pub secret: Option<SecretPlace>,
    pub protocols: &'a [&'a [u8]],
    /// The names of the server's certificate.
    pub certified: &'a [&'a str],
    pub change: fn(&mut GatewayConfig),
}

impl Default for Scene<'_> {
    fn default() -> Self {
        Self {
            rules: &["/*:/v1/*"],
            secret: None,
            protocols: &[HTTP_2, HTTP_1],
            certified: &["a.example", "b.example"],
            change: |_| {},
        }
    }
}

/// A program inside, with the values that it knows.
pub struct Client<'a> {
    pub inside: &'a Inside<'a>,
    pub port: u16,
    pub placeholder: String,
    /// The certificate of the sandbox's authority.
    pub authority: tempfile::NamedTempFile,
}

/// Runs `client` in a sandbox whose gateway inspects flows to `a.example` and `b.example`.
pub fn inspected<R: Send>(scene: Scene<'_>, client: impl FnOnce(&Client<'_>) -> R + Send) -> (R, Vec<FlowRecord>, Vec<Seen>) {
    let certificate = certificate(scene.certified, scene.protocols);
    let (port, requests) = origin(&certificate);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]]), ("b.example", &[&["127.0.0.1"]])]);
    let rules: Vec<_> = scene.rules.iter().map(|rule| format!("a.example:{port}/tls{rule}")).collect();
    let grants = format!("{},b.example:{port}/tls/*:/v1/*,127.0.0.1:{port}", rules.join(","));
    let mut config = config(&grants, names);
    let (settings, placeholder) = settings(&certificate, port, scene.secret);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(settings.authority.certificate_pem().as_bytes()).unwrap();
    config.inspection = Some(Arc::new(settings));
    (scene.change)(&mut config);
    let (result, records) = sandbox(config, &[port], |inside| {
        client(&Client { inside, port, placeholder: placeholder.to_string(), authority: file })
    });
    let requests = requests.lock().unwrap().clone();
    (result, records, requests)
}

/// Settings with a separate authority, and a placeholder for `a.example`.
pub fn settings(certificate: &Certificate, port: u16, secret: Option<SecretPlace>) -> (Inspection, Placeholder) {
    let placeholder = Placeholder::random("sk-").unwrap();
    let host = SecretHost { name: "a.example".parse().unwrap(), port };
    let secret = secret.map(|place| Secret::new(placeholder.clone(), SECRET.to_owned(), host, place).unwrap());
    let authority = Arc::new(SandboxAuthority::new().unwrap());
    let roots = TrustedRoots::from_pem(&certificate.authority).unwrap();
    (Inspection { authority, roots, secrets: secret.into_iter().collect(), aws: Vec::new() }, placeholder)
}

impl Client<'_> {
    /// Runs curl with these arguments for a path of `a.example`.
    pub fn curl(&self, arguments: &[&str], path: &str) -> Output {
        self.curl_at("a.example", arguments, path)
    }

    pub fn curl_at(&self, name: &str, arguments: &[&str], path: &str) -> Output {
        let address = self.inside.address(&format!("{name}."), self.port).ip();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--path-as-is", "--noproxy", "*", "--max-time", "60", "--cacert"]).arg(self.authority.path());
        curl.arg("--resolve").arg(format!("{name}:{}:{address}", self.port)).args(arguments);
        curl.arg(format!("https://{name}:{}{path}", self.port)).output().unwrap()
    }

    /// Opens a connection to `a.example` on which the test sends bytes. The first call on the stream performs the handshake of
    /// TLS.
    pub fn tls(&self, protocol: &[u8]) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority.path()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let client = rustls::ClientConnection::new(Arc::new(config), "a.example".try_into().unwrap()).unwrap();
        let stream = self.inside.connect("a.example.", self.port);
        stream.set_read_timeout(Some(LONG)).unwrap();
        rustls::StreamOwned::new(client, stream)
    }
}

/// Reads until the bytes contain `end`, or to the end of the stream.
pub fn read_until(stream: &mut impl io::Read, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while !bytes.windows(end.len()).any(|part| part == end) {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
        }
    }
    bytes
}
