//! The guest's side of freezing files. A thread freezes the file system of the sandbox's root, and thaws it when the agent
//! receives the request, when the agent exits, or at the latest after [`LONGEST`].
//!
//! Meanwhile the agent's own thread must not wait for that file system, because it could then not receive the request to thaw.
//! During a freeze it therefore neither writes nor closes files of the sandbox: closing a removed file deletes it.

use agentd_core::IsolationError;
use agentd_kernel::freeze::AtRest;
use agentd_log::LogFailure as _;
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

/// The longest time for which the file system is frozen. Processes that write to it block and cannot be killed meanwhile. A disk
/// of a few gigabytes is copied in less time.
const LONGEST: Duration = Duration::from_secs(30);

/// Receives the result of a freeze or a thaw.
pub(super) type Word = oneshot::Receiver<Result<(), IsolationError>>;

/// Freezes and thaws the file system of a sandbox's root.
pub(super) struct Freezer {
    root: PathBuf,
    resting: Mutex<Option<Resting>>,
    /// True while the file system is frozen or about to be.
    rests: Arc<watch::Sender<bool>>,
}

struct Resting {
    /// Requests the thread to thaw. Dropping this sender has the same effect.
    go_on: mpsc::Sender<()>,
    /// The result of the freeze: `Ok` if the file system stayed frozen until the thaw was requested.
    ended: Word,
}

/// Waits while the file system is frozen.
#[derive(Clone)]
pub(super) struct Rest(watch::Receiver<bool>);

impl Rest {
    /// Waits until the file system is not frozen. The agent has one thread, so the file system stays unfrozen until the caller
    /// awaits again.
    pub(super) async fn over(&mut self) {
        // The channel closes when the freezer is dropped; the file system is not frozen then either.
        self.0.wait_for(|rests| !rests).await.or_debug("wait for the file system to be thawed", "guest");
    }
}

fn refused(reason: &str) -> IsolationError {
    IsolationError::Invalid { what: "freeze or thaw of the root's file system".to_owned(), reason: reason.to_owned() }
}

impl Freezer {
    /// Creates a freezer for the file system of `root`. `rests` publishes whether it is frozen.
    pub(super) fn new(root: &Path, rests: Arc<watch::Sender<bool>>) -> Self {
        Self { root: root.to_path_buf(), resting: Mutex::default(), rests }
    }

    fn resting(&self) -> MutexGuard<'_, Option<Resting>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rest(&self) -> Rest {
        Rest(self.rests.subscribe())
    }

    /// Starts to freeze the file system. Never blocks; the returned receiver yields the result once the file system is frozen.
    pub(super) fn freeze(&self) -> Result<Word, IsolationError> {
        let mut resting = self.resting();
        // A freeze that has ended by itself does not count.
        if resting.as_mut().is_some_and(|resting| matches!(resting.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))) {
            return Err(refused("the file system is already frozen"));
        }
        let (root, rests) = (self.root.clone(), self.rests.clone());
        let (go_on, thaw_requested) = mpsc::channel();
        let (frozen, word) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        // Before the thread starts, so that nothing writes to the file system in between.
        self.rests.send_replace(true);
        let thread = std::thread::Builder::new().name("freezer".to_owned()).spawn(move || {
            let held = hold(&root, frozen, &thaw_requested);
            // Before waiting tasks continue, because they may request another freeze.
            ending.send(held).or_unreceived("end of a freeze");
            rests.send_replace(false);
        });
        if let Err(source) = thread {
            self.rests.send_replace(false);
            return Err(IsolationError::Io { context: "start a thread".to_owned(), source });
        }
        *resting = Some(Resting { go_on, ended });
        Ok(word)
    }

    /// Thaws the file system, as soon as it is frozen. Never blocks; the returned receiver yields whether it stayed frozen until
    /// this request.
    pub(super) fn thaw(&self) -> Result<Word, IsolationError> {
        let resting = self.resting().take().ok_or_else(|| refused("the file system is not frozen"))?;
        // If the thread has ended, the file system is thawed already.
        resting.go_on.send(()).or_unreceived("request to thaw");
        Ok(resting.ended)
    }
}

/// Keeps the file system frozen until a thaw is requested.
fn hold(
    root: &Path,
    frozen: oneshot::Sender<Result<(), IsolationError>>,
    thaw_requested: &mpsc::Receiver<()>,
) -> Result<(), IsolationError> {
    let rest = match AtRest::begin(root) {
        Ok(rest) => rest,
        Err(error) => {
            frozen.send(Err(error.into())).or_unreceived("failure to freeze");
            return Err(refused("the file system could not be frozen"));
        }
    };
    frozen.send(Ok(())).or_unreceived("start of a freeze");
    let thaw_requested = thaw_requested.recv_timeout(LONGEST);
    rest.end()?;
    match thaw_requested {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        Err(RecvTimeoutError::Timeout) => Err(IsolationError::Io {
            context: "keep the root's file system frozen".to_owned(),
            source: io::Error::from(io::ErrorKind::TimedOut),
        }),
    }
}

/// Waits for the result of a freeze or a thaw.
pub(super) async fn recv_word(word: Word) -> Result<(), IsolationError> {
    word.await.unwrap_or_else(|_| Err(refused("the freezer thread ended without a result")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_freeze_reports_error_and_blocks_no_writer() {
        let freezer = Freezer::new(Path::new("/proc"), Arc::default());
        let mut rest = freezer.rest();
        assert!(freezer.thaw().is_err());
        for _ in 0..2 {
            let error = recv_word(freezer.freeze().unwrap()).await.unwrap_err();
            assert!(matches!(error, IsolationError::Control(_)), "{error}");
            rest.over().await;
        }
        assert!(recv_word(freezer.thaw().unwrap()).await.is_err());
    }
}
