//! A client of Firecracker's API: HTTP/1.1 over a Unix socket, with one JSON object per request
//! (`src/firecracker/swagger/firecracker.yaml`, 1.12).

use agentd_core::{IsolationError, with_sources};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::CONTENT_TYPE,
};
use serde::{Deserialize, Serialize};
use std::path::Path;
use tokio::{io::AsyncRead, net::UnixStream};

/// The maximum length of a response body, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The error of a request to Firecracker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ApiError {
    /// Firecracker cannot be reached, or its response is not valid HTTP.
    #[error("Firecracker API: {request}: {}", with_sources(&**source))]
    Transport { request: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// Firecracker refused the request.
    #[error("Firecracker API: {request}: HTTP status {status}: {fault}")]
    Refused { request: String, status: u16, fault: String },
}

impl From<ApiError> for IsolationError {
    fn from(error: ApiError) -> Self {
        Self::MachineLost(error.to_string())
    }
}

/// The body of `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub(crate) struct BootSource<'a> {
    pub kernel_image_path: &'a str,
    pub initrd_path: &'a str,
    pub boot_args: &'a str,
}

/// The body of `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub(crate) struct MachineConfig {
    pub vcpu_count: u8,
    pub mem_size_mib: u64,
}

/// The body of `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub(crate) struct Drive<'a> {
    pub drive_id: &'a str,
    pub path_on_host: &'a str,
    pub is_root_device: bool,
    pub is_read_only: bool,
    pub rate_limiter: RateLimiter,
}

/// The rate limits of a device. Both apply.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct RateLimiter {
    pub bandwidth: TokenBucket,
    pub ops: TokenBucket,
}

/// A token bucket, full at the start. It is refilled completely in `refill_time` ms. A bucket of size 0 sets no limit.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct TokenBucket {
    pub size: u64,
    pub refill_time: u64,
}

/// The body of `PUT /vsock`.
#[derive(Debug, Serialize)]
pub(crate) struct Vsock<'a> {
    pub guest_cid: u32,
    pub uds_path: &'a str,
}

/// The body of `PUT /entropy`.
#[derive(Debug, Serialize)]
pub(crate) struct Entropy {}

/// The body of `PUT /actions`.
#[derive(Debug, Serialize)]
#[serde(tag = "action_type")]
pub(crate) enum Action {
    InstanceStart,
    FlushMetrics,
}

/// The body of `PATCH /vm`.
#[derive(Debug, Serialize)]
#[serde(tag = "state")]
pub(crate) enum VmState {
    Paused,
    Resumed,
}

/// The body of `PUT /snapshot/create`.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotCreate<'a> {
    pub snapshot_type: SnapshotType,
    pub snapshot_path: &'a str,
    pub mem_file_path: &'a str,
}

#[derive(Debug, Serialize)]
pub(crate) enum SnapshotType {
    Full,
}

/// The body of `PUT /snapshot/load`.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotLoad<'a> {
    pub snapshot_path: &'a str,
    pub mem_backend: MemoryBackend<'a>,
    pub resume_vm: bool,
}

/// The source of a snapshot's memory: a file that Firecracker maps privately, so that all machines of the snapshot share
/// unchanged pages.
#[derive(Debug, Serialize)]
#[serde(tag = "backend_type", content = "backend_path")]
pub(crate) enum MemoryBackend<'a> {
    File(&'a str),
}

/// The body of an error response.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    fault_message: String,
}

/// A connection to one Firecracker.
pub(crate) struct Api {
    sender: SendRequest<Full<Bytes>>,
    connection: tokio::task::JoinHandle<()>,
}

impl Api {
    /// Connects to the socket at `path`.
    pub(crate) async fn connect(path: &Path) -> Result<Self, ApiError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ApiError::Transport {
            request: format!("connect to {}", path.display()),
            source,
        };
        let stream = UnixStream::connect(path).await.map_err(|e| failed(e.into()))?;
        let (sender, connection) = http1::handshake(Transport(stream)).await.map_err(|e| failed(e.into()))?;
        // The error of the connection is dropped here: the next request fails with it.
        let connection = tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(Self { sender, connection })
    }

    pub(crate) async fn put(&mut self, path: &str, body: &(impl Serialize + Sync)) -> Result<(), ApiError> {
        self.send(Method::PUT, path, body).await
    }

    pub(crate) async fn patch(&mut self, path: &str, body: &(impl Serialize + Sync)) -> Result<(), ApiError> {
        self.send(Method::PATCH, path, body).await
    }

    async fn send(&mut self, method: Method, path: &str, body: &(impl Serialize + Sync)) -> Result<(), ApiError> {
        let request = format!("{method} {path}");
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ApiError::Transport { request: request.clone(), source };
        let body = serde_json::to_vec(body).map_err(|e| failed(e.into()))?;
        let message = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(e.into()))?;
        self.sender.ready().await.map_err(|e| failed(e.into()))?;
        let answer = self.sender.send_request(message).await.map_err(|e| failed(e.into()))?;
        let status = answer.status();
        let body = read(answer.into_body()).await.map_err(failed)?;
        if status == StatusCode::NO_CONTENT || status == StatusCode::OK {
            return Ok(());
        }
        let fault = serde_json::from_slice::<ErrorBody>(&body)
            .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |fault| fault.fault_message);
        Err(ApiError::Refused { request, status: status.as_u16(), fault })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn read(body: Incoming) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, MAX_BYTES).collect().await?.to_bytes())
}

/// Adapts a tokio socket to hyper's I/O traits.
struct Transport(UnixStream);

impl hyper::rt::Read for Transport {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = buffer.remaining().min(bytes.len());
        let mut read = tokio::io::ReadBuf::new(&mut bytes[..room]);
        std::task::ready!(std::pin::Pin::new(&mut self.0).poll_read(context, &mut read))?;
        buffer.put_slice(read.filled());
        std::task::Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Transport {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(std::pin::Pin::new(&mut self.0), context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(std::pin::Pin::new(&mut self.0), context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.0), context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    /// Sends a request to a server that returns `answer`; returns the text of the request, and the result.
    async fn exchange(answer: &str) -> (String, Result<(), ApiError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !request[..length].ends_with(b"}") {
                length += stream.read(&mut request[length..]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        let client = async {
            let mut api = Api::connect(&path).await.unwrap();
            let load = SnapshotLoad { snapshot_path: "state", mem_backend: MemoryBackend::File("memory"), resume_vm: true };
            api.put("/snapshot/load", &load).await
        };
        tokio::join!(server, client)
    }

    #[tokio::test]
    async fn put_sends_the_json_body_of_the_api_specification() {
        let (request, result) = exchange("HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\n").await;
        result.unwrap();
        assert!(request.starts_with("PUT /snapshot/load HTTP/1.1\r\n"), "{request}");
        let body = request.split("\r\n\r\n").nth(1).unwrap();
        let expected =
            r#"{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":true}"#;
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn refused_request_fails_with_fault_message_of_firecracker() {
        let fault = r#"{"fault_message":"no such file"}"#;
        let (_, result) = exchange(&format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{fault}", fault.len())).await;
        assert_eq!(result.unwrap_err().to_string(), "Firecracker API: PUT /snapshot/load: HTTP status 400: no such file");
    }

    #[tokio::test]
    async fn response_body_over_the_limit_is_an_error() {
        let (_, result) = exchange(&format!("HTTP/1.1 400 \r\nContent-Length: 10000000\r\n\r\n{}", "x".repeat(100_000))).await;
        assert!(matches!(result, Err(ApiError::Transport { .. })));
    }
}
