//! Reads Firecracker's metrics (`docs/metrics.md`) to find out whether a guest has accessed any device.

use agentd_log::LogFailure as _;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::Deserialize;
use std::{io, path::Path, time::Duration};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// The named pipe in Firecracker's root. Unlike a file, a pipe does not grow while the machine runs.
pub(super) const METRICS: &str = "metrics";

/// The maximum length of a metrics line, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The time limit for reading a requested metrics line.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A metrics line; only the relevant counters.
#[derive(Debug, Default, Deserialize)]
struct Line {
    vcpu: Exits,
}

#[derive(Debug, Default, Deserialize)]
struct Exits {
    exit_io_in: u64,
    exit_io_out: u64,
    exit_mmio_read: u64,
    exit_mmio_write: u64,
}

/// The read end of the pipe.
pub(super) struct MetricsPipe(tokio::sync::Mutex<pipe::Receiver>);

impl MetricsPipe {
    /// Creates the pipe in `root` and opens it.
    pub(super) fn make(root: &Path) -> io::Result<Self> {
        let path = root.join(METRICS);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0)?;
        // Also open for writing, so that reads do not return an end of file before Firecracker has opened the pipe.
        let open = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(tokio::sync::Mutex::new(pipe::Receiver::from_owned_fd_unchecked(open)?)))
    }

    /// Returns whether any vCPU has exited to access a device, according to the lines in the pipe.
    pub(super) async fn any_exit(&self) -> bool {
        let mut pipe = self.0.lock().await;
        let mut text = Vec::new();
        let read = async {
            // Firecracker has written the line before this call, or never will, so the timeout can be short.
            while !text.ends_with(b"\n") && text.len() < MAX_BYTES {
                if !matches!(pipe.read_buf(&mut text).await, Ok(1..)) {
                    break;
                }
            }
        };
        tokio::time::timeout(TIMEOUT, read).await.or_debug("read metrics of machine", TIMEOUT);
        any(&text)
    }
}

fn any(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let Line { vcpu } = serde_json::from_slice(line).unwrap_or_default();
        vcpu.exit_io_in + vcpu.exit_io_out + vcpu.exit_mmio_read + vcpu.exit_mmio_write > 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_with_device_exit_count_as_activity() {
        let line = |io, mmio| {
            format!(
                "{{\"vmm\":{{\"x\":1}},\"vcpu\":{{\"exit_io_in\":0,\"exit_io_out\":{io},\"exit_mmio_read\":0,\
                 \"exit_mmio_write\":{mmio},\"failures\":0}}}}"
            )
        };
        assert!(!any(line(0, 0).as_bytes()));
        assert!(any(format!("{}\n{}\n", line(0, 0), line(3, 0)).as_bytes()));
        assert!(any(line(0, 1).as_bytes()));
        assert!(!any(b""));
        assert!(!any(b"{\"vcpu\":7}\n[]\n"));
    }
}
