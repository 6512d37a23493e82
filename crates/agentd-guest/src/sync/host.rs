//! The host's side of copies. Granted directories are opened once, so that a later rename cannot redirect a copy. Threads with
//! the rights of the owner read and change them.

use super::{
    entry::Content,
    error::{CopyError, ErrnoContext},
    plan::{self, Copied, Rules},
    receive::Receiver,
    scan::{self, FileKind, Scan, SyncRoot},
    send::Sender,
    tree::RelativeName,
};
use crate::{
    frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
    protocol::{self, AttachRequest, FromGuest, ToGuest},
    transport,
};
use agentd_core::{ControlError, Grant, IsolationError};
use agentd_isolation::{blocking::blocking, grants};
use agentd_kernel::{object, run_as};
use agentd_log::LogFailure as _;
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

/// The number of pieces that may be queued between the threads and the transport.
const MAX_QUEUED: usize = 4;

/// Timeout of a guest that receives a piece, or answers after the last one. Emulated guests are slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The grants of a sandbox, as they are copied into its machine.
#[derive(Debug)]
pub struct Copies {
    all: Vec<OpenCopy>,
    granted: Vec<Grant>,
    rules: Rules,
    max: u64,
}

/// A granted directory that was opened, and is copied into the machine.
#[derive(Debug)]
struct OpenCopy {
    copied: Copied,
    root: Arc<SyncRoot>,
    place: PathBuf,
    /// True if the guest's last changes were all applied. Locked while changes are received.
    taken: Mutex<bool>,
    /// Locked by the thread that applies changes. The thread may outlive an aborted transfer.
    applying: Arc<Mutex<()>>,
}

impl Copies {
    /// Plans the copies of `grants` into the directory `below` of the guest. Returns `None` when nothing is granted. `max`
    /// limits the bytes of each transfer, in either direction.
    ///
    /// # Errors
    /// Returns an error for grants that cannot be resolved or opened, and for more files or bytes than may be copied.
    pub async fn plan(grants: &[Grant], below: &Path, max: u64) -> Result<Option<Arc<Self>>, IsolationError> {
        if grants.is_empty() {
            return Ok(None);
        }
        let (grants, below) = (grants.to_vec(), below.to_path_buf());
        let copies = blocking(move || Self::open(&grants, &below, max)).await?;
        copies.measure().await?;
        Ok(Some(Arc::new(copies)))
    }

    /// Resolves and opens `grants`. May block on disk I/O.
    fn open(grants: &[Grant], below: &Path, max: u64) -> Result<Self, IsolationError> {
        let resolved = grants::resolve(grants, MAX_FDS - 1)?;
        let (copied, places) = plan::copied(&resolved, |path| !path.is_dir());
        let mut all = Vec::new();
        for (number, copied) in copied.into_iter().enumerate() {
            let root = open(&copied)?;
            all.push(OpenCopy {
                copied,
                root: Arc::new(root),
                place: below.join(number.to_string()),
                taken: Mutex::new(true),
                applying: Arc::default(),
            });
        }
        let placed: Vec<_> = places.iter().map(|number| (all[*number].place.clone(), &all[*number].copied)).collect();
        let granted = plan::inside(&resolved, &placed);
        Ok(Self { granted, rules: Rules::new(&resolved, is_there), all, max })
    }

    /// Returns the grants of the guest's sandbox: the copies, each with the target of the original grant.
    pub fn granted(&self) -> Vec<Grant> {
        self.granted.clone()
    }

    /// Returns true if the changes of at least one grant are copied back.
    pub(in super::super) fn has_writable(&self) -> bool {
        self.all.iter().any(|open| open.copied.writable)
    }

    async fn measure(&self) -> Result<(), IsolationError> {
        let mut sum = 0u64;
        for open in &self.all {
            let found = open.scan().await?;
            // Holes of sparse files count. A file may consist of a single hole.
            sum = found
                .values()
                .filter(|stamp| stamp.kind == FileKind::File)
                .fold(sum, |sum, stamp| sum.saturating_add(stamp.size));
        }
        if sum > self.max {
            return Err(
                CopyError::TooMuch { what: "bytes", max: self.max }.into_isolation("copy the granted files into the machine")
            );
        }
        Ok(())
    }

    /// Returns the number of copies.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Fills the copy with this number over a transport to an agent that has no sandbox yet. A copy that was filled before is
    /// replaced.
    ///
    /// # Errors
    /// Returns [`IsolationError::MachineLost`] if the guest does not answer, and the error of reading the files on the host or
    /// writing them in the guest.
    pub async fn fill<C>(&self, number: usize, mut transport: C) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(open) = self.all.get(number) else { return Ok(()) };
        let lost = |error: std::io::Error| IsolationError::MachineLost(error.to_string());
        let (mut reader, mut writer) = tokio::io::split(&mut transport);
        transport::greet(&mut reader, &mut writer).await.map_err(lost)?;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let attaching = AttachRequest::Fill { number, place: protocol::bytes(&open.place), changes: open.copied.writable };
        transport::send(&mut writer, &ToGuest::Attach(attaching), MAX_TO_GUEST).await.map_err(lost)?;
        let mut pieces = open.send()?;
        let sent = async {
            while let Some(piece) = pieces.recv().await {
                let piece = piece.map_err(|error| error.into_isolation("copy the granted files into the machine"))?;
                timeout(TIMEOUT, writer.write_all(&piece)).await.map_err(std::io::Error::from).and_then(|w| w).map_err(lost)?;
            }
            writer.flush().await.map_err(lost)
        };
        let answer = transport::recv(&mut reader, MAX_FROM_GUEST);
        tokio::pin!(answer);
        let answer = tokio::select! {
            // A guest that answers before it has received everything reports why it failed.
            answer = &mut answer => answer.map_err(lost)?,
            sent = sent => {
                sent?;
                timeout(TIMEOUT, answer).await.map_err(std::io::Error::from).and_then(|answer| answer).map_err(lost)?
            }
        };
        match answer {
            FromGuest::Attached(Ok(_)) => Ok(()),
            FromGuest::Attached(Err(failure)) => Err(failure.into_error("grants")),
            _ => Err(IsolationError::MachineLost(
                "the guest's agent sent an unexpected answer to a copy of granted files".to_owned(),
            )),
        }
    }

    /// Returns the copies whose changes are copied back, with their numbers.
    pub(in super::super) fn writable(&self) -> impl Iterator<Item = (u32, ReturnedCopy<'_>)> {
        let back = |(number, open)| (u32::try_from(number).unwrap_or(u32::MAX), ReturnedCopy { copies: self, open });
        self.all.iter().enumerate().filter(|(_, open)| open.copied.writable).map(back)
    }
}

impl OpenCopy {
    async fn scan(&self) -> Result<Scan, IsolationError> {
        let (reply, scanned) = oneshot::channel();
        let root = self.root.clone();
        run_as_owner(self.copied.owner, move |switched| {
            // The receiver may have been dropped.
            reply.send(switched.and_then(|()| scan::scan(&root))).or_unreceived("scan of copied files");
        })?;
        let found = scanned
            .await
            .map_err(|_| IsolationError::Internal("read the granted files: the thread ended without a result".to_owned()))?;
        found.map_err(|error| error.into_isolation("read the granted files"))
    }

    /// Spawns a thread that reads the whole copy. Returns the channel of its pieces.
    fn send(&self) -> Result<mpsc::Receiver<Result<Vec<u8>, CopyError>>, IsolationError> {
        let (pieces, carried) = mpsc::channel(MAX_QUEUED);
        let root = self.root.clone();
        run_as_owner(self.copied.owner, move |switched| {
            let all = switched.and_then(|()| scan::scan(&root)).map(|now| scan::steps(&Scan::new(), &now));
            let mut sender = match all {
                Ok(steps) => Sender::new(root, steps),
                // The receiver may have been dropped.
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

/// A copy whose changes are copied back.
pub(in super::super) struct ReturnedCopy<'a> {
    copies: &'a Copies,
    open: &'a OpenCopy,
}

/// A transfer of changes that is being applied.
pub(in super::super) struct AppliedTransfer {
    pieces: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<Result<(), CopyError>>,
}

impl ReturnedCopy<'_> {
    /// Locks the flag that is true if the last changes were all applied. The lock admits one transfer at a time.
    pub async fn taken(&self) -> MutexGuard<'_, bool> {
        self.open.taken.lock().await
    }

    /// Starts to apply changes. Waits for the thread of an earlier, aborted transfer.
    pub async fn take(&self) -> Result<AppliedTransfer, IsolationError> {
        let applying = self.open.applying.clone().lock_owned().await;
        let (root, directory) = (self.open.root.clone(), self.open.copied.directory.clone());
        let (rules, max) = (self.copies.rules.clone(), self.copies.max);
        let (pieces, mut received) = mpsc::channel::<Vec<u8>>(MAX_QUEUED);
        let (reply, done) = oneshot::channel();
        run_as_owner(self.open.copied.owner, move |switched| {
            let allow = Box::new(move |name: &RelativeName, what: &Content| rules.allow(&directory.join(name.path()), what));
            let applied = switched.and_then(|()| receive_all(Receiver::new(root, allow, max), &mut received));
            drop((received, applying));
            // The receiver may have been dropped.
            reply.send(applied).or_unreceived("end of a copy");
        })?;
        Ok(AppliedTransfer { pieces, done })
    }
}

impl AppliedTransfer {
    /// Applies a piece. Returns false when no more pieces are accepted.
    pub async fn piece(&self, piece: Vec<u8>) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until all changes are applied. The error comes with a flag that is true if the guest violated the protocol.
    pub async fn finish(self) -> Result<(), (IsolationError, bool)> {
        drop(self.pieces);
        match self.done.await {
            Ok(done) => done.map_err(|error| {
                let hostile = error.is_hostile();
                (error.into_isolation("copy the changes back to the granted files"), hostile)
            }),
            Err(_) => {
                Err((IsolationError::Internal("change the granted files: the thread ended without a result".to_owned()), false))
            }
        }
    }
}

fn receive_all(mut receiver: Receiver, received: &mut mpsc::Receiver<Vec<u8>>) -> Result<(), CopyError> {
    while let Some(piece) = received.blocking_recv() {
        receiver.push(&piece)?;
    }
    receiver.finish()
}

fn run_as_owner(owner: (u32, u32), work: impl FnOnce(Result<(), CopyError>) + Send + 'static) -> Result<(), IsolationError> {
    let become_owner = |switched: Result<(), Errno>| switched.during("become the owner of", Path::new("the granted files"));
    run_as::start(owner, move |switched| work(become_owner(switched)))
        .map(drop)
        .map_err(|source| IsolationError::Io { context: "start a thread".to_owned(), source })
}

/// Opens the copied directory, if it is still the granted object.
fn open(copied: &Copied) -> Result<SyncRoot, IsolationError> {
    let of_grant = |error: ControlError| IsolationError::from(error);
    let Some(name) = &copied.only else {
        let directory = object::reopen(&copied.directory, &copied.object).map_err(of_grant)?;
        return Ok(SyncRoot { directory, only: None });
    };
    let path = &copied.directory;
    let only = RelativeName::parse(name.as_encoded_bytes()).map_err(|error| error.into_isolation("open the granted files"))?;
    let directory = object::open(path).during("open", path).map_err(|error| error.into_isolation("open the granted files"))?;
    // From here on the file is identified by its name in this directory, so the name must denote the granted object now.
    object::reopen_in(&directory, path, name, &copied.object).map_err(of_grant)?;
    Ok(SyncRoot { directory, only: Some(only) })
}

/// Returns true if the path exists and can be protected. A symbolic link, or a path through one, cannot be protected.
fn is_there(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    opened.and_then(rustix::fs::fstat).is_ok_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_symlink())
}
