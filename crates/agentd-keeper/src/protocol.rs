//! What clients and the keeper say to each other: frames of `agentd_supervisor::channel`, one request on each connection, and what follows
//! from it.

use agentd_core::{Command, EndReason, LayerReport, Outcome, PtySize};
use agentd_sandboxes::{About, Name};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Changes whenever a message changes: a keeper that was started by another build refuses, and says so.
pub(crate) const VERSION: u32 = 3;

/// The largest frame, either way: a command's arguments and environment are at most 2 MiB (`execve(2)`).
pub(crate) const MAX_FRAME: usize = 4 << 20;

/// The largest file that is copied in or out.
pub(crate) const MAX_FILE: u64 = 1 << 30;

/// What a client asks for first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub version: u32,
    pub request: Request,
}

/// What a client asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// A new sandbox.
    Create { name: Name, about: Box<About> },
    /// A command in one. Answered by [`Reply::Started`] and, at its end, [`Reply::Ended`]; a detached one by [`Reply::Made`] at once.
    Exec { name: Name, command: Box<Command>, detach: bool },
    /// How the sandboxes are whose processes live.
    Status,
    /// Stop all processes of one.
    Pause { name: Name },
    /// Let them go on.
    Resume { name: Name },
    /// Keep its state under a name.
    Snapshot { name: Name, snapshot: Name },
    /// Make others of its state, or of one that was kept.
    Fork { name: Name, snapshot: Option<Name>, new: Vec<Name> },
    /// Go back to a state.
    Restore { name: Name, snapshot: Name },
    /// Forget a state.
    Forget { name: Name, snapshot: Name },
    /// What one changed since a state, or of these layers of its image. The answer has a descriptor of it.
    Diff { name: Name, since: Option<Name>, image: Vec<PathBuf> },
    /// What is not as it should be on disk. The answer has a descriptor of it.
    Check,
    /// End and remove one.
    Remove { name: Name },
    /// A file out of one. The answer has a descriptor of its content.
    Read { name: Name, path: PathBuf },
    /// A file into one. Comes with a descriptor of its content.
    Write { name: Name, path: PathBuf },
}

/// What a client says while its command runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum During {
    /// Send it a signal.
    Signal(i32),
    /// Its terminal has another size.
    Resize(PtySize),
    /// End it.
    End(EndReason),
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// It could not be done; nothing was changed.
    Failed(Failure),
    /// A sandbox was made, or a detached command runs in one; what became of each layer.
    Made(Vec<LayerReport>),
    /// A command runs. The descriptors are those of the streams that are named, in this order.
    Started { streams: Vec<Stream>, layers: Vec<LayerReport> },
    /// It has ended.
    Ended(Box<Outcome>),
    /// The sandboxes that are not at rest.
    Status(Vec<Status>),
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The program could not be executed.
    Spawn { program: String, errno: i32 },
    /// The client was built with another version of these messages.
    Version(u32),
    /// Anything else, in words.
    Other(String),
}

/// A descriptor of a command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
    Pty,
}

/// How a sandbox is that is not at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: Name,
    /// How it is.
    pub doing: Doing,
}

/// What a sandbox does that is not at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doing {
    /// Its processes live.
    Lives {
        /// Commands that run in it.
        commands: usize,
    },
    /// Its processes are stopped.
    Stands {
        /// Commands that would run in it.
        commands: usize,
    },
    /// It is being started, saved, restored or removed.
    Changes,
}
