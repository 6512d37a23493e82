//! Whether a machine does anything: Firecracker counts how often it talked to a device (`docs/metrics.md`).

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::Deserialize;
use std::{io, path::Path, time::Duration};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// The pipe in Firecracker's root. A pipe and no file: it takes no room, however long the machine runs.
pub(super) const METRICS: &str = "metrics";

/// The longest line of it.
const MOST_BYTES: usize = 64 << 10;

/// How long a line may take that was asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line, as far as it matters here.
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

/// The reader's end of the pipe.
pub(super) struct Vitals(tokio::sync::Mutex<pipe::Receiver>);

impl Vitals {
    /// Makes the pipe.
    pub(super) fn make(root: &Path) -> io::Result<Self> {
        let path = root.join(METRICS);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0)?;
        // Also for writing, so that it has no end before Firecracker opens it.
        let open = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self(tokio::sync::Mutex::new(pipe::Receiver::from_owned_fd_unchecked(open)?)))
    }

    /// Whether, by the lines that are in the pipe, any processor has left its guest for a device.
    pub(super) async fn any_exit(&self) -> bool {
        let mut pipe = self.0.lock().await;
        let mut text = Vec::new();
        let read = async {
            // A line was written before this was called, or will not be.
            while !text.ends_with(b"\n") && text.len() < MOST_BYTES {
                if !matches!(pipe.read_buf(&mut text).await, Ok(1..)) {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.ok();
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
    fn a_machine_that_talked_to_a_device_lives() {
        let line = |io, mmio| {
            format!(
                r#"{{"vmm":{{"x":1}},"vcpu":{{"exit_io_in":0,"exit_io_out":{io},"exit_mmio_read":0,"exit_mmio_write":{mmio},"failures":0}}}}"#
            )
        };
        assert!(!any(line(0, 0).as_bytes()));
        assert!(any(format!("{}\n{}\n", line(0, 0), line(3, 0)).as_bytes()));
        assert!(any(line(0, 1).as_bytes()));
        assert!(!any(b""));
        assert!(!any(b"{\"vcpu\":7}\n[]\n"));
    }
}
