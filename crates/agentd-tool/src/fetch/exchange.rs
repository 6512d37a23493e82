//! One request and its response over a connection of its own.

use super::{
    redirect::WebRequest,
    target::{WebHost, WebScheme},
};
use crate::error::{ErrorCode, ToolError};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use std::{error::Error, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::TlsConnector;

/// The maximum number of headers of a response.
const MAX_HEADERS: usize = 256;

/// The maximum length of the head of a response, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Sends a request, and returns the response as soon as its head has arrived.
///
/// # Errors
/// [`ErrorCode::Network`].
pub(super) async fn send(request: &WebRequest) -> Result<Response<Incoming>, ToolError> {
    let host = &request.url.host;
    let addresses = lookup_host((host.host.as_str(), host.port)).await.map_err(|error| {
        failed(host, "resolve", &format!("{error} — check the name, and whether the sandbox may reach it (--net allow={host})"))
    })?;
    let mut refused = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) if host.scheme == WebScheme::Http => return exchange(stream, request).await,
            Ok(stream) => return exchange(encrypted(stream, host).await?, request).await,
            Err(error) => refused = format!("{error} — check whether the sandbox may reach {host} (--net allow={host})"),
        }
    }
    Err(failed(host, "connect to", &refused))
}

/// Begins TLS, with the authorities that the sandbox shows: those of `SSL_CERT_FILE`, or of the system.
async fn encrypted(stream: TcpStream, host: &WebHost) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ToolError> {
    let tls = |cause: &dyn std::fmt::Display| failed(host, "begin TLS with", &cause.to_string());
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(tls(&"the sandbox shows no certificates of authorities — install the package ca-certificates"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.host.clone()).map_err(|error| tls(&error))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| tls(&error))
}

async fn exchange<S>(stream: S, request: &WebRequest) -> Result<Response<Incoming>, ToolError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host = &request.url.host;
    let broken = |error: hyper::Error| failed(host, "request from", &causes(&error));
    let invalid = |error: &dyn std::fmt::Display| failed(host, "request from", &error.to_string());
    let mut settings = http1::Builder::new();
    settings.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD);
    let (mut sender, connection) = settings.handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(broken)?;
    // The task ends with the runtime. The request gets the errors of the connection.
    tokio::spawn(connection);
    let authority = HeaderValue::from_str(request.url.authority()).map_err(|error| invalid(&error))?;
    let mut sent = Request::builder()
        .method(request.method.clone())
        .uri(request.url.path_and_query())
        .body(Full::new(request.body.clone()))
        .map_err(|error| invalid(&error))?;
    *sent.headers_mut() = request.headers.clone();
    sent.headers_mut().insert(HOST, authority);
    sender.send_request(sent).await.map_err(broken)
}

/// Returns the error of a host: `what HOST:PORT: cause`.
pub(super) fn failed(host: &WebHost, what: &str, cause: &str) -> ToolError {
    let cause: String = cause.escape_debug().take(500).collect();
    ToolError::new(ErrorCode::Network, format!("{what} {host}: {cause}"))
}

/// Describes an error with its causes, which `hyper` leaves out.
pub(super) fn causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
