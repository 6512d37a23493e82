//! The guest's side of saving files: a thread brings the file system of the sandbox's root to rest, and lets it go on when the agent is told
//! to, or is no more; or, whatever happens, after [`LONGEST`].
//!
//! The agent's own thread must not wait for that file system meanwhile: it could not be told to let it go on. So it writes no file of the
//! sandbox's then, and closes none, because that may be what removes it.

use agentd_core::IsolationError;
use agentd_kernel::freeze::AtRest;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// How long it rests at most: for as long whoever writes to it waits, and cannot be ended. A disk of some gigabytes is copied in less.
const LONGEST: Duration = Duration::from_secs(30);

/// What comes of resting, or of going on.
pub(super) type Word = oneshot::Receiver<Result<(), IsolationError>>;

/// See the head of this module.
pub(super) struct Freezer {
    root: PathBuf,
    resting: Mutex<Option<Resting>>,
    /// Whether it rests, or is about to.
    rests: Arc<watch::Sender<bool>>,
}

struct Resting {
    /// Tells the thread to let it go on. Dropped, it is told, too.
    go_on: mpsc::Sender<()>,
    /// Whether it has rested until it was told.
    ended: Word,
}

/// Waits while it rests.
#[derive(Clone)]
pub(super) struct Rest(watch::Receiver<bool>);

impl Rest {
    /// Returns when it does not rest; it does not until whoever called this waits for something else, because an agent has one thread.
    pub(super) async fn over(&mut self) {
        // What would tell is gone with the freezer: then it does not rest either.
        self.0.wait_for(|rests| !rests).await.ok();
    }
}

fn refused(reason: &str) -> IsolationError {
    IsolationError::Invalid { what: "rest of the root's file system".to_owned(), reason: reason.to_owned() }
}

impl Freezer {
    /// For the file system of `root`. Whether it rests is told by `rests`.
    pub(super) fn new(root: &Path, rests: Arc<watch::Sender<bool>>) -> Self {
        Self { root: root.to_path_buf(), resting: Mutex::default(), rests }
    }

    fn resting(&self) -> MutexGuard<'_, Option<Resting>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rest(&self) -> Rest {
        Rest(self.rests.subscribe())
    }

    /// Begins to bring it to rest. It never waits; the word comes when it rests.
    pub(super) fn freeze(&self) -> Result<Word, IsolationError> {
        let mut resting = self.resting();
        // One that went on by itself is none any more.
        if resting.as_mut().is_some_and(|resting| matches!(resting.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))) {
            return Err(refused("it rests already"));
        }
        let (root, rests) = (self.root.clone(), self.rests.clone());
        let (go_on, told) = mpsc::channel();
        let (frozen, word) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        // Before the thread is there.
        self.rests.send_replace(true);
        let thread = std::thread::Builder::new().name("freezer".to_owned()).spawn(move || {
            let held = hold(&root, frozen, &told);
            // Before who waits for it goes on, and may ask again.
            ending.send(held).ok();
            rests.send_replace(false);
        });
        if let Err(source) = thread {
            self.rests.send_replace(false);
            return Err(IsolationError::Io { context: "start a thread".to_owned(), source });
        }
        *resting = Some(Resting { go_on, ended });
        Ok(word)
    }

    /// Lets it go on, as soon as it rests. It never waits; the word says whether it has rested until now.
    pub(super) fn thaw(&self) -> Result<Word, IsolationError> {
        let resting = self.resting().take().ok_or_else(|| refused("it does not rest"))?;
        // One whose thread is gone has gone on.
        resting.go_on.send(()).ok();
        Ok(resting.ended)
    }
}

/// Holds the file system at rest until told.
fn hold(
    root: &Path,
    frozen: oneshot::Sender<Result<(), IsolationError>>,
    told: &mpsc::Receiver<()>,
) -> Result<(), IsolationError> {
    let rest = match AtRest::begin(root) {
        Ok(rest) => rest,
        Err(error) => {
            frozen.send(Err(error.into())).ok();
            return Err(refused("it did not come to rest"));
        }
    };
    frozen.send(Ok(())).ok();
    let told = told.recv_timeout(LONGEST);
    rest.end()?;
    match told {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        Err(RecvTimeoutError::Timeout) => Err(IsolationError::Io {
            context: "keep the root's file system at rest".to_owned(),
            source: io::Error::from(io::ErrorKind::TimedOut),
        }),
    }
}

/// What a word comes to.
pub(super) async fn heard(word: Word) -> Result<(), IsolationError> {
    word.await.unwrap_or_else(|_| Err(refused("the thread that held it is gone")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_rest_is_told_and_holds_nobody_up() {
        let freezer = Freezer::new(Path::new("/proc"), Arc::default());
        let mut rest = freezer.rest();
        assert!(freezer.thaw().is_err());
        for _ in 0..2 {
            let error = heard(freezer.freeze().unwrap()).await.unwrap_err();
            assert!(matches!(error, IsolationError::Layer(_)), "{error}");
            rest.over().await;
        }
        assert!(heard(freezer.thaw().unwrap()).await.is_err());
    }
}
