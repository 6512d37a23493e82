//! The guest's side: a copy, and what is known of it.

use super::{
    error::{At, CopyError},
    send::Sender,
    survey::{self, Root, STEP, Survey},
    take::Taker,
};
use agentd_core::IsolationError;
use rustix::fs::{Mode, OFlags};
use std::{fs, io, path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at a time.
const CHUNK: usize = 128 << 10;

/// A copy.
pub(in super::super) struct Held {
    root: Arc<Root>,
    /// As the host has it.
    known: Survey,
    /// As the host has it if it could take the changes that it was sent last.
    sent: Option<Survey>,
}

impl Held {
    /// Takes what comes from the host into the directory `place`, which is made anew. Whether it is to be looked for changes later is for
    /// the host to say.
    pub async fn fill(place: &Path, changes: bool, from: &mut (impl AsyncRead + Unpin)) -> Result<Self, IsolationError> {
        let root = Arc::new(make(place).map_err(|error| error.meet("make a place for a copy"))?);
        // The host may do here what it likes.
        let mut taker = Taker::new(root.clone(), Box::new(|_, _| true), u64::MAX);
        let mut chunk = vec![0; CHUNK];
        while !taker.is_ended() {
            let read = from
                .read(&mut chunk)
                .await
                .and_then(|read| if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) });
            let read = read.map_err(|source| IsolationError::Io { context: "take what was granted".to_owned(), source })?;
            taker.push(&chunk[..read]).map_err(|error| error.meet("take what was granted"))?;
        }
        taker.finish().map_err(|error| error.meet("take what was granted"))?;
        let mut known = Survey::new();
        if changes {
            // What was written a moment ago would look as if it had changed.
            tokio::time::sleep(Duration::from_nanos(2 * STEP)).await;
            known = survey::survey(&root).map_err(|error| error.meet("look at what was granted"))?;
        }
        Ok(Self { root, known, sent: None })
    }

    /// What the sandbox has changed since the host took something last: what it was sent last, if it could take that. While something runs,
    /// what it has mapped is written first: a second change through the same mapping gives a file no other time before that.
    pub fn changes(&mut self, taken: bool, running: bool) -> Result<Sender, IsolationError> {
        let looked = |error: CopyError| error.meet("look for changes of what was granted");
        if running {
            let directory =
                super::tree::directory(&self.root.directory, Path::new(".")).at("open", Path::new(".")).map_err(looked)?;
            rustix::fs::syncfs(&directory).at("syncfs", Path::new(".")).map_err(looked)?;
        }
        match self.sent.take() {
            Some(sent) if taken => self.known = sent,
            _ => {}
        }
        let now = survey::survey(&self.root).map_err(looked)?;
        let steps = survey::steps(&self.known, &now);
        self.sent = Some(now);
        Ok(Sender::new(self.root.clone(), steps))
    }
}

fn make(place: &Path) -> Result<Root, CopyError> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("remove", place),
        _ => {}
    }
    fs::create_dir_all(place).at("make", place)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(place, flags, Mode::empty()).at("open", place)?;
    Ok(Root { directory, only: None })
}
