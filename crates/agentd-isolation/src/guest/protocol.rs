//! The messages between a host and the agent in its guest. All that names something is bytes: not every path or argument is text.

use super::{Identity, told::Failure};
use agentd_core::{EndReason, Evidence, Grant, LayerReport, Limits, Network, Profile, SandboxSpec, Usage};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// Host to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// The first message of a connection.
    Attach(Attaching),
    /// Start a command. Its streams exist from here on.
    Exec(Exec),
    /// Send a signal to the process group of an exec's leader.
    Signal {
        /// The exec.
        id: u32,
        /// The signal.
        signal: i32,
    },
    /// Set the size of an exec's terminal.
    Resize {
        /// The exec.
        id: u32,
        /// Rows and columns.
        size: (u16, u16),
    },
    /// Kill the whole process tree of an exec.
    End {
        /// The exec.
        id: u32,
        /// What is then told as its reason.
        reason: EndReason,
    },
    /// Send what is in a file, by the operation's output, and then [`FromGuest::Done`] or [`FromGuest::Failed`].
    Read {
        /// The operation.
        id: u32,
        /// Absolute path.
        path: Vec<u8>,
    },
    /// Write what comes by the operation's input to a file, which is made or truncated; then the same.
    Write {
        /// The operation.
        id: u32,
        /// Absolute path.
        path: Vec<u8>,
    },
    /// Send what was changed in a copy, by the operation's output, and then [`FromGuest::Done`] or [`FromGuest::Failed`].
    Changes {
        /// The operation.
        id: u32,
        /// Which copy.
        number: u32,
        /// Whether what was sent of it last has been taken. Else it is sent again.
        taken: bool,
    },
    /// Say what the sandbox has used.
    Usage {
        /// The operation.
        id: u32,
    },
    /// The machine stood still: set its clock.
    Clock {
        /// Nanoseconds since 1970.
        realtime_ns: u64,
    },
    /// Attack a sandbox like the one that is made, and exceed its limits.
    Probe {
        /// The operation.
        id: u32,
    },
    /// Bring the file system of the sandbox's root to rest, and then say [`FromGuest::Done`] or [`FromGuest::Failed`]. It goes on with
    /// [`ToGuest::Thaw`], with the connection's end, and by itself after a time.
    Freeze {
        /// The operation.
        id: u32,
    },
    /// Let it go on, also when it does not rest yet, and say [`FromGuest::Done`] where it has rested until now.
    Thaw {
        /// The operation.
        id: u32,
    },
    /// Send the messages that wait, answer with [`FromGuest::Quiesced`], and then be silent until the next connection.
    Quiesce,
    /// End everything, flush file systems and exit.
    Shutdown,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attaching {
    /// Take a copy of what is granted, which follows (`copies`), before there is a sandbox. It is not gone on with after the answer.
    Fill {
        /// Which one.
        number: u32,
        /// The directory that it is to be in.
        place: Vec<u8>,
        /// Whether [`ToGuest::Changes`] will be asked for.
        changes: bool,
    },
    /// Make the sandbox.
    New(Box<Spec>),
    /// It is made already, and this is another machine now: what runs goes on, with nobody at its streams.
    Adopt(Identity),
    /// Go on after [`ToGuest::Quiesce`].
    Proceed {
        /// The time, as [`Identity::realtime_ns`] has it.
        realtime_ns: Option<u64>,
    },
}

impl Attaching {
    /// What the machine becomes.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::New(spec) => spec.identity.as_ref(),
            Self::Adopt(identity) => Some(identity),
            Self::Proceed { .. } | Self::Fill { .. } => None,
        }
    }

    /// The time that is told, where one is.
    pub fn realtime_ns(&mut self) -> Option<&mut u64> {
        match self {
            Self::New(spec) => spec.identity.as_mut()?.realtime_ns.as_mut(),
            Self::Adopt(identity) => identity.realtime_ns.as_mut(),
            Self::Proceed { realtime_ns } => realtime_ns.as_mut(),
            Self::Fill { .. } => None,
        }
    }
}

/// What a sandbox in a guest is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Paths of the guest.
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
    /// What the machine becomes first.
    pub identity: Option<Identity>,
}

/// A [`Grant`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantBytes {
    path: Vec<u8>,
    target: Option<Vec<u8>>,
    access: agentd_core::Access,
    protect: Vec<Vec<u8>>,
}

/// A path's bytes.
pub fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The path that bytes are.
pub fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

impl Spec {
    /// Of a spec, without its root: that is what the guest has.
    pub fn new(spec: &SandboxSpec, identity: Option<Identity>) -> Self {
        let grant = |grant: &Grant| GrantBytes {
            path: bytes(&grant.path),
            target: grant.target.as_deref().map(bytes),
            access: grant.access,
            protect: grant.protect.iter().map(|path| bytes(path)).collect(),
        };
        Self {
            grants: spec.grants.iter().map(grant).collect(),
            home: spec.home.as_deref().map(bytes),
            network: spec.network,
            profile: spec.profile,
            limits: spec.limits.clone(),
            allow_degraded: spec.allow_degraded,
            identity,
        }
    }

    /// The spec again, and who the machine is.
    pub fn into_spec(self) -> (SandboxSpec, Option<Identity>) {
        let grant = |grant: GrantBytes| Grant {
            path: path(grant.path),
            target: grant.target.map(path),
            access: grant.access,
            protect: grant.protect.into_iter().map(path).collect(),
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

/// A command to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Names the exec from then on.
    pub id: u32,
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// Names and values.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; `/` when absent.
    pub cwd: Option<Vec<u8>>,
    /// Whether it has an input; always with a terminal.
    pub input: bool,
    /// Rows and columns, for a terminal of its own. Then its output is the terminal's, and it has no error stream.
    pub pty: Option<(u16, u16)>,
    /// Limits of the command.
    pub limits: Limits,
    /// Execute agentd's own image instead of the program named.
    pub own_image: bool,
    /// Tell of its end only when all its output has been sent. Its reader must then read it.
    pub whole: bool,
}

/// Guest to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// The answer to [`ToGuest::Attach`]: what became of each layer.
    Attached(Result<Vec<LayerReport>, Failure>),
    /// An exec has ended and nothing of it is left.
    Ended {
        /// The exec.
        id: u32,
        /// How.
        end: End,
    },
    /// What was asked for by a number has failed.
    Failed {
        /// The exec or operation.
        id: u32,
        /// Why.
        failure: Failure,
    },
    /// All of a file has been read, or has been written: so many bytes.
    Done {
        /// The operation.
        id: u32,
        /// How many.
        bytes: u64,
    },
    /// What the sandbox has used.
    Used {
        /// The operation.
        id: u32,
        /// That.
        usage: Usage,
    },
    /// What held, and what did not.
    Probed {
        /// The operation.
        id: u32,
        /// That.
        evidence: Vec<Evidence>,
    },
    /// Nothing more is sent on this connection.
    Quiesced,
}

/// How an exec ended; [`agentd_core::Outcome`] without its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// The leader's exit code, when it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader, when one did.
    pub signal: Option<i32>,
    /// What it used.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use super::{
        super::frame::{Frame, MAX_FROM_GUEST, MAX_TO_GUEST, decode, encode},
        *,
    };
    use agentd_core::{IsolationError, Layer, LayerError};
    use proptest::prelude::*;

    fn blob() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..20)
    }

    fn blobs() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(blob(), 0..5)
    }

    fn to_guest() -> impl Strategy<Value = ToGuest> {
        let exec = (any::<u32>(), blobs(), blobs(), any::<Option<(u16, u16)>>(), any::<[bool; 3]>()).prop_map(
            |(id, argv, env, pty, [input, own_image, whole])| {
                let env = env.into_iter().map(|name| (name, b"value".to_vec())).collect();
                ToGuest::Exec(Exec { id, argv, env, cwd: None, input, pty, limits: Limits::default(), own_image, whole })
            },
        );
        let spec = blobs().prop_map(|paths| {
            let grants = paths.into_iter().map(|bytes| Grant {
                path: path(bytes.clone()),
                target: Some(path(bytes)),
                access: agentd_core::Access::ReadOnly,
                protect: vec!["x".into()],
            });
            let spec = SandboxSpec { grants: grants.collect(), ..SandboxSpec::default() };
            assert_eq!(Spec::new(&spec, None).into_spec(), (spec.clone(), None));
            ToGuest::Attach(Attaching::New(Box::new(Spec::new(&spec, None))))
        });
        prop_oneof![
            exec,
            spec,
            (any::<u32>(), any::<i32>()).prop_map(|(id, signal)| ToGuest::Signal { id, signal }),
            (any::<u32>(), blob()).prop_map(|(id, path)| ToGuest::Read { id, path }),
            any::<u32>().prop_map(|id| ToGuest::Freeze { id }),
            any::<u32>().prop_map(|id| ToGuest::Thaw { id }),
        ]
    }

    fn from_guest() -> impl Strategy<Value = FromGuest> {
        prop_oneof![
            (any::<u32>(), ".{0,30}").prop_map(|(id, why)| FromGuest::Failed { id, failure: IsolationError::Lost(why).into() }),
            (any::<u32>(), any::<u64>()).prop_map(|(id, bytes)| FromGuest::Done { id, bytes }),
            ".{0,30}".prop_map(|call| {
                let error = LayerError::new(Layer::Seccomp, call, Some(1));
                FromGuest::Attached(Err(IsolationError::Layer(error).into()))
            }),
            Just(FromGuest::Quiesced),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(to in to_guest(), from in from_guest()) {
            let mut bytes = Vec::new();
            encode(&Frame::Message(to.clone()), MAX_TO_GUEST, &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes, MAX_TO_GUEST), Ok(Some((Frame::Message(to), bytes.len()))));
            bytes.clear();
            encode(&Frame::Message(from.clone()), MAX_FROM_GUEST, &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes, MAX_FROM_GUEST), Ok(Some((Frame::Message(from), bytes.len()))));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode::<FromGuest>(&bytes, MAX_FROM_GUEST).ok();
            decode::<ToGuest>(&bytes, MAX_TO_GUEST).ok();
            // And as the body of a frame that is whole.
            let framed = [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat();
            decode::<FromGuest>(&framed, MAX_FROM_GUEST).ok();
            decode::<ToGuest>(&framed, MAX_TO_GUEST).ok();
        }
    }
}
