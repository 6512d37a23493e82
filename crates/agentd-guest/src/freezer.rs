//! The guest's side of freezing files. A thread freezes the file system of the sandbox's root, and thaws it when the agent
//! receives the request, when the agent exits, or at the latest after [`MAX_FREEZE`].
//!
//! During that time, the agent's own thread must not wait for that file system, because it could then not receive the request to
//! thaw. During a freeze it therefore neither writes nor closes files of the sandbox: closing a removed file deletes it.

use agentd_core::IsolationError;
use agentd_kernel::freeze::FrozenFileSystem;
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

/// The maximum time for which the file system is frozen. During that time, processes that write to the file system block and
/// cannot be killed. A disk of a few gigabytes is copied in less time.
const MAX_FREEZE: Duration = Duration::from_secs(30);

/// Receives the result of a freeze or a thaw.
pub(super) type PendingResult = oneshot::Receiver<Result<(), IsolationError>>;

/// Freezes and thaws the file system of a sandbox's root.
pub(super) struct Freezer {
    root: PathBuf,
    ongoing: Mutex<Option<OngoingFreeze>>,
    /// True while the file system is frozen or about to be.
    frozen_flag: Arc<watch::Sender<bool>>,
}

/// A freeze whose thread has been started.
struct OngoingFreeze {
    /// Requests the thread to thaw. Dropping this sender has the same effect.
    request_thaw: mpsc::Sender<()>,
    /// The result of the freeze: `Ok` if the file system stayed frozen until the thaw was requested.
    ended: PendingResult,
}

/// Waits while the file system is frozen.
#[derive(Clone)]
pub(super) struct ThawWaiter(watch::Receiver<bool>);

impl ThawWaiter {
    /// Waits until the file system is not frozen. The agent has one thread, so the file system stays unfrozen until the caller
    /// awaits again.
    pub(super) async fn wait(&mut self) {
        // The channel closes when the freezer is dropped; the file system is not frozen then either.
        self.0.wait_for(|is_frozen| !is_frozen).await.or_debug("wait for the file system to be thawed", "guest");
    }
}

/// Returns the error of a request to thaw a file system that is not frozen.
fn not_frozen(reason: &str) -> IsolationError {
    IsolationError::Protocol(format!("thaw the root's file system: {reason}"))
}

impl Freezer {
    /// Creates a freezer for the file system of `root`. `frozen_flag` publishes whether it is frozen.
    pub(super) fn new(root: &Path, frozen_flag: Arc<watch::Sender<bool>>) -> Self {
        Self { root: root.to_path_buf(), ongoing: Mutex::default(), frozen_flag }
    }

    fn ongoing(&self) -> MutexGuard<'_, Option<OngoingFreeze>> {
        self.ongoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a value that waits while the file system is frozen.
    pub(super) fn thaw_waiter(&self) -> ThawWaiter {
        ThawWaiter(self.frozen_flag.subscribe())
    }

    /// Starts to freeze the file system. Never blocks; the returned receiver yields the result once the file system is frozen.
    pub(super) fn freeze(&self) -> Result<PendingResult, IsolationError> {
        let mut ongoing = self.ongoing();
        // A freeze that has ended by itself does not count.
        if ongoing.as_mut().is_some_and(|ongoing| matches!(ongoing.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))) {
            return Err(IsolationError::Busy("the file system of its root is frozen for another snapshot".to_owned()));
        }
        let (root, frozen_flag) = (self.root.clone(), self.frozen_flag.clone());
        let (request_thaw, thaw_requested) = mpsc::channel();
        let (frozen, result) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        // The flag is set before the thread starts, so that nothing writes to the file system in between.
        self.frozen_flag.send_replace(true);
        let thread = std::thread::Builder::new().name("freezer".to_owned()).spawn(move || {
            let ended = keep_frozen(&root, frozen, &thaw_requested);
            // The end is reported before waiting tasks continue, because they may request another freeze.
            ending.send(ended).or_unreceived("end of a freeze");
            frozen_flag.send_replace(false);
        });
        if let Err(source) = thread {
            self.frozen_flag.send_replace(false);
            return Err(IsolationError::Io { context: "start a thread".to_owned(), source });
        }
        *ongoing = Some(OngoingFreeze { request_thaw, ended });
        Ok(result)
    }

    /// Thaws the file system, as soon as it is frozen. Never blocks; the returned receiver yields whether it stayed frozen until
    /// this request.
    pub(super) fn thaw(&self) -> Result<PendingResult, IsolationError> {
        let ongoing = self.ongoing().take().ok_or_else(|| not_frozen("the file system is not frozen"))?;
        // If the thread has ended, the file system is thawed already.
        ongoing.request_thaw.send(()).or_unreceived("request to thaw");
        Ok(ongoing.ended)
    }
}

/// Keeps the file system frozen until a thaw is requested.
fn keep_frozen(
    root: &Path,
    frozen: oneshot::Sender<Result<(), IsolationError>>,
    thaw_requested: &mpsc::Receiver<()>,
) -> Result<(), IsolationError> {
    let file_system = match FrozenFileSystem::freeze(root) {
        Ok(file_system) => file_system,
        Err(error) => {
            frozen.send(Err(error.into())).or_unreceived("failure to freeze");
            return Err(not_frozen("the file system could not be frozen"));
        }
    };
    frozen.send(Ok(())).or_unreceived("start of a freeze");
    let thaw_requested = thaw_requested.recv_timeout(MAX_FREEZE);
    file_system.thaw()?;
    match thaw_requested {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        Err(RecvTimeoutError::Timeout) => Err(IsolationError::Io {
            context: "keep the root's file system frozen".to_owned(),
            source: io::Error::from(io::ErrorKind::TimedOut),
        }),
    }
}

/// Waits for the result of a freeze or a thaw.
pub(super) async fn recv_result(result: PendingResult) -> Result<(), IsolationError> {
    let ended = || IsolationError::Internal("freeze the root's file system: the thread ended without a result".to_owned());
    result.await.unwrap_or_else(|_| Err(ended()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_freeze_reports_error_and_blocks_no_writer() {
        let freezer = Freezer::new(Path::new("/proc"), Arc::default());
        let mut waiter = freezer.thaw_waiter();
        assert!(freezer.thaw().is_err());
        for _ in 0..2 {
            let error = recv_result(freezer.freeze().unwrap()).await.unwrap_err();
            assert!(matches!(error, IsolationError::Control(_)), "{error}");
            waiter.wait().await;
        }
        let thawed = recv_result(freezer.thaw().unwrap()).await;
        assert!(matches!(thawed, Err(IsolationError::Protocol(_))), "{thawed:?}");
    }

    #[tokio::test]
    async fn errors_of_a_freeze_name_a_state_and_not_a_request() {
        let freezer = Freezer::new(Path::new("/proc"), Arc::default());
        assert!(matches!(freezer.thaw(), Err(IsolationError::Protocol(_))));
        let (ending, ended) = oneshot::channel();
        *freezer.ongoing() = Some(OngoingFreeze { request_thaw: mpsc::channel().0, ended });
        assert!(matches!(freezer.freeze(), Err(IsolationError::Busy(_))));
        drop(ending);
        let thawed = recv_result(freezer.thaw().unwrap()).await;
        assert!(matches!(thawed, Err(IsolationError::Internal(_))), "{thawed:?}");
    }
}
