//! The guest's side of copies: the copy itself, and the state of it that the host knows.

use super::{
    error::{CopyError, ErrnoContext},
    receive::Receiver,
    scan::{self, STEP, Scan, SyncRoot},
    send::Sender,
};
use agentd_core::IsolationError;
use rustix::fs::{Mode, OFlags};
use std::{fs, io, path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The number of bytes that are read at a time.
const CHUNK: usize = 128 << 10;

/// A copy of granted files.
pub(in super::super) struct GuestCopy {
    root: Arc<SyncRoot>,
    /// The state that the host has.
    known: Scan,
    /// The state that the host has if it applied the changes that were sent last.
    sent: Option<Scan>,
}

impl GuestCopy {
    /// Recreates the directory `place`, and fills it with the entries that the host sends. With `changes`, remembers the state,
    /// so that later changes can be found.
    pub async fn fill(place: &Path, changes: bool, from: &mut (impl AsyncRead + Unpin)) -> Result<Self, IsolationError> {
        let root = Arc::new(make(place).map_err(|error| error.into_isolation("create the directory of a copy"))?);
        // The host may create any file here.
        let mut receiver = Receiver::new(root.clone(), Box::new(|_, _| true), u64::MAX);
        let mut chunk = vec![0; CHUNK];
        while !receiver.is_ended() {
            let read = from
                .read(&mut chunk)
                .await
                .and_then(|read| if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) });
            let read = read.map_err(|source| IsolationError::Io { context: "receive the granted files".to_owned(), source })?;
            receiver.push(&chunk[..read]).map_err(|error| error.into_isolation("receive the granted files"))?;
        }
        receiver.finish().map_err(|error| error.into_isolation("receive the granted files"))?;
        let mut known = Scan::new();
        if changes {
            // A file written a moment ago would look changed.
            tokio::time::sleep(Duration::from_nanos(2 * STEP)).await;
            known = scan::scan(&root).map_err(|error| error.into_isolation("scan the granted files"))?;
        }
        Ok(Self { root, known, sent: None })
    }

    /// Returns a sender of the sandbox's changes since the state that the host has. `taken` is true if the host applied the
    /// changes that were sent last. While a command runs, dirty pages are first written to disk. Only then does the next write
    /// through a mapping update the file's time.
    pub fn changes(&mut self, taken: bool, running: bool) -> Result<Sender, IsolationError> {
        let looked = |error: CopyError| error.into_isolation("find the changes of the granted files");
        if running {
            let directory =
                super::tree::directory(&self.root.directory, Path::new(".")).during("open", Path::new(".")).map_err(looked)?;
            rustix::fs::syncfs(&directory).during("syncfs", Path::new(".")).map_err(looked)?;
        }
        match self.sent.take() {
            Some(sent) if taken => self.known = sent,
            _ => {}
        }
        let now = scan::scan(&self.root).map_err(looked)?;
        let steps = scan::steps(&self.known, &now);
        self.sent = Some(now);
        Ok(Sender::new(self.root.clone(), steps))
    }
}

fn make(place: &Path) -> Result<SyncRoot, CopyError> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("remove", place),
        _ => {}
    }
    fs::create_dir_all(place).during("create", place)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(place, flags, Mode::empty()).during("open", place)?;
    Ok(SyncRoot { directory, only: None })
}
