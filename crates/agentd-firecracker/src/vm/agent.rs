//! The connection to a machine's agent: waits until the agent listens, and connects to it over vsock.

use super::{VSOCK, Vm, socket_path};
use crate::{
    api::Action,
    boot,
    config::{REMEDY, unavailable},
};
use agentd_core::IsolationError;
use std::{io, sync::PoisonError, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, timeout},
};

/// The time limit for a guest's agent to listen. A boot under emulation takes seconds, and more than a minute on a very slow
/// host.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// The time after which a machine without any device access counts as failed. A booting kernel accesses devices within a fraction
/// of this.
const FIRST_ACCESS_TIMEOUT: Duration = Duration::from_secs(7);
/// The number of attempts to attach to an agent.
const TRIES: u32 = 4;
/// The time limit for a new control connection after a connection is lost.
const RENEWAL: Duration = Duration::from_secs(3);
/// The maximum length of the line with which Firecracker answers `CONNECT`, in bytes.
const MAX_ANSWER: usize = 32;
/// The maximum length of the message with which a guest reports that its agent failed to start, in bytes.
const MAX_WHY: usize = 4 << 10;

/// The start of a machine that [`Vm::wait_until_ready`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartedFrom {
    /// The machine boots a kernel. Without any device access, it counts as failed after [`FIRST_ACCESS_TIMEOUT`].
    Boot,
    /// The machine resumes from its memory.
    Memory,
}

impl Vm {
    /// Waits until the agent reports that it listens, for up to [`BOOT_TIMEOUT`]. Fails earlier if Firecracker ends, or if a
    /// booting machine has not accessed a device within [`FIRST_ACCESS_TIMEOUT`].
    pub(super) async fn wait_until_ready(&self, from: StartedFrom) -> Result<(), IsolationError> {
        let begin = Instant::now();
        let ready = async {
            let (mut stream, _) = self.ready.accept().await?;
            let mut line = Vec::new();
            loop {
                if let Some(port) = boot::port(&line) {
                    return Ok::<_, io::Error>(Ok((stream, port)));
                }
                if line.len() > MAX_WHY || stream.read_buf(&mut line).await? == 0 {
                    return Ok(Err(String::from_utf8_lossy(&line).into_owned()));
                }
            }
        };
        let life = async {
            if from == StartedFrom::Boot {
                tokio::time::sleep(FIRST_ACCESS_TIMEOUT).await;
                if let Ok(false) = self.has_accessed_device().await {
                    return;
                }
            }
            tokio::time::sleep_until(begin + BOOT_TIMEOUT).await;
        };
        let failed = |why: String| Err(unavailable(why));
        tokio::select! {
            result = ready => match result {
                Ok(Ok(control_connection)) => {
                    self.control_connection.lock().unwrap_or_else(PoisonError::into_inner).replace(control_connection);
                    Ok(())
                }
                Ok(Err(why)) => failed(format!("the guest failed to start: {why} — {REMEDY}")),
                Err(source) => Err(IsolationError::Io { context: "wait for the guest agent".to_owned(), source }),
            },
            () = self.process.gone() => {
                failed(format!("Firecracker exited before the guest agent was ready: {} — {REMEDY}", self.process.log_tail()))
            }
            () = life => {
                let waited = begin.elapsed().as_secs();
                if waited < BOOT_TIMEOUT.as_secs() {
                    failed(format!(
                        "the guest kernel accessed no device within {waited} s: /dev/kvm exists, but probably cannot run guests \
                         on this host — check nested virtualisation on the host, or use --backend gondolin"
                    ))
                } else {
                    failed(format!("the guest agent was not ready within {waited} s: {} — {REMEDY}", self.process.log_tail()))
                }
            }
        }
    }

    /// Returns whether the guest has ever accessed a device.
    async fn has_accessed_device(&self) -> Result<bool, IsolationError> {
        self.api.lock().await.put("/actions", &Action::FlushMetrics).await?;
        Ok(self.metrics_pipe.any_exit().await)
    }

    /// Calls `attach` with a connection to the agent, up to [`TRIES`] times.
    ///
    /// A resumed guest may notice late that its connections were reset. It then also closes connections that were created in the
    /// meantime, and opens a new control connection. Each retry therefore waits for a new control connection.
    pub(crate) async fn attached<T, F>(&self, attach: impl Fn(UnixStream) -> F) -> Result<T, IsolationError>
    where
        F: Future<Output = Result<T, IsolationError>>,
    {
        for _ in 1..TRIES {
            let tried = match self.transport().await {
                Ok(transport) => attach(transport).await,
                Err(error) => Err(error),
            };
            let Err(error) = tried else { return tried };
            if !matches!(timeout(RENEWAL, self.wait_until_ready(StartedFrom::Memory)).await, Ok(Ok(()))) {
                return Err(error);
            }
        }
        attach(self.transport().await?).await
    }

    /// Connects to the agent.
    async fn transport(&self) -> Result<UnixStream, IsolationError> {
        let io = |source| IsolationError::Io { context: "connect to the guest agent".to_owned(), source };
        let mut stream = UnixStream::connect(socket_path(&self.root, VSOCK)).await.map_err(io)?;
        let port = self.control_connection.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, port)| *port);
        let port = port.ok_or_else(|| IsolationError::MachineLost("the guest agent has not reported its port".to_owned()))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(io)?;
        let mut answer = Vec::new();
        // Read single bytes: the bytes after the line belong to the agent's protocol.
        while !answer.ends_with(b"\n") {
            let byte = stream.read_u8().await.map_err(io)?;
            answer.push(byte);
            if answer.len() > MAX_ANSWER {
                return Err(IsolationError::Protocol(
                    "connect to the guest agent: Firecracker's reply to CONNECT is too long".to_owned(),
                ));
            }
        }
        if answer.starts_with(b"OK ") {
            return Ok(stream);
        }
        Err(IsolationError::Protocol(format!(
            "connect to the guest agent: Firecracker refused CONNECT: {:?}",
            String::from_utf8_lossy(&answer)
        )))
    }
}
