//! The messages between a host and the agent in its guest. Paths and arguments are bytes, because not all of them are valid text.

use super::{MachineIdentity, sanitize::Failure};
use agentd_core::{Command, ControlReport, EndReason, Evidence, Grant, GuardRule, Limits, Network, Profile, SandboxSpec, Usage};
use agentd_isolation::exec::Executable;
pub use agentd_isolation::exec::transport::End;
use agentd_kernel::mount::trust::TrustPlan;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// A message from host to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Attaches to the agent: the first message of a connection.
    Attach(AttachRequest),
    /// Starts a command. Its streams are open from this message on.
    Exec(ExecRequest),
    /// Sends a signal to the process group of an exec's leader.
    Signal {
        /// The number of the exec.
        id: u32,
        /// The signal.
        signal: i32,
    },
    /// Sets the size of an exec's terminal.
    Resize {
        /// The number of the exec.
        id: u32,
        /// Rows and columns.
        size: (u16, u16),
    },
    /// Kills the whole process tree of an exec.
    End {
        /// The number of the exec.
        id: u32,
        /// The reason that is then reported for its end.
        reason: EndReason,
    },
    /// Requests the content of a file on the operation's output stream, followed by [`FromGuest::Done`] or [`FromGuest::Failed`].
    Read {
        /// The number of the operation.
        id: u32,
        /// The absolute path.
        path: Vec<u8>,
    },
    /// Writes the operation's input stream to a file, which is created or truncated. The answer is [`FromGuest::Done`] or
    /// [`FromGuest::Failed`].
    Write {
        /// The number of the operation.
        id: u32,
        /// The absolute path.
        path: Vec<u8>,
    },
    /// Requests the changes in a copy on the operation's output stream, followed by [`FromGuest::Done`] or [`FromGuest::Failed`].
    Changes {
        /// The number of the operation.
        id: u32,
        /// The number of the copy.
        number: u32,
        /// True if the host has applied the changes that were sent last. Otherwise those changes are sent again.
        taken: bool,
    },
    /// Requests the resource usage of the sandbox.
    Usage {
        /// The number of the operation.
        id: u32,
    },
    /// Sets the clock of a machine that was stopped.
    Clock {
        /// Nanoseconds since 1970.
        realtime_ns: u64,
    },
    /// Attacks a second sandbox like the existing one, and exceeds its limits.
    Probe {
        /// The number of the operation.
        id: u32,
    },
    /// Freezes the file system of the sandbox's root. The answer is [`FromGuest::Done`] or [`FromGuest::Failed`]. The file system
    /// is thawed by [`ToGuest::Thaw`], when the connection ends without [`ToGuest::Quiesce`], and by itself after a timeout.
    Freeze {
        /// The number of the operation.
        id: u32,
    },
    /// Thaws the file system, even if the freeze is not complete yet. The answer is [`FromGuest::Done`] if it stayed frozen until
    /// this request.
    Thaw {
        /// The number of the operation.
        id: u32,
    },
    /// Asks the guest to send its queued messages and [`FromGuest::Quiesced`], and then nothing until the next connection.
    Quiesce,
    /// Asks the guest to end everything, flush file systems and exit.
    Shutdown,
    /// Allows the guest to open this many further connections to granted hosts ([`FromGuest::Connected`]).
    Connections(u32),
    /// Answers [`FromGuest::Query`].
    Answer {
        /// The number of the query.
        query: u32,
        /// The answer; empty if the program gets none.
        bytes: Vec<u8>,
    },
    /// Asks the guest to listen at these ports too, for connections to granted hosts. The answer is [`FromGuest::Done`] or
    /// [`FromGuest::Failed`].
    Listen {
        /// The number of the operation.
        id: u32,
        /// The ports. The guest may already listen at some of them.
        ports: Vec<u16>,
    },
    /// Ends the sandbox. The answer is [`FromGuest::Done`] once all bytes that its programs sent to granted hosts have been sent.
    Drain {
        /// The number of the operation.
        id: u32,
    },
}

/// The purpose of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachRequest {
    /// Send a copy of granted files, before the sandbox exists. The files follow in the format of `sync`. The connection is
    /// closed after the answer.
    Fill {
        /// The number of the copy.
        number: u32,
        /// The directory in the guest for the copy.
        place: Vec<u8>,
        /// True if [`ToGuest::Changes`] will be requested for this copy.
        changes: bool,
    },
    /// Create the sandbox.
    New(Box<Spec>),
    /// Take over an existing sandbox in a machine that now has another identity. Commands continue, with their streams
    /// disconnected.
    Adopt(MachineIdentity),
    /// Continue after [`ToGuest::Quiesce`].
    Proceed {
        /// The current time, as in [`MachineIdentity::realtime_ns`].
        realtime_ns: Option<u64>,
    },
}

impl AttachRequest {
    /// Returns the identity that the machine assumes.
    pub fn identity(&self) -> Option<&MachineIdentity> {
        match self {
            Self::New(spec) => spec.identity.as_ref(),
            Self::Adopt(identity) => Some(identity),
            Self::Proceed { .. } | Self::Fill { .. } => None,
        }
    }

    /// Returns the time that is sent, if any.
    pub fn realtime_ns(&mut self) -> Option<&mut u64> {
        match self {
            Self::New(spec) => spec.identity.as_mut()?.realtime_ns.as_mut(),
            Self::Adopt(identity) => identity.realtime_ns.as_mut(),
            Self::Proceed { realtime_ns } => realtime_ns.as_mut(),
            Self::Fill { .. } => None,
        }
    }
}

/// The specification of a sandbox in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The grants. Their paths are paths of the guest.
    pub grants: Vec<GrantBytes>,
    /// See [`SandboxSpec::home`].
    pub home: Option<Vec<u8>>,
    /// See [`SandboxSpec::network`].
    pub network: Network,
    /// See [`SandboxSpec::profile`].
    pub profile: Profile,
    /// See [`SandboxSpec::limits`].
    pub limits: Limits,
    /// See [`SandboxSpec::allow_degraded`].
    pub allow_degraded: bool,
    /// The identity that the machine assumes first.
    pub identity: Option<MachineIdentity>,
    /// The trust stores of the payload, if its TLS is inspected.
    pub trust: Option<TrustPlan>,
}

/// A [`Grant`] with paths as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantBytes {
    path: Vec<u8>,
    target: Option<Vec<u8>>,
    access: agentd_core::Access,
    protect: Vec<Vec<u8>>,
    unprotected: Vec<Vec<u8>>,
}

/// Returns the bytes of a path.
pub fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Converts bytes to a path.
pub fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

impl Spec {
    /// Converts a spec, leaving out its root and writable layer, which are those of the machine.
    pub fn new(spec: &SandboxSpec, identity: Option<MachineIdentity>) -> Self {
        let grant = |grant: &Grant| GrantBytes {
            path: bytes(&grant.path),
            target: grant.target.as_deref().map(bytes),
            access: grant.access,
            protect: grant.protect.iter().map(|path| bytes(path)).collect(),
            unprotected: grant.unprotected.iter().map(|path| bytes(path)).collect(),
        };
        Self {
            grants: spec.grants.iter().map(grant).collect(),
            home: spec.home.as_deref().map(bytes),
            network: spec.network.clone(),
            profile: spec.profile,
            limits: spec.limits.clone(),
            allow_degraded: spec.allow_degraded,
            identity,
            trust: None,
        }
    }

    /// Converts back to a sandbox spec and the machine's identity.
    pub fn into_spec(self) -> (SandboxSpec, Option<MachineIdentity>) {
        // The host has applied the guard already.
        let grant = |grant: GrantBytes| Grant {
            target: grant.target.map(path),
            protect: grant.protect.into_iter().map(path).collect(),
            unprotected: grant.unprotected.into_iter().map(path).collect(),
            guard: GuardRule::Waive,
            ..Grant::new(path(grant.path), grant.access)
        };
        let spec = SandboxSpec {
            grants: self.grants.into_iter().map(grant).collect(),
            home: self.home.map(path),
            network: self.network,
            profile: self.profile,
            limits: self.limits,
            allow_degraded: self.allow_degraded,
            ..SandboxSpec::default()
        };
        (spec, self.identity)
    }
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The number of the exec, chosen by the host.
    pub id: u32,
    /// The command. A command with a terminal has no error stream: its output is that of the terminal. Standard input
    /// is not part of this message but sent on the input stream, which a command with a terminal always has.
    pub command: Command,
    /// The program to execute: that of the command, or agentd's own in a role.
    pub executable: Executable,
    /// Report the end only after all output has been sent. The host must then read the output.
    pub whole: bool,
}

/// A message from guest to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// Answers [`ToGuest::Attach`]: the controls of the sandbox, or the error.
    Attached(Result<Vec<ControlReport>, Failure>),
    /// An exec has ended, and all its processes have ended.
    Ended {
        /// The number of the exec.
        id: u32,
        /// The exit status and the usage.
        end: End,
    },
    /// An exec or operation has failed.
    Failed {
        /// The number of the exec or operation.
        id: u32,
        /// The error.
        failure: Failure,
    },
    /// An operation is complete. For files and copies all bytes have been read or written.
    Done {
        /// The number of the operation.
        id: u32,
        /// The number of bytes.
        bytes: u64,
    },
    /// Answers [`ToGuest::Usage`].
    Used {
        /// The number of the operation.
        id: u32,
        /// The resource usage of the sandbox.
        usage: Usage,
    },
    /// Answers [`ToGuest::Probe`].
    Probed {
        /// The number of the operation.
        id: u32,
        /// The evidence of each check.
        evidence: Vec<Evidence>,
    },
    /// Answers [`ToGuest::Quiesce`]: the last message on this connection.
    Quiesced,
    /// A program has connected to an address, at a port of the gateway. The streams of the connection are open from this message
    /// on. [`ToGuest::Connections`] bounds the number of connections.
    Connected {
        /// The number of the connection. The first connection has the number 0, and each further one the next number.
        connection: u32,
        /// The destination.
        to: SocketAddr,
    },
    /// A program has sent a datagram to port 53.
    Query {
        /// The number of the query, chosen by the guest.
        query: u32,
        /// The address.
        to: IpAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The guest's kernel has refused a TCP connection or a UDP datagram.
    Attempt {
        /// True for UDP.
        udp: bool,
        /// The destination.
        to: SocketAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::{
        super::frame::{Frame, MAX_FROM_GUEST, MAX_TO_GUEST, decode, encode},
        *,
    };
    use agentd_core::{Control, ControlError, IsolationError, PtySize, StdinSource};
    use proptest::prelude::*;

    fn blob() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..20)
    }

    fn blobs() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(blob(), 0..5)
    }

    fn to_guest() -> impl Strategy<Value = ToGuest> {
        let exec = (any::<u32>(), blobs(), blobs(), any::<Option<(u16, u16)>>(), any::<[bool; 3]>()).prop_map(
            |(id, texts, env, pty, [input, tool, whole])| {
                let text = OsString::from_vec;
                let command = Command {
                    cwd: texts.first().cloned().map(path),
                    argv: texts.into_iter().map(text).collect(),
                    env: env.into_iter().map(|name| (text(name), "value".into())).collect(),
                    stdin: if input { StdinSource::Stream } else { StdinSource::Null },
                    pty: pty.map(|(rows, cols)| PtySize { rows, cols }),
                    ..Command::default()
                };
                let executable = if tool { Executable::Tool } else { Executable::FromPath };
                ToGuest::Exec(ExecRequest { id, command, executable, whole })
            },
        );
        let spec = blobs().prop_map(|paths| {
            let grants = paths.into_iter().map(|bytes| Grant {
                target: Some(path(bytes.clone())),
                protect: vec!["x".into()],
                unprotected: vec!["y".into()],
                guard: GuardRule::Waive,
                ..Grant::new(path(bytes), agentd_core::Access::ReadOnly)
            });
            let spec = SandboxSpec { grants: grants.collect(), ..SandboxSpec::default() };
            assert_eq!(Spec::new(&spec, None).into_spec(), (spec.clone(), None));
            ToGuest::Attach(AttachRequest::New(Box::new(Spec::new(&spec, None))))
        });
        prop_oneof![
            exec,
            spec,
            (any::<u32>(), any::<i32>()).prop_map(|(id, signal)| ToGuest::Signal { id, signal }),
            (any::<u32>(), blob()).prop_map(|(id, path)| ToGuest::Read { id, path }),
            any::<u32>().prop_map(|id| ToGuest::Freeze { id }),
            any::<u32>().prop_map(|id| ToGuest::Thaw { id }),
            any::<u32>().prop_map(ToGuest::Connections),
            (any::<u32>(), blob()).prop_map(|(query, bytes)| ToGuest::Answer { query, bytes }),
            (any::<u32>(), any::<Vec<u16>>()).prop_map(|(id, ports)| ToGuest::Listen { id, ports }),
            any::<u32>().prop_map(|id| ToGuest::Drain { id }),
        ]
    }

    /// Removes the flow label and the scope, which are not transferred.
    fn plain(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip(), address.port())
    }

    fn from_guest() -> impl Strategy<Value = FromGuest> {
        prop_oneof![
            (any::<u32>(), ".{0,30}")
                .prop_map(|(id, why)| FromGuest::Failed { id, failure: IsolationError::MachineLost(why).into() }),
            (any::<u32>(), any::<u64>()).prop_map(|(id, bytes)| FromGuest::Done { id, bytes }),
            ".{0,30}".prop_map(|call| {
                let error = ControlError::new(Control::Seccomp, call, Some(1));
                FromGuest::Attached(Err(IsolationError::Control(error).into()))
            }),
            (any::<u32>(), any::<SocketAddr>()).prop_map(|(connection, to)| FromGuest::Connected { connection, to: plain(to) }),
            (any::<u32>(), any::<IpAddr>(), blob()).prop_map(|(query, to, bytes)| FromGuest::Query { query, to, bytes }),
            (any::<bool>(), any::<SocketAddr>()).prop_map(|(udp, to)| FromGuest::Attempt { udp, to: plain(to) }),
            Just(FromGuest::Quiesced),
        ]
    }

    proptest! {
        #[test]
        fn encoded_messages_decode_to_same_messages(to in to_guest(), from in from_guest()) {
            let mut bytes = Vec::new();
            encode(&Frame::Message(to.clone()), MAX_TO_GUEST, &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes, MAX_TO_GUEST), Ok(Some((Frame::Message(to), bytes.len()))));
            bytes.clear();
            encode(&Frame::Message(from.clone()), MAX_FROM_GUEST, &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes, MAX_FROM_GUEST), Ok(Some((Frame::Message(from), bytes.len()))));
        }

        #[test]
        fn random_bytes_do_not_panic_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode::<FromGuest>(&bytes, MAX_FROM_GUEST).ok();
            decode::<ToGuest>(&bytes, MAX_TO_GUEST).ok();
            // The same bytes as the body of a complete frame.
            let framed = [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat();
            decode::<FromGuest>(&framed, MAX_FROM_GUEST).ok();
            decode::<ToGuest>(&framed, MAX_TO_GUEST).ok();
        }
    }
}
