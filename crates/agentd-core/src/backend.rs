//! The traits that backends implement.

use crate::{BackendCapabilities, Command, IsolationError, LayerReport, Outcome, PtySize, SandboxSpec, Usage};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, os::fd::OwnedFd, path::Path, sync::Arc};

/// The name of a sandbox, unique among those of one backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId(pub String);

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A way of making sandboxes.
#[async_trait]
pub trait IsolationBackend: Send + Sync {
    /// The canonical name.
    fn name(&self) -> &str;
    /// Builds a small sandbox, attacks it from inside, and says what held.
    async fn probe(&self) -> Result<BackendCapabilities, IsolationError>;
    /// Makes a sandbox; when it returns, every layer has been applied.
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError>;
    /// The sandboxes that live.
    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError>;
    /// One of them.
    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError>;
    /// Ends all of them and waits until nothing of them is left.
    async fn destroy_all(&self) -> Result<(), IsolationError>;
    /// Whether sandboxes can be made now.
    async fn health_check(&self) -> Result<(), IsolationError>;
}

/// The caller's ends of an exec's streams. Output that nobody reads holds the command up, as with any pipe.
#[derive(Debug, Default)]
pub struct ExecStreams {
    /// Writes to standard input, where [`crate::StdinSource::Stream`] was asked for. Dropping it is end of file.
    pub stdin: Option<OwnedFd>,
    /// Reads standard output; `None` on a PTY.
    pub stdout: Option<OwnedFd>,
    /// Reads standard error; `None` on a PTY.
    pub stderr: Option<OwnedFd>,
    /// The master side of the PTY, where one was asked for.
    pub pty: Option<OwnedFd>,
}

/// A running exec. Dropped before its end, it is ended.
#[async_trait]
pub trait ExecHandle: Send + Sync {
    /// Takes the streams; they are there once.
    fn take_streams(&mut self) -> ExecStreams;
    /// Sends a signal to the command's process group.
    async fn signal(&self, signal: i32) -> Result<(), IsolationError>;
    /// Sets the size of its terminal.
    async fn resize(&self, size: PtySize) -> Result<(), IsolationError>;
    /// Ends its whole process tree for `reason`; [`ExecHandle::wait`] then gives that reason.
    async fn end(&self, reason: crate::EndReason) -> Result<(), IsolationError>;
    /// Waits for the end, which is told once. Limits are watched whether this is awaited or not, but for that of output: its bytes
    /// pass through the caller's hands only.
    async fn wait(&mut self) -> Result<Outcome, IsolationError>;
}

/// One isolated place in which commands are executed.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Its name.
    fn id(&self) -> &SandboxId;
    /// What became of each layer when it was made.
    fn layers(&self) -> &[LayerReport];
    /// What its backend has proven on this machine.
    async fn capabilities(&self) -> Result<BackendCapabilities, IsolationError>;
    /// Runs a command to its end and keeps its output.
    async fn exec(&self, command: Command) -> Result<Outcome, IsolationError>;
    /// Starts a command whose streams the caller serves.
    async fn exec_streaming(&self, command: Command) -> Result<Box<dyn ExecHandle>, IsolationError>;
    /// Reads a whole file of at most `limit` bytes.
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, IsolationError>;
    /// Writes a whole file, creating it when needed.
    async fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), IsolationError>;
    /// Carries a whole file of at most `limit` bytes to `to`, which may be a file, a pipe, a socket or a terminal, in pieces: little of it is
    /// in memory, whatever its size. Gives how many bytes it has. After an error, `to` may have got some of them.
    async fn read_file_to(&self, path: &Path, limit: u64, to: OwnedFd) -> Result<u64, IsolationError>;
    /// Writes a whole file, creating it when needed, with all that `from` gives to its end, likewise. Gives how many bytes that was. After
    /// an error, some of them may have been written.
    async fn write_file_from(&self, path: &Path, from: OwnedFd) -> Result<u64, IsolationError>;
    /// Whether it can run commands.
    async fn is_alive(&self) -> bool;
    /// Stops all its processes until [`Sandbox::resume`]. A deadline that passes meanwhile may take effect only then (with version 1
    /// of cgroups).
    async fn suspend(&self) -> Result<(), IsolationError>;
    /// Lets them go on.
    async fn resume(&self) -> Result<(), IsolationError>;
    /// Saves its state under a name, instead of what was saved under it before. In `container`, where
    /// [`crate::Writable::Layers`] was asked for, and in `gondolin` that is what its files are: commands go on, and are no part of it. In
    /// `firecracker` it is all that runs, too.
    async fn snapshot(&self, name: &str) -> Result<(), IsolationError>;
    /// Goes back to a saved state; what runs is ended, unless it is part of that.
    async fn restore(&self, name: &str) -> Result<(), IsolationError>;
    /// Makes another sandbox with the same state. They share no file that either can write to.
    async fn fork(&self) -> Result<Arc<dyn Sandbox>, IsolationError>;
    /// What it has used so far: time since it was made, and processor time of the execs that have ended.
    async fn resource_usage(&self) -> Result<Usage, IsolationError>;
    /// Ends it and waits until no process, group, file or id of it is left, and no mount of what is the caller's or is kept. Mounts of its own
    /// memory, which nobody can reach any more, may take the kernel a moment longer. Ending one that is gone is no error.
    async fn destroy(&self) -> Result<(), IsolationError>;
}
