//! The messages between library, launcher and supervisor.
//!
//! The transport is a Unix stream socket; descriptors are attached to the frames. The agents of virtual machines use another
//! protocol (crate `agentd-guest`).
//!
//! A frame is a little-endian `u32` length, a `u8` count of descriptors, and that many bytes of a postcard-encoded message.
//! Messages from a supervisor are untrusted: [`decode`] reads at most the frame and never panics.

use crate::plan::{ExpectedPlan, SandboxPlan};
use agentd_core::{ControlError, ControlReport};
use agentd_kernel::{cgroup::WatchKind, gateway::GatewaySocket, rlimit::RlimitPlan};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The protocol version. It changes whenever a message changes.
pub const VERSION: u16 = 4;

/// Length of a frame's head, in bytes.
pub const HEAD: usize = 5;

/// Maximum size of a frame to a supervisor, in bytes. Linux limits argv and environment to about 2 MiB together (`execve(2)`).
pub const MAX_REQUEST: usize = 4 << 20;

/// Maximum size of a frame from a supervisor, in bytes.
pub const MAX_EVENT: usize = 64 << 10;

/// Maximum number of descriptors attached to one frame.
pub const MAX_FDS: usize = 64;

/// Messages from the library to a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start a command. Descriptors: stdin, stdout, stderr; with a terminal, only stdin, or none if stdin is the terminal. With
    /// [`SpawnRequest::own_image`], the last descriptor is the program.
    Exec(SpawnRequest),
    /// Send a signal to the process group of an exec's leader.
    Signal {
        /// The exec.
        id: u32,
        /// The signal.
        signal: i32,
    },
    /// Kill the whole process tree of an exec.
    End {
        /// The exec.
        id: u32,
    },
    /// Open a file inside the sandbox; the reply carries its descriptor.
    Open {
        /// Chosen by the caller; repeated in the event.
        id: u32,
        /// Absolute path.
        path: Vec<u8>,
        /// True to create or truncate the file for writing.
        write: bool,
    },
    /// Create an unbound TCP or UDP socket in the network namespace of the sandbox; the reply carries its descriptor. The library
    /// binds or connects the socket: it owns the user namespace of the sandbox, so it may bind privileged ports, and the
    /// supervisor keeps no capability for that.
    Socket {
        /// Chosen by the caller; repeated in the event.
        id: u32,
        /// True for IPv6, false for IPv4.
        v6: bool,
        /// True for UDP, false for TCP.
        udp: bool,
    },
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// Chosen by the caller; identifies the exec in all later messages.
    pub id: u32,
    /// Program and arguments, without NUL bytes.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, without NUL bytes.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Rows and columns of a new terminal; `None` for no terminal.
    pub pty: Option<(u16, u16)>,
    /// Limits of the command.
    pub rlimits: RlimitPlan,
    /// Milliseconds after which the supervisor ends the command by itself: the wall-clock limit, plus the grace period, plus one
    /// second. The library enforces the limit earlier unless it is stopped.
    pub wall_ms: Option<u64>,
    /// If true, execute the file behind a further descriptor instead of the program named by `argv[0]`.
    pub own_image: bool,
}

/// Resources that an exec's reaped processes used, as counted by the kernel (`getrusage(2)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecUsage {
    /// Microseconds in user mode.
    pub user_us: u64,
    /// Microseconds in the kernel.
    pub system_us: u64,
    /// Largest resident set size of a single process, in KiB.
    pub max_rss_kib: u64,
}

impl ExecUsage {
    /// Adds the usage of other processes. The sums saturate, because a supervisor may report any figures.
    pub fn add(&mut self, other: Self) {
        self.user_us = self.user_us.saturating_add(other.user_us);
        self.system_us = self.system_us.saturating_add(other.system_us);
        self.max_rss_kib = self.max_rss_kib.max(other.max_rss_kib);
    }
}

/// Messages from a supervisor to the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first event: every control is applied, or an error. After an error, nothing of the sandbox remains. Descriptors: a
    /// pidfd of the supervisor, then one for each entry of `watches`, then one for each entry of `sockets`.
    Hello {
        /// [`VERSION`] of the supervisor.
        version: u16,
        /// The reports of all controls, or the error that ended the sandbox.
        controls: Result<Vec<ControlReport>, ControlError>,
        /// The kinds of the descriptors after the first.
        watches: Vec<WatchKind>,
        /// The kinds of the descriptors that follow those of `watches`. The supervisor keeps no copy of them.
        sockets: Vec<GatewaySocket>,
        /// Host user and group that must own a command's pipes so that the command can open the pipes by name; `None` for the
        /// library's.
        owner: Option<(u32, u32)>,
    },
    /// The terminal of an exec. Descriptor: the master side.
    Terminal {
        /// The exec.
        id: u32,
    },
    /// The leader has ended, and the rest of its tree is gone.
    Ended {
        /// The exec.
        id: u32,
        /// The leader's wait status (`waitpid(2)`).
        status: i32,
        /// Resources that the exec used.
        usage: ExecUsage,
        /// True if the process limit was reached while the exec ran.
        process_limit: bool,
    },
    /// The command could not be started.
    SpawnFailed {
        /// The exec.
        id: u32,
        /// The error.
        errno: i32,
        /// The step that failed.
        step: SpawnStep,
    },
    /// The reply to [`Request::Open`] and [`Request::Socket`]: a descriptor, or an errno.
    Opened {
        /// The id of the request.
        id: u32,
        /// 0 for success.
        errno: i32,
    },
}

/// Steps of starting a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnStep {
    /// Creating the process or its terminal.
    Fork,
    /// Setting the limits.
    Rlimits,
    /// Changing the working directory.
    Chdir,
    /// Executing the program.
    Exec,
}

/// Messages from the library to the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Create a sandbox. The descriptor is the supervisor's end of its channel; the reply comes over that channel.
    Create {
        /// Chosen by the caller; identifies the sandbox in all later messages.
        id: u32,
        /// The plan of the sandbox.
        plan: Box<SandboxPlan>,
    },
    /// Start the first process of the next sandbox before its plan is known. The launcher sends no reply. If this process does
    /// not suit the plan of the next sandbox, the launcher starts another one for that sandbox and keeps this one.
    Prepare(ExpectedPlan),
    /// End a sandbox and remove everything that belonged to it.
    Destroy {
        /// The sandbox.
        id: u32,
        /// If true, the launcher reports the end. An order for which no caller waits sets false: the library would discard the
        /// report.
        report: bool,
    },
    /// Freeze or thaw all processes of a sandbox.
    Freeze {
        /// The sandbox.
        id: u32,
        /// True to freeze, false to thaw.
        frozen: bool,
    },
}

/// Messages from the launcher to the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// [`Order::Freeze`] has ended.
    Frozen {
        /// The sandbox.
        id: u32,
        /// The error, if the order failed.
        error: Option<ControlError>,
    },
    /// A sandbox was destroyed, as an [`Order::Destroy`] with `report` requested.
    Destroyed {
        /// The sandbox.
        id: u32,
        /// The error, if something could not be removed.
        error: Option<ControlError>,
    },
}

/// Reasons to reject a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is over the limit for this direction.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The length in the frame's head.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The frame announces more descriptors than allowed.
    #[error("frame with {0} file descriptors is over the limit of {MAX_FDS}")]
    TooManyFds(usize),
    /// The bytes are not a valid message.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// Encodes a message as a frame.
///
/// # Errors
/// [`FrameError::TooLong`] for a message over [`MAX_REQUEST`], [`FrameError::TooManyFds`] for more than 255 descriptors.
/// A receiver accepts at most [`MAX_FDS`].
pub fn encode<M: Serialize>(message: &M, fds: usize) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_allocvec(message).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let too_long = || FrameError::TooLong { length: body.len(), limit: MAX_REQUEST };
    let length = u32::try_from(body.len()).map_err(|_| too_long())?;
    if body.len() > MAX_REQUEST {
        return Err(too_long());
    }
    let count = u8::try_from(fds).map_err(|_| FrameError::TooManyFds(fds))?;
    let mut frame = Vec::with_capacity(HEAD + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(count);
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Decodes one message at the start of `bytes`. Returns the message, its number of descriptors, and the length of its frame;
/// `None` while the frame is incomplete.
///
/// # Errors
/// The [`FrameError`] for which the frame is rejected.
pub fn decode<M: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<Option<(M, usize, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let Some((count, rest)) = rest.split_first() else { return Ok(None) };
    let fds = usize::from(*count);
    if fds > MAX_FDS {
        return Err(FrameError::TooManyFds(fds));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (message, unused) = postcard::take_from_bytes(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
    if !unused.is_empty() {
        return Err(FrameError::Malformed(format!("{} bytes follow the message", unused.len())));
    }
    Ok(Some((message, fds, HEAD + length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)
    }

    fn request() -> impl Strategy<Value = Request> {
        let rlimits = any::<Option<u64>>().prop_map(|limit| RlimitPlan { open_files: limit, ..RlimitPlan::default() });
        let exec =
            (any::<u32>(), strings(), strings(), prop::collection::vec(any::<u8>(), 0..20), any::<Option<(u16, u16)>>(), rlimits)
                .prop_map(|(id, argv, env, cwd, pty, rlimits)| SpawnRequest {
                    id,
                    argv,
                    env,
                    cwd,
                    pty,
                    rlimits,
                    wall_ms: None,
                    own_image: false,
                });
        prop_oneof![
            exec.prop_map(Request::Exec),
            (any::<u32>(), any::<i32>()).prop_map(|(id, signal)| Request::Signal { id, signal }),
            any::<u32>().prop_map(|id| Request::End { id }),
            (any::<u32>(), prop::collection::vec(any::<u8>(), 0..99), any::<bool>())
                .prop_map(|(id, path, write)| Request::Open { id, path, write }),
            (any::<u32>(), any::<bool>(), any::<bool>()).prop_map(|(id, v6, udp)| Request::Socket { id, v6, udp }),
        ]
    }

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    /// The seeds of the fuzz target `decode`.
    #[test]
    fn fuzz_seeds_are_accepted_in_full() {
        let requests = [
            encode(&Request::Signal { id: 1, signal: 15 }, 0).unwrap(),
            encode(&Request::Open { id: 2, path: b"/etc/hostname".to_vec(), write: false }, 1).unwrap(),
        ];
        let mut bytes = &requests.concat()[..];
        for _ in &requests {
            let (_, _, length) = decode::<Request>(bytes, MAX_REQUEST).unwrap().unwrap();
            bytes = &bytes[length..];
        }
        assert!(bytes.is_empty());
        keep_seed("decode", "requests", &requests.concat());
        keep_seed("decode", "event", &encode(&Event::Opened { id: 2, errno: 0 }, 1).unwrap());
    }

    #[test]
    fn frame_over_limits_is_refused_from_its_head() {
        let head = |length: u32, fds: u8| [&length.to_le_bytes()[..], &[fds]].concat();
        let too_long = u32::try_from(MAX_EVENT + 1).unwrap();
        assert!(matches!(decode::<Event>(&head(too_long, 0), MAX_EVENT), Err(FrameError::TooLong { .. })));
        assert!(matches!(decode::<Event>(&head(4, 65), MAX_EVENT), Err(FrameError::TooManyFds(65))));
        let long = Request::Open { id: 1, path: vec![0; MAX_REQUEST], write: false };
        assert!(matches!(encode(&long, 0), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn encoded_frame_decodes_and_its_prefixes_are_incomplete(
            request in request(),
            fds in 0..=MAX_FDS,
            rest in any::<[u8; 3]>(),
        ) {
            let frame = encode(&request, fds).unwrap();
            for end in 0..frame.len() {
                prop_assert_eq!(decode::<Request>(&frame[..end], MAX_REQUEST), Ok(None));
            }
            let more = [&frame[..], &rest].concat();
            prop_assert_eq!(decode(&more, MAX_REQUEST), Ok(Some((request, fds, frame.len()))));
        }

        #[test]
        fn decode_of_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode::<Event>(&bytes, MAX_EVENT).ok();
            decode::<Request>(&bytes, MAX_REQUEST).ok();
            // The same bytes as the body of a complete frame.
            let framed = [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &[0], &bytes].concat();
            decode::<Event>(&framed, MAX_EVENT).ok();
            decode::<Request>(&framed, MAX_REQUEST).ok();
        }
    }
}
