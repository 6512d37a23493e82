//! The standard streams of a command that has no terminal.

use agentd_core::{ExecStreams, IsolationError, StdinSource};
use rustix::{
    fs::{Gid, Uid, fchown},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

/// Both ends of the streams of a command.
pub(super) struct Stdio {
    /// The caller's ends.
    pub(super) ours: ExecStreams,
    /// The command's end of standard input; `None` for `/dev/null`.
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Returns `/dev/null`, the standard input of commands that have none. It is opened once.
pub(super) fn null() -> Result<BorrowedFd<'static>, IsolationError> {
    static NULL: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(null) = NULL.get() {
        return Ok(null.as_fd());
    }
    let opened = std::fs::File::open("/dev/null");
    let opened = opened.map_err(|source| IsolationError::Io { context: "open /dev/null".to_owned(), source })?;
    Ok(NULL.get_or_init(|| opened.into()).as_fd())
}

impl Stdio {
    /// Opens the streams of a command, with `given` as its standard input if present. The pipes are owned by `owner`, so that the
    /// command may open its ends by name (`/dev/stdout`): both ends of a pipe are the same inode.
    pub(super) fn open(source: &StdinSource, given: Option<OwnedFd>, owner: Option<(u32, u32)>) -> Result<Self, IsolationError> {
        let io =
            |source: Errno| IsolationError::Io { context: "create a pipe for the command".to_owned(), source: source.into() };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(io);
        let own = |fd: &OwnedFd| match owner {
            Some((user, group)) => fchown(fd, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).map_err(io),
            None => Ok(()),
        };
        let (our_stdout, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        own(&stdout)?;
        own(&stderr)?;
        let (stdin, our_stdin) = match (given, source) {
            (Some(given), _) => (Some(given), None),
            (None, StdinSource::Null) => (None, None),
            (None, StdinSource::Bytes(_) | StdinSource::Stream) => {
                let (stdin, our_stdin) = pipe()?;
                own(&stdin)?;
                (Some(stdin), Some(our_stdin))
            }
        };
        let ours = ExecStreams { stdin: our_stdin, stdout: Some(our_stdout), stderr: Some(our_stderr), pty: None };
        Ok(Self { ours, stdin, stdout, stderr })
    }

    /// Returns the command's ends: standard input, output and error.
    pub(super) fn theirs(&self) -> Result<[BorrowedFd<'_>; 3], IsolationError> {
        let stdin = match &self.stdin {
            Some(stdin) => stdin.as_fd(),
            None => null()?,
        };
        Ok([stdin, self.stdout.as_fd(), self.stderr.as_fd()])
    }
}
