//! The messages between clients and the daemon: frames of `agentd_supervisor::channel`. Each connection carries a [`Hello`], one
//! request, and the messages that follow from it. If the client needs a proof of the daemon, the daemon replies to the [`Hello`]
//! with [`Reply::Challenge`], and the client sends an [`Answer`] before its request.

use crate::handshake::{Nonce, Tag};
use agentd_core::{Command, ControlReport, EndReason, Grant, Outcome, PtySize};
use agentd_isolation::protect::Report;
use agentd_sandboxes::{Name, SandboxSettings};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The protocol version. It changes whenever a message changes: a daemon that was started by another build rejects the request
/// and reports its version. [`Hello`] begins with the version, and [`Reply::Failed`] with [`Failure::Version`] has the same form
/// in all versions.
pub(crate) const VERSION: u32 = 16;

/// Maximum size of a frame in either direction, in bytes. A command's arguments and environment have at most 2 MiB (`execve(2)`).
pub(crate) const MAX_FRAME: usize = 4 << 20;

/// Maximum size of a file that is copied in or out, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 30;

/// The first message of a client. It has no descriptors, and a fixed length. Before a client in other namespaces has proven that
/// it has the key, the daemon reads only this message and [`Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub version: u32,
    /// The random number of the client; [`Nonce::NONE`] if the client needs no proof of the daemon.
    pub nonce: Nonce,
}

/// The client's proof that it has the key. It has no descriptors, and a fixed length.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer(pub Tag);

/// The requests. A client sends one of them after [`Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Create a sandbox. With `proven`, the client has proven the boundary in its own namespaces.
    Create { name: Name, about: Box<SandboxSettings>, proven: bool },
    /// Start a command in a sandbox. Answered by [`Reply::Started`] and, at its end, [`Reply::Ended`]; a detached command by
    /// [`Reply::Made`] immediately. `proven` as for [`Request::Create`].
    Exec { name: Name, command: Box<Command>, detach: bool, proven: bool },
    /// Start an interpreter in a sandbox, or use the one that runs there. Answered by [`Reply::Started`], whose standard input is
    /// a socket. The client then sends [`ExecMessage::Release`], answered by [`Reply::Compared`], or the interpreter ends,
    /// answered by [`Reply::Ended`]. If the client leaves before, the interpreter is killed. `proven` as for
    /// [`Request::Create`].
    Interpreter { name: Name, start: Option<Box<Command>>, proven: bool },
    /// Return the state of all sandboxes that have processes.
    Status,
    /// Pause all processes of a sandbox.
    Pause { name: Name },
    /// Resume all processes of a sandbox.
    Resume { name: Name },
    /// Save the state of a sandbox under a name.
    Snapshot { name: Name, snapshot: Name },
    /// Create new sandboxes from the current state of a sandbox, or from one of its snapshots.
    Fork { name: Name, snapshot: Option<Name>, new: Vec<Name> },
    /// Restore a snapshot.
    Restore { name: Name, snapshot: Name },
    /// Remove a snapshot.
    Forget { name: Name, snapshot: Name },
    /// Return the changes of a sandbox since a snapshot, or compared with these layers of its image. The reply has a descriptor
    /// of the list.
    Diff { name: Name, since: Option<Name>, image: Vec<PathBuf> },
    /// Check the data on disk. The reply has a descriptor of the findings.
    Check,
    /// Replace the grants of a sandbox in which no command runs.
    Regrant { name: Name, grants: Vec<Grant> },
    /// End the processes of a sandbox and remove the sandbox.
    Remove { name: Name },
    /// Copy a file out of a sandbox. The reply has a descriptor of its content.
    Read { name: Name, path: PathBuf },
    /// Copy a file into a sandbox. The request has a descriptor of its content.
    Write { name: Name, path: PathBuf },
    /// Return information about the daemon.
    Daemon,
    /// Change the network grants of a sandbox.
    Network { name: Name, allow: Vec<String>, revoke: Vec<String> },
    /// Connect to a TCP port of the loopback of a running sandbox. The reply has the descriptor of the socket.
    Connect { name: Name, port: u16 },
}

impl Request {
    /// Returns the sandbox whose files are kept if its processes are lost during the request. A sandbox whose creation fails is
    /// removed.
    pub(crate) fn kept(&self) -> Option<&Name> {
        match self {
            Self::Create { .. } => None,
            other => other.summary().1,
        }
    }

    /// Returns whether the client has proven the boundary; `None` if the request needs no proof.
    pub(crate) fn is_proven(&self) -> Option<bool> {
        match self {
            Self::Create { proven, .. } | Self::Exec { proven, .. } | Self::Interpreter { proven, .. } => Some(*proven),
            _ => None,
        }
    }

    /// Returns the kind of request and its sandbox, for the log. Commands and environments are not logged, because they may hold
    /// secrets.
    pub(crate) fn summary(&self) -> (&'static str, Option<&Name>) {
        match self {
            Self::Create { name, .. } => ("create", Some(name)),
            Self::Exec { name, .. } => ("exec", Some(name)),
            Self::Interpreter { name, start: Some(_), .. } => ("start interpreter", Some(name)),
            Self::Interpreter { name, start: None, .. } => ("use interpreter", Some(name)),
            Self::Status => ("status", None),
            Self::Pause { name } => ("pause", Some(name)),
            Self::Resume { name } => ("resume", Some(name)),
            Self::Snapshot { name, .. } => ("snapshot", Some(name)),
            Self::Fork { name, .. } => ("fork", Some(name)),
            Self::Restore { name, .. } => ("restore", Some(name)),
            Self::Forget { name, .. } => ("forget snapshot", Some(name)),
            Self::Diff { name, .. } => ("diff", Some(name)),
            Self::Check => ("fsck", None),
            Self::Regrant { name, .. } => ("regrant", Some(name)),
            Self::Remove { name } => ("remove", Some(name)),
            Self::Read { name, .. } => ("read file", Some(name)),
            Self::Write { name, .. } => ("write file", Some(name)),
            Self::Daemon => ("daemon", None),
            Self::Network { name, .. } => ("change network", Some(name)),
            Self::Connect { name, .. } => ("connect", Some(name)),
        }
    }
}

/// Messages of a client while its command runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ExecMessage {
    /// Send a signal to the command.
    Signal(i32),
    /// The size of the command's terminal has changed.
    Resize(PtySize),
    /// End the command.
    End(EndReason),
    /// Take back the interpreter, which continues to run. Any other command is ended.
    Release,
}

/// The replies of the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The request was carried out.
    Done,
    /// The request failed. After [`Reply::Started`], the command may have run and may have changed anything. With
    /// [`Failure::Lost`], the processes of the sandbox have ended. With [`Failure::Other`], a part of the request may have been
    /// carried out.
    Failed(Failure),
    /// A sandbox was created, or a detached command was started. Carries the report of each control, and changes of protected
    /// paths.
    Made(Vec<ControlReport>, Report),
    /// A command was started. The descriptors belong to `streams`, in this order. `report` has the changes of protected paths
    /// since the last report.
    Started { streams: Vec<Stream>, controls: Vec<ControlReport>, report: Report },
    /// The sandbox was removed, its grants were replaced, or its interpreter was released. Carries the changes of its protected
    /// paths that no client has received.
    Compared(Report),
    /// The command has ended. Carries its outcome, and changes of protected paths.
    Ended(Box<Outcome>, Report),
    /// The state of all sandboxes that have processes.
    Status(Vec<Status>),
    /// Information about the daemon.
    Daemon(Daemon),
    /// The random number of the daemon, and its proof that it has the key.
    Challenge { nonce: Nonce, tag: Tag },
}

impl Reply {
    /// Returns the kind of reply, for messages. The content may have been chosen by a payload.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Made(..) => "made",
            Self::Started { .. } => "started",
            Self::Compared(_) => "compared",
            Self::Ended(..) => "ended",
            Self::Status(_) => "status",
            Self::Daemon(_) => "daemon",
            Self::Challenge { .. } => "challenge",
        }
    }
}

/// Reasons why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The program could not be executed.
    Spawn { program: String, errno: i32 },
    /// The client and the daemon have different versions of these messages. The number is the daemon's version.
    Version(u32),
    /// The processes of the sandbox, or a process that they need, were lost for this reason. The files of the sandbox are kept.
    Lost { name: Name, cause: String },
    /// No interpreter runs in the sandbox.
    NoInterpreter { name: Name },
    /// Any other error, as text.
    Other(String),
}

/// The streams of a command that have a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
    Pty,
}

/// Information about the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// The process id of the daemon.
    pub pid: u32,
    /// The version of agentd that the daemon runs.
    pub version: String,
    /// The version of the messages between the daemon and its clients.
    pub protocol: u32,
    /// The time at which the daemon started, in seconds since 1970.
    pub started: u64,
    /// The sandboxes that have processes.
    pub sandboxes: Vec<Status>,
}

/// The state of a sandbox that has processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The name of the sandbox.
    pub name: Name,
    /// What the sandbox is doing.
    pub activity: Activity,
}

/// The states of a sandbox that has processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// The processes of the sandbox run.
    Live {
        /// The number of running commands.
        commands: usize,
    },
    /// The processes of the sandbox are paused.
    Paused {
        /// The number of paused commands.
        commands: usize,
    },
    /// The sandbox is being started, saved, restored or removed.
    Changing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::{Network, NetworkSecret, Profile, SandboxSpec};
    use agentd_supervisor::protocol::{decode, encode};

    fn create(spec: SandboxSpec) -> Request {
        let about = SandboxSettings { spec, ..SandboxSettings::default() };
        Request::Create { name: "dev".parse().unwrap(), about: Box::new(about), proven: true }
    }

    #[test]
    fn request_to_create_keeps_every_field_and_is_not_sent_with_a_secret() {
        for deny_reasons in [Vec::new(), vec!["ask the platform team".to_owned()]] {
            let network = Network::Egress(vec!["a.example".to_owned()]);
            let mut spec = SandboxSpec { network, deny_reasons, profile: Profile::Strict, ..SandboxSpec::default() };
            let frame = encode(&create(spec.clone()), 0).unwrap();
            let Some((Request::Create { about, .. }, _, _)) = decode(&frame, MAX_FRAME).unwrap() else { panic!("incomplete") };
            assert_eq!(about.spec, spec);
            spec.secrets.push(NetworkSecret::new("KEY@a.example", "the-real-value".to_owned()));
            assert!(encode(&create(spec), 0).is_err());
        }
    }
}
