//! Sends what is there, piece by piece.

use super::{
    entry::{END, Entry, What},
    error::{At, CopyError},
    survey::{Kind, Root, Step},
    tree::{self, Name},
};
use agentd_core::IsolationError;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{collections::VecDeque, fs::File, io::Read, sync::Arc};

/// Bytes of a piece, about.
const PIECE: usize = 128 << 10;

/// Sends steps about a copy.
pub(in super::super) struct Sender {
    root: Arc<Root>,
    steps: VecDeque<Step>,
    /// The file that is being sent, and how many bytes of it are still owed.
    file: Option<(File, Name, u64)>,
    ended: bool,
}

impl Sender {
    pub(super) fn new(root: Arc<Root>, steps: Vec<Step>) -> Self {
        Self { root, steps: steps.into(), file: None, ended: false }
    }

    /// As [`Sender::next`], for those who met it elsewhere.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, IsolationError> {
        self.next().map_err(|error| error.meet("send what was changed of what is granted"))
    }

    /// The next piece; `None` after the last one.
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

    /// What is gone since it was seen is left out: the next survey will see that. So is what its user may not read.
    fn step(&mut self, step: Step, to: &mut Vec<u8>) -> Result<(), CopyError> {
        let (name, kind) = match step {
            Step::Gone(name) => return say(&name, What::Nothing, to),
            Step::There(name, kind) => (name, kind),
        };
        let Some(parent) = unless_gone(tree::parent(&self.root.directory, &name)).at("open the directory of", name.path())?
        else {
            return Ok(());
        };
        match kind {
            Kind::Directory => match tree::look(&parent, &name)? {
                Some(stat) if Kind::of(&stat) == Some(kind) => say(&name, What::Directory { mode: stat.st_mode & 0o7777 }, to),
                _ => Ok(()),
            },
            Kind::Link => {
                match unless_gone(rustix::fs::readlinkat(&parent, name.last(), Vec::new())).at("readlink", name.path())? {
                    Some(target) => say(&name, What::Link { to: target.into_bytes() }, to),
                    None => Ok(()),
                }
            }
            Kind::File => {
                // Of a pipe that has taken its place this does not wait for a writer.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let opened = unless_gone(rustix::fs::openat(&parent, name.last(), flags, Mode::empty()));
                let Some(file) = opened.at("open", name.path())? else { return Ok(()) };
                let stat = rustix::fs::fstat(&file).at("stat", name.path())?;
                if Kind::of(&stat) != Some(kind) {
                    return Ok(());
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let modified = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
                say(&name, What::File { mode: stat.st_mode & 0o7777, modified, size }, to)?;
                self.file = Some((file.into(), name, size)).filter(|_| size > 0);
                Ok(())
            }
        }
    }
}

fn say(name: &Name, what: What, to: &mut Vec<u8>) -> Result<(), CopyError> {
    Entry { path: name.bytes().to_vec(), what }.encode(to)
}

fn unless_gone<T>(got: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match got {
        Ok(got) => Ok(Some(got)),
        // The last two: something else is there now.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP | Errno::INVAL | Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sends what fits. A file that is shorter by now is made as long as was said: it has changed, and is sent again.
fn send_some(file: &mut File, name: &Name, owed: &mut u64, to: &mut Vec<u8>) -> Result<(), CopyError> {
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
            Err(error) => return Err(error).at("read", name.path()),
        }
    }
    *owed -= wanted as u64;
    Ok(())
}
