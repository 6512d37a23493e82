//! Firecracker's API: HTTP/1.1 over a Unix socket, a JSON object to each request (`src/firecracker/swagger/firecracker.yaml`, 1.12).

use agentd_core::IsolationError;
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

/// No answer of its is longer.
const MOST_BYTES: usize = 64 << 10;

/// Why Firecracker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ApiError {
    /// It cannot be reached, or does not speak HTTP.
    #[error("firecracker: {request}: {source}")]
    Transport { request: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// It refused.
    #[error("firecracker: {request}: {status}: {fault}")]
    Refused { request: String, status: u16, fault: String },
}

impl From<ApiError> for IsolationError {
    fn from(error: ApiError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub(crate) struct BootSource<'a> {
    pub kernel_image_path: &'a str,
    pub initrd_path: &'a str,
    pub boot_args: &'a str,
}

/// `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub(crate) struct MachineConfig {
    pub vcpu_count: u8,
    pub mem_size_mib: u64,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub(crate) struct Drive<'a> {
    pub drive_id: &'a str,
    pub path_on_host: &'a str,
    pub is_root_device: bool,
    pub is_read_only: bool,
    pub rate_limiter: RateLimiter,
}

/// What a device may do. Both bounds hold.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct RateLimiter {
    pub bandwidth: TokenBucket,
    pub ops: TokenBucket,
}

/// It is full at the start, and empty it is full again after `refill_time`, ms. One of size 0 bounds nothing.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct TokenBucket {
    pub size: u64,
    pub refill_time: u64,
}

/// `PUT /vsock`.
#[derive(Debug, Serialize)]
pub(crate) struct Vsock<'a> {
    pub guest_cid: u32,
    pub uds_path: &'a str,
}

/// `PUT /entropy`.
#[derive(Debug, Serialize)]
pub(crate) struct Entropy {}

/// `PUT /actions`.
#[derive(Debug, Serialize)]
#[serde(tag = "action_type")]
pub(crate) enum Action {
    InstanceStart,
    FlushMetrics,
}

/// `PATCH /vm`.
#[derive(Debug, Serialize)]
#[serde(tag = "state")]
pub(crate) enum VmState {
    Paused,
    Resumed,
}

/// `PUT /snapshot/create`.
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

/// `PUT /snapshot/load`.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotLoad<'a> {
    pub snapshot_path: &'a str,
    pub mem_backend: MemoryBackend<'a>,
    pub resume_vm: bool,
}

/// Where the memory of a snapshot is: a file that is mapped privately, so that all machines of it share what they do not change.
#[derive(Debug, Serialize)]
#[serde(tag = "backend_type", content = "backend_path")]
pub(crate) enum MemoryBackend<'a> {
    File(&'a str),
}

/// What it says when it refuses.
#[derive(Debug, Deserialize)]
struct Fault {
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
        let (sender, connection) = http1::handshake(Carrier(stream)).await.map_err(|e| failed(e.into()))?;
        // Its end is told to whoever sends next.
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
        let said = read(answer.into_body()).await.map_err(failed)?;
        if status == StatusCode::NO_CONTENT || status == StatusCode::OK {
            return Ok(());
        }
        let fault = serde_json::from_slice::<Fault>(&said)
            .map_or_else(|_| String::from_utf8_lossy(&said).into_owned(), |fault| fault.fault_message);
        Err(ApiError::Refused { request, status: status.as_u16(), fault })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn read(body: Incoming) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, MOST_BYTES).collect().await?.to_bytes())
}

/// The socket, as hyper reads and writes it.
struct Carrier(UnixStream);

impl hyper::rt::Read for Carrier {
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

impl hyper::rt::Write for Carrier {
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

    /// What a server that answers so makes of a request: the request's text, and the result.
    async fn exchange(answer: &str) -> (String, Result<(), ApiError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = vec![0; 4096];
            let mut length = 0;
            while !said[..length].ends_with(b"}") {
                length += stream.read(&mut said[length..]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(said[..length].to_vec()).unwrap()
        };
        let client = async {
            let mut api = Api::connect(&path).await.unwrap();
            let load = SnapshotLoad { snapshot_path: "state", mem_backend: MemoryBackend::File("memory"), resume_vm: true };
            api.put("/snapshot/load", &load).await
        };
        tokio::join!(server, client)
    }

    #[tokio::test]
    async fn a_request_is_what_the_api_describes() {
        let (said, result) = exchange("HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\n").await;
        result.unwrap();
        assert!(said.starts_with("PUT /snapshot/load HTTP/1.1\r\n"), "{said}");
        let body = said.split("\r\n\r\n").nth(1).unwrap();
        let wanted =
            r#"{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":true}"#;
        assert_eq!(body, wanted);
    }

    #[tokio::test]
    async fn a_refusal_says_what_firecracker_says() {
        let fault = r#"{"fault_message":"no such file"}"#;
        let (_, result) = exchange(&format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{fault}", fault.len())).await;
        assert_eq!(result.unwrap_err().to_string(), "firecracker: PUT /snapshot/load: 400: no such file");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_an_error() {
        let (_, result) = exchange(&format!("HTTP/1.1 400 \r\nContent-Length: 10000000\r\n\r\n{}", "x".repeat(100_000))).await;
        assert!(matches!(result, Err(ApiError::Transport { .. })));
    }
}
