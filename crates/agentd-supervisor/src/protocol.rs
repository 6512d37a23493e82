//! The messages between library, launcher and supervisor. One protocol for two carriers: over a Unix socket descriptors travel
//! beside the frames; a carrier without descriptors (vsock) would multiplex the streams instead.
//!
//! A frame is a little-endian `u32` length, a `u8` count of descriptors, and that many bytes of a postcard-encoded message.
//! What comes from a supervisor is untrusted: [`decode`] is bounded by the frame and never panics.

use crate::plan::SandboxPlan;
use agentd_core::{LayerError, LayerReport};
use agentd_kernel::{cgroup::WatchKind, rlimit::RlimitPlan};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Changes whenever a message changes.
pub const VERSION: u16 = 1;

/// Bytes of a frame's head.
pub const HEAD: usize = 5;

/// The largest frame towards a supervisor: Linux limits argv and environment to about 2 MiB together (`execve(2)`).
pub const MAX_REQUEST: usize = 4 << 20;

/// The largest frame from a supervisor.
pub const MAX_EVENT: usize = 64 << 10;

/// The most descriptors beside one frame.
pub const MAX_FDS: usize = 64;

/// Library to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start a command. Descriptors: stdin, stdout, stderr; none with a terminal.
    Exec(Exec),
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
    /// Open a file inside; the descriptor comes back.
    Open {
        /// Chosen by the caller; comes back in the event.
        id: u32,
        /// Absolute path.
        path: Vec<u8>,
        /// Whether to create or truncate it for writing.
        write: bool,
    },
}

/// A command to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Chosen by the caller; names the exec from then on.
    pub id: u32,
    /// Program and arguments, without NUL bytes.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, without NUL bytes.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Rows and columns, for a terminal of its own.
    pub pty: Option<(u16, u16)>,
    /// Limits of the command.
    pub rlimits: RlimitPlan,
    /// Milliseconds after which the supervisor ends it by itself: a little more than its wall-clock limit, which the library holds
    /// unless it is stopped.
    pub wall_ms: Option<u64>,
    /// Execute the file behind a further descriptor instead of one named by `argv[0]`.
    pub own_image: bool,
}

/// What the kernel counted for an exec's reaped processes (`getrusage(2)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecUsage {
    /// Microseconds in user mode.
    pub user_us: u64,
    /// Microseconds in the kernel.
    pub system_us: u64,
    /// Largest resident size of one process, KiB.
    pub max_rss_kib: u64,
}

impl ExecUsage {
    /// Adds what others used. A supervisor may say any figures: no sum of them overflows.
    pub fn add(&mut self, other: Self) {
        self.user_us = self.user_us.saturating_add(other.user_us);
        self.system_us = self.system_us.saturating_add(other.system_us);
        self.max_rss_kib = self.max_rss_kib.max(other.max_rss_kib);
    }
}

/// Supervisor to library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first event: every layer is applied, or why not; in the latter case nothing is left of the sandbox. Descriptors: a pidfd
    /// of the supervisor, then one per entry of `watches`.
    Hello {
        /// [`VERSION`] of the supervisor.
        version: u16,
        /// What became of each layer.
        layers: Result<Vec<LayerReport>, LayerError>,
        /// What the descriptors after the first are.
        watches: Vec<WatchKind>,
        /// Host user and group that the commands' pipes must belong to, for them to open these by name; `None` for the library's.
        owner: Option<(u32, u32)>,
    },
    /// The terminal of an exec; its master side is the descriptor.
    Terminal {
        /// The exec.
        id: u32,
    },
    /// The leader ended and the rest of its tree is gone.
    Ended {
        /// The exec.
        id: u32,
        /// The leader's wait status (`waitpid(2)`).
        status: i32,
        /// Its usage.
        usage: ExecUsage,
        /// Whether the process limit was seen exceeded while it ran.
        process_limit: bool,
    },
    /// The command could not be started.
    SpawnFailed {
        /// The exec.
        id: u32,
        /// Why.
        errno: i32,
        /// At which step.
        step: SpawnStep,
    },
    /// The answer to [`Request::Open`]: a descriptor, or an errno.
    Opened {
        /// As in the request.
        id: u32,
        /// 0 for success.
        errno: i32,
    },
}

/// Steps between fork and exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnStep {
    /// Making the process or its terminal.
    Fork,
    /// Limits.
    Rlimits,
    /// The working directory.
    Chdir,
    /// The program itself.
    Exec,
}

/// Library to launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Make a sandbox. The descriptor is the supervisor's end of its channel; the answer comes over that.
    Create {
        /// Chosen by the caller; names the sandbox from then on.
        id: u32,
        /// What it will be.
        plan: Box<SandboxPlan>,
    },
    /// End a sandbox and remove what it had.
    Destroy {
        /// The sandbox.
        id: u32,
        /// Whether to report it. Reports that nobody reads would fill the socket, and a launcher that waits for room serves nobody.
        report: bool,
    },
    /// Stop all processes of a sandbox, or let them go on.
    Freeze {
        /// The sandbox.
        id: u32,
        /// Whether to stop them.
        frozen: bool,
    },
}

/// Launcher to library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// [`Order::Freeze`] is done, or why not.
    Frozen {
        /// The sandbox.
        id: u32,
        /// Why not.
        error: Option<LayerError>,
    },
    /// Ordered destruction is complete.
    Destroyed {
        /// The sandbox.
        id: u32,
        /// What could not be removed.
        error: Option<LayerError>,
    },
}

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Its length is over the limit of its direction.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// As stated by the frame.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// It states more descriptors than may come.
    #[error("frame with {0} descriptors")]
    TooManyFds(usize),
    /// Its bytes are not a message.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// A frame's bytes.
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

/// Takes one message from the head of `bytes`: the message, its number of descriptors, and the bytes it took; `None` while it is
/// incomplete.
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
        return Err(FrameError::Malformed(format!("{} bytes too many", unused.len())));
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
                .prop_map(|(id, argv, env, cwd, pty, rlimits)| Exec {
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
        ]
    }

    #[test]
    fn frames_over_the_limits_are_refused_before_they_have_come() {
        let head = |length: u32, fds: u8| [&length.to_le_bytes()[..], &[fds]].concat();
        let too_long = u32::try_from(MAX_EVENT + 1).unwrap();
        assert!(matches!(decode::<Event>(&head(too_long, 0), MAX_EVENT), Err(FrameError::TooLong { .. })));
        assert!(matches!(decode::<Event>(&head(4, 65), MAX_EVENT), Err(FrameError::TooManyFds(65))));
        let long = Request::Open { id: 1, path: vec![0; MAX_REQUEST], write: false };
        assert!(matches!(encode(&long, 0), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_every_part_of_it_is_incomplete(request in request(), fds in 0..=MAX_FDS, rest in any::<[u8; 3]>()) {
            let frame = encode(&request, fds).unwrap();
            for end in 0..frame.len() {
                prop_assert_eq!(decode::<Request>(&frame[..end], MAX_REQUEST), Ok(None));
            }
            let more = [&frame[..], &rest].concat();
            prop_assert_eq!(decode(&more, MAX_REQUEST), Ok(Some((request, fds, frame.len()))));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode::<Event>(&bytes, MAX_EVENT).ok();
            decode::<Request>(&bytes, MAX_REQUEST).ok();
            // And as the body of a frame that is whole.
            let framed = [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &[0], &bytes].concat();
            decode::<Event>(&framed, MAX_EVENT).ok();
            decode::<Request>(&framed, MAX_REQUEST).ok();
        }
    }
}
