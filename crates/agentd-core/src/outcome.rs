//! How an exec ended.

use crate::{Layer, LayerError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The one reason for which an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EndReason {
    /// The command exited by itself.
    Exited,
    /// A signal that agentd did not send ended it.
    Signalled,
    /// Its wall-clock time was over.
    WallDeadline,
    /// Its processor time was over.
    CpuLimit,
    /// The kernel killed in it for memory.
    OutOfMemory,
    /// It hit the limit of processes.
    ProcessLimit,
    /// It hit the limit of a file's size (`SIGXFSZ`).
    DiskLimit,
    /// It wrote more output than allowed.
    OutputLimit,
    /// The caller ended it.
    Cancelled,
    /// A policy ended it.
    Policy,
    /// Its supervisor or launcher died under it.
    BackendLost,
}

/// What the kernel counted for an exec, or for a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall-clock time from the request to the end; of a sandbox, since it was made.
    pub wall: Duration,
    /// Processor time in user mode, of all reaped processes (`getrusage(2)`).
    pub cpu_user: Duration,
    /// Processor time in the kernel, likewise.
    pub cpu_system: Duration,
    /// Peak memory in bytes: of the sandbox's cgroup where there is one, else of its largest process.
    pub peak_memory: u64,
    /// Whether `peak_memory` is the cgroup's figure.
    pub peak_memory_is_group: bool,
    /// Memory that a sandbox's machine uses now, its kernel and agent included, in bytes, as its kernel tells it (`MemTotal` without
    /// `MemAvailable`, `proc_meminfo(5)`). Only of a sandbox that has a machine of its own.
    pub machine_memory: Option<u64>,
}

/// `SIGKILL` (`signal(7)`).
const KILL: i32 = 9;

/// Output kept from one stream: the head, and the tail when something between is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The first bytes.
    pub head: Vec<u8>,
    /// The last bytes; empty while nothing is missing.
    pub tail: Vec<u8>,
    /// Bytes between head and tail that were not kept.
    pub omitted: u64,
}

impl Captured {
    /// All that was kept, with an explicit mark where something is missing.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut all = self.head.clone();
        if self.omitted > 0 {
            all.extend_from_slice(format!("\n[agentd: {} bytes omitted]\n", self.omitted).as_bytes());
        }
        all.extend_from_slice(&self.tail);
        all
    }

    /// Bytes the command wrote to this stream.
    pub fn total(&self) -> u64 {
        self.head.len() as u64 + self.omitted + self.tail.len() as u64
    }
}

/// Whether a layer was enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerStatus {
    /// Applied in full.
    Enforced,
    /// Applied as far as this kernel goes; the text says what is missing.
    Partial(String),
    /// Not applied, because the caller accepted that (`allow_degraded`).
    Missing(LayerError),
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The layer.
    pub layer: Layer,
    /// Its status.
    pub status: LayerStatus,
    /// What was applied, in a few words, e.g. `ABI 7, 31 rules`.
    pub detail: String,
}

/// How one exec ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it ended.
    pub reason: EndReason,
    /// The leader's exit code, when it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader, when one did.
    pub signal: Option<i32>,
    /// What it used.
    pub usage: Usage,
    /// Standard output, as kept. Empty where the caller streamed it or a PTY carried it.
    pub stdout: Captured,
    /// Standard error, as kept.
    pub stderr: Captured,
}

impl Outcome {
    /// The exit code a shell would see: 124 for a deadline, 128+n for signal n, else the command's own. A leader may exit well in the
    /// very moment its tree is ended for a limit: that is no success, but counts as killed.
    pub fn shell_code(&self) -> u8 {
        let code = match (self.exit_code, self.signal) {
            _ if self.reason == EndReason::WallDeadline => 124,
            (Some(0), _) if self.reason != EndReason::Exited => 128 + KILL,
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 125,
        };
        u8::try_from(code & 0xff).unwrap_or(125)
    }
}
