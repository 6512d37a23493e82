//! Sends the changes of a copy, in pieces.

use super::{
    entry::{Content, END, Entry},
    error::{CopyError, ErrnoContext},
    scan::{FileKind, SyncRoot, SyncStep},
    tree::{self, RelativeName},
};
use agentd_core::IsolationError;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{collections::VecDeque, fs::File, io::Read, sync::Arc};

/// The approximate size of a piece, in bytes.
const PIECE: usize = 128 << 10;

/// Reads the content for a list of steps and encodes it.
pub(in super::super) struct Sender {
    root: Arc<SyncRoot>,
    steps: VecDeque<SyncStep>,
    /// The file that is being sent, and the number of bytes still to send.
    file: Option<(File, RelativeName, u64)>,
    ended: bool,
}

impl Sender {
    pub(super) fn new(root: Arc<SyncRoot>, steps: Vec<SyncStep>) -> Self {
        Self { root, steps: steps.into(), file: None, ended: false }
    }

    /// Calls [`Sender::next`] with the error converted for callers outside of this module.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, IsolationError> {
        self.next().map_err(|error| error.into_isolation("send the changes of the granted files"))
    }

    /// Returns the next piece; `None` after the last one.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, CopyError> {
        if self.ended {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(PIECE);
        while piece.len() < PIECE {
            if let Some((file, name, owed)) = &mut self.file {
                send_some(file, name, owed, &mut piece)?;
                if *owed == 0 {
                    self.file = None;
                }
                continue;
            }
            match self.steps.pop_front() {
                Some(step) => self.step(step, &mut piece)?,
                None => {
                    piece.extend_from_slice(&END);
                    self.ended = true;
                    break;
                }
            }
        }
        Ok(Some(piece))
    }

    /// Encodes a step. A path that was removed since the scan is left out; the next scan detects the removal. A path that the
    /// user may not read is also left out.
    fn step(&mut self, step: SyncStep, to: &mut Vec<u8>) -> Result<(), CopyError> {
        let (name, kind) = match step {
            SyncStep::Gone(name) => return encode(&name, Content::Nothing, to),
            SyncStep::There(name, kind) => (name, kind),
        };
        let Some(parent) =
            unless_gone(tree::parent(&self.root.directory, &name)).during("open the parent directory of", name.path())?
        else {
            return Ok(());
        };
        match kind {
            FileKind::Directory => match tree::lstat(&parent, &name)? {
                Some(stat) if FileKind::from_stat(&stat) == Some(kind) => {
                    encode(&name, Content::Directory { mode: stat.st_mode & 0o7777 }, to)
                }
                _ => Ok(()),
            },
            FileKind::Link => {
                match unless_gone(rustix::fs::readlinkat(&parent, name.last(), Vec::new())).during("readlink", name.path())? {
                    Some(target) => encode(&name, Content::Link { to: target.into_bytes() }, to),
                    None => Ok(()),
                }
            }
            FileKind::File => {
                // `O_NONBLOCK`: a pipe that has replaced the file must not block the open.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let opened = unless_gone(rustix::fs::openat(&parent, name.last(), flags, Mode::empty()));
                let Some(file) = opened.during("open", name.path())? else { return Ok(()) };
                let stat = rustix::fs::fstat(&file).during("stat", name.path())?;
                if FileKind::from_stat(&stat) != Some(kind) {
                    return Ok(());
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let modified = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
                encode(&name, Content::File { mode: stat.st_mode & 0o7777, modified, size }, to)?;
                self.file = Some((file.into(), name, size)).filter(|_| size > 0);
                Ok(())
            }
        }
    }
}

fn encode(name: &RelativeName, what: Content, to: &mut Vec<u8>) -> Result<(), CopyError> {
    Entry { path: name.bytes().to_vec(), what }.encode(to)
}

fn unless_gone<T>(got: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match got {
        Ok(got) => Ok(Some(got)),
        // The last two errors mean that the path has been replaced by another kind of file.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP | Errno::INVAL | Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sends as many bytes as fit into the piece. A file that has become shorter is padded with zeros; it has changed, and is sent
/// again by the next transfer.
fn send_some(file: &mut File, name: &RelativeName, owed: &mut u64, to: &mut Vec<u8>) -> Result<(), CopyError> {
    let room = PIECE.saturating_sub(to.len()).max(1);
    let wanted = usize::try_from(*owed).unwrap_or(room).min(room);
    let start = to.len();
    to.resize(start + wanted, 0);
    let mut read = 0;
    while read < wanted {
        match file.read(&mut to[start + read..]) {
            Ok(0) => break,
            Ok(some) => read += some,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).during("read", name.path()),
        }
    }
    *owed -= wanted as u64;
    Ok(())
}
