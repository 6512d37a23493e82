//! The host's side: what is granted, opened once, so that nothing that is renamed later leads elsewhere; and the threads that read and change
//! it with the rights of whoever owns it.

use super::{
    entry::What,
    error::{At, CopyError},
    plan::{self, Copied, Rules},
    send::Sender,
    survey::{self, Kind, Root, Survey},
    take::Taker,
    tree::Name,
};
use crate::{
    grants,
    guest::{
        carrier,
        frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
        protocol::{self, Attaching, FromGuest, ToGuest},
    },
};
use agentd_core::{Grant, IsolationError};
use agentd_kernel::errand;
use agentd_supervisor::protocol::MAX_FDS;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{Mutex, MutexGuard, mpsc, oneshot},
    time::timeout,
};

/// Pieces that wait to be carried.
const WAITING: usize = 4;

/// How long a guest may take to take a piece, or to answer that it has taken all: an emulated one is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is granted to a sandbox, as it is copied.
#[derive(Debug)]
pub struct Copies {
    all: Vec<Open>,
    granted: Vec<Grant>,
    rules: Rules,
    most: u64,
}

/// A copied directory.
#[derive(Debug)]
struct Open {
    copied: Copied,
    root: Arc<Root>,
    place: PathBuf,
    /// Whether the guest's last changes were all taken; locked while some are.
    taken: Mutex<bool>,
}

impl Copies {
    /// Those of `grants`, which are to be copied into the directory `below` of the guest. None when nothing is granted. `most` is how many
    /// bytes may be copied, each time and either way.
    ///
    /// # Errors
    /// Grants that cannot be; more files or bytes than may be copied.
    pub async fn plan(grants: &[Grant], below: &Path, most: u64) -> Result<Option<Arc<Self>>, IsolationError> {
        if grants.is_empty() {
            return Ok(None);
        }
        let resolved = grants::resolve(grants, MAX_FDS - 1)?;
        let (copied, places) = plan::copied(&resolved, |path| !path.is_dir());
        let mut all = Vec::new();
        for (number, copied) in copied.into_iter().enumerate() {
            let root = open(&copied).map_err(|error| error.meet("open what is granted"))?;
            all.push(Open { copied, root: Arc::new(root), place: below.join(number.to_string()), taken: Mutex::new(true) });
        }
        let placed: Vec<_> = places.iter().map(|number| (all[*number].place.clone(), &all[*number].copied)).collect();
        let granted = plan::inside(&resolved, &placed);
        let copies = Self { granted, rules: Rules::new(&resolved, is_there), all, most };
        copies.measure().await?;
        Ok(Some(Arc::new(copies)))
    }

    /// What the guest's sandbox is granted: the copies, each where the grant is to be seen.
    pub fn granted(&self) -> Vec<Grant> {
        self.granted.clone()
    }

    /// Whether anything can come back.
    pub(in super::super) fn bring_back(&self) -> bool {
        self.all.iter().any(|open| open.copied.writable)
    }

    async fn measure(&self) -> Result<(), IsolationError> {
        let mut sum = 0u64;
        for open in &self.all {
            let found = open.survey().await?;
            // Holes count, and a file may be all hole.
            sum = found.values().filter(|stamp| stamp.kind == Kind::File).fold(sum, |sum, stamp| sum.saturating_add(stamp.size));
        }
        if sum > self.most {
            return Err(CopyError::TooMuch { what: "bytes", most: self.most }.meet("copy what is granted into the machine"));
        }
        Ok(())
    }

    /// How many copies there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Fills the copy of this number over a carrier to an agent that has no sandbox yet. One that was filled is filled anew.
    ///
    /// # Errors
    /// [`IsolationError::Lost`] with a guest that is not there any more; what hinders either side.
    pub async fn fill<C>(&self, number: usize, mut carrier: C) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(open) = self.all.get(number) else { return Ok(()) };
        let lost = |error: std::io::Error| IsolationError::Lost(format!("guest: {error}"));
        let (mut reader, mut writer) = tokio::io::split(&mut carrier);
        carrier::greet(&mut reader, &mut writer).await.map_err(lost)?;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let attaching = Attaching::Fill { number, place: protocol::bytes(&open.place), changes: open.copied.writable };
        carrier::say(&mut writer, &ToGuest::Attach(attaching), MAX_TO_GUEST).await.map_err(lost)?;
        let mut pieces = open.send()?;
        let sent = async {
            while let Some(piece) = pieces.recv().await {
                let piece = piece.map_err(|error| error.meet("copy what is granted into the machine"))?;
                timeout(PATIENCE, writer.write_all(&piece)).await.map_err(std::io::Error::from).and_then(|w| w).map_err(lost)?;
            }
            writer.flush().await.map_err(lost)
        };
        let answer = carrier::hear(&mut reader, MAX_FROM_GUEST);
        tokio::pin!(answer);
        let answer = tokio::select! {
            // It says something before it has all: why it cannot take it.
            answer = &mut answer => answer.map_err(lost)?,
            sent = sent => {
                sent?;
                timeout(PATIENCE, answer).await.map_err(std::io::Error::from).and_then(|answer| answer).map_err(lost)?
            }
        };
        match answer {
            FromGuest::Attached(Ok(_)) => Ok(()),
            FromGuest::Attached(Err(failure)) => Err(failure.into_error("grants")),
            _ => Err(IsolationError::Lost("guest: it said something else about what it was given".to_owned())),
        }
    }

    /// Those that changes come back to.
    pub(in super::super) fn writable(&self) -> impl Iterator<Item = (u32, Return<'_>)> {
        let back = |(number, open)| (u32::try_from(number).unwrap_or(u32::MAX), Return { copies: self, open });
        self.all.iter().enumerate().filter(|(_, open)| open.copied.writable).map(back)
    }
}

impl Open {
    async fn survey(&self) -> Result<Survey, IsolationError> {
        let (tell, told) = oneshot::channel();
        let root = self.root.clone();
        errand(self.copied.owner, move |became| {
            // Nobody need be waiting.
            tell.send(became.and_then(|()| survey::survey(&root))).ok();
        })?;
        let found = told.await.map_err(|_| IsolationError::Lost("a thread that read what is granted".to_owned()))?;
        found.map_err(|error| error.meet("read what is granted"))
    }

    /// All of it, in pieces.
    fn send(&self) -> Result<mpsc::Receiver<Result<Vec<u8>, CopyError>>, IsolationError> {
        let (pieces, carried) = mpsc::channel(WAITING);
        let root = self.root.clone();
        errand(self.copied.owner, move |became| {
            let all = became.and_then(|()| survey::survey(&root)).map(|now| survey::steps(&Survey::new(), &now));
            let mut sender = match all {
                Ok(steps) => Sender::new(root, steps),
                // Nobody need be waiting.
                Err(error) => return drop(pieces.blocking_send(Err(error))),
            };
            while let Some(piece) = sender.next().transpose() {
                let failed = piece.is_err();
                if pieces.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(carried)
    }
}

/// The way back of a copy.
pub(in super::super) struct Return<'a> {
    copies: &'a Copies,
    open: &'a Open,
}

/// Where pieces go that come back.
pub(in super::super) struct Taking {
    pieces: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<Result<(), CopyError>>,
}

impl Return<'_> {
    /// Whether what came last was all taken; only one at a time comes.
    pub async fn taken(&self) -> MutexGuard<'_, bool> {
        self.open.taken.lock().await
    }

    /// Begins to take what comes.
    pub fn take(&self) -> Result<Taking, IsolationError> {
        let (root, directory) = (self.open.root.clone(), self.open.copied.directory.clone());
        let (rules, most) = (self.copies.rules.clone(), self.copies.most);
        let (pieces, mut come) = mpsc::channel::<Vec<u8>>(WAITING);
        let (tell, done) = oneshot::channel();
        errand(self.open.copied.owner, move |became| {
            let allow = Box::new(move |name: &Name, what: &What| rules.allow(&directory.join(name.path()), what));
            let took = became.and_then(|()| take_all(Taker::new(root, allow, most), &mut come));
            drop(come);
            // Nobody need be waiting.
            tell.send(took).ok();
        })?;
        Ok(Taking { pieces, done })
    }
}

impl Taking {
    /// Takes a piece; not when no more is wanted.
    pub async fn piece(&self, piece: Vec<u8>) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until all is done. Whether it went wrong because the guest does not keep to the protocol is told beside the error.
    pub async fn finish(self) -> Result<(), (IsolationError, bool)> {
        drop(self.pieces);
        match self.done.await {
            Ok(done) => done.map_err(|error| {
                let hostile = error.is_hostile();
                (error.meet("bring back what was changed of what is granted"), hostile)
            }),
            Err(_) => Err((IsolationError::Lost("a thread that changed what is granted".to_owned()), false)),
        }
    }
}

fn take_all(mut taker: Taker, come: &mut mpsc::Receiver<Vec<u8>>) -> Result<(), CopyError> {
    while let Some(piece) = come.blocking_recv() {
        taker.push(&piece)?;
    }
    taker.finish()
}

fn errand(owner: (u32, u32), work: impl FnOnce(Result<(), CopyError>) + Send + 'static) -> Result<(), IsolationError> {
    let become_owner = |became: Result<(), Errno>| became.at("become the owner of", Path::new("what is granted"));
    errand::start(owner, move |became| work(become_owner(became)))
        .map(drop)
        .map_err(|source| IsolationError::Io { context: "start a thread".to_owned(), source })
}

fn open(copied: &Copied) -> Result<Root, CopyError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = &copied.directory;
    let resolve = ResolveFlags::NO_SYMLINKS;
    let directory = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve).at("open", path)?;
    let only = copied.only.as_ref().map(|only| Name::parse(only.as_encoded_bytes())).transpose()?;
    Ok(Root { directory, only })
}

/// Whether something that can be protected is there: what is a link, or is behind one, cannot.
fn is_there(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    opened.and_then(rustix::fs::fstat).is_ok_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_symlink())
}
