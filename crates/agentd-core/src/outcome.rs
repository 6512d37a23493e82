//! The outcome of an exec, the status of controls, and resource usage.

use crate::{Control, ControlError};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The single reason why an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EndReason {
    /// The command exited by itself.
    Exited,
    /// A signal that agentd did not send killed the command.
    Signalled,
    /// The command exceeded its wall-clock time limit.
    WallDeadline,
    /// The command exceeded its processor time limit.
    CpuLimit,
    /// The kernel killed a process of the exec because of a memory limit.
    OutOfMemory,
    /// The command reached the limit of processes.
    ProcessLimit,
    /// The command exceeded the file size limit (`SIGXFSZ`).
    FileSizeLimit,
    /// The command exceeded its output limit.
    OutputLimit,
    /// The caller ended the command.
    Cancelled,
    /// The supervisor, the launcher or the virtual machine of the command was lost.
    BackendLost,
}

/// The word of the JSON form.
impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::WallDeadline => "wall-deadline",
            Self::CpuLimit => "cpu-limit",
            Self::OutOfMemory => "out-of-memory",
            Self::ProcessLimit => "process-limit",
            Self::FileSizeLimit => "file-size-limit",
            Self::OutputLimit => "output-limit",
            Self::Cancelled => "cancelled",
            Self::BackendLost => "backend-lost",
        })
    }
}

/// The resources used by an exec or a sandbox, as counted by the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall-clock time from the request to the end of an exec; for a sandbox, since its creation.
    pub wall: Duration,
    /// Processor time in user mode, summed over all reaped processes (`getrusage(2)`).
    pub cpu_user: Duration,
    /// Processor time in kernel mode, summed over all reaped processes (`getrusage(2)`).
    pub cpu_system: Duration,
    /// Peak memory in bytes: that of the sandbox's cgroup if it has one, otherwise that of the largest process.
    pub peak_memory: u64,
    /// Whether `peak_memory` is that of the cgroup.
    pub peak_memory_is_group: bool,
    /// Memory that the sandbox's virtual machine uses now, in bytes, including its kernel and agent. The guest kernel reports it
    /// (`MemTotal` minus `MemAvailable`, `proc_meminfo(5)`). Absent if the sandbox does not run in a virtual machine.
    pub machine_memory: Option<u64>,
}

/// `SIGKILL` (`signal(7)`).
const KILL: i32 = 9;

/// The captured output of one stream: its head and, if output was omitted, its tail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The first bytes.
    pub head: Vec<u8>,
    /// The last bytes; empty if no output was omitted.
    pub tail: Vec<u8>,
    /// The number of bytes between head and tail that were not kept.
    pub omitted: u64,
}

impl Captured {
    /// Returns all captured bytes, with a marker where output was omitted.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut all = self.head.clone();
        if self.omitted > 0 {
            all.extend_from_slice(format!("\n[agentd: {} bytes omitted]\n", self.omitted).as_bytes());
        }
        all.extend_from_slice(&self.tail);
        all
    }

    /// Returns the number of bytes that the command wrote to this stream.
    pub fn total(&self) -> u64 {
        self.head.len() as u64 + self.omitted + self.tail.len() as u64
    }
}

/// The status of one control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlStatus {
    /// Applied in full.
    Enforced,
    /// Applied as far as this kernel and the rights of the caller permit; the text names the missing part.
    Partial(String),
    /// Not applied, which the caller accepted (`allow_degraded`).
    Missing(ControlError),
}

/// The report of how one control was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlReport {
    /// The control.
    pub control: Control,
    /// The status of the control.
    pub status: ControlStatus,
    /// A short description of the applied control, e.g. `ABI 7, 31 rules`.
    pub detail: String,
}

/// The outcome of one exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The reason why the exec ended.
    pub reason: EndReason,
    /// The exit code of the leader, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that killed the leader, if a signal did.
    pub signal: Option<i32>,
    /// The resources used.
    pub usage: Usage,
    /// Captured standard output. Empty if the caller streamed it or a PTY was used.
    pub stdout: Captured,
    /// Captured standard error. Empty if the caller streamed it or a PTY was used.
    pub stderr: Captured,
}

impl Outcome {
    /// Returns the exit code as a shell reports it: 124 for a deadline, 128+n for signal n, otherwise the command's own, and 125
    /// if none of these is known. If the leader exits with 0 while its process tree is being killed because of a limit, the exec
    /// counts as killed.
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
