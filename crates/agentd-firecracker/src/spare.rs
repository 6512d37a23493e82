//! A Firecracker process that is started before the next restore, because its start in the jailer takes about half of the time of
//! a restore. If copying the disk is cheap, the process also restores a machine from the most likely snapshot in advance, and
//! pauses it.

use super::{FirecrackerBackend, size::Size, snapshot::Snapshot, vm::Vm};
use agentd_core::IsolationError;
use agentd_log::LogFailure as _;
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// The delay before the start of a spare. Requests that are in progress or follow a restore immediately get the CPU first.
const START_DELAY: Duration = Duration::from_millis(300);

/// A spare that is starting or has started. It ends when dropped.
pub(super) struct Spare {
    /// Ends the delay when a value is sent. When dropped during the delay, the spare is not started.
    start_now: oneshot::Sender<()>,
    started: JoinHandle<StartedSpare>,
    /// The snapshot that is loaded in advance. `None` for a process without a machine, which can load any snapshot.
    preloaded: Option<Arc<Snapshot>>,
}

struct StartedSpare {
    vm: Option<Vm>,
    /// The result of destroying the previous machine and spare.
    ended: Result<(), IsolationError>,
}

/// A spare that ends as soon as possible.
pub(super) struct EndingSpare(JoinHandle<StartedSpare>);

impl EndingSpare {
    /// Waits until the spare, and the machine and the spare before it, have ended.
    async fn end(self) -> Result<(), IsolationError> {
        match self.0.await {
            Ok(StartedSpare { vm: Some(vm), ended }) => vm.destroy().await.and(ended),
            Ok(StartedSpare { vm: None, ended }) => ended,
            // The task was cancelled because the runtime is shutting down.
            Err(_) => Ok(()),
        }
    }
}

/// The previous machine and spare, which are destroyed before a new spare starts. If this value is dropped, they end in the
/// background.
pub(super) struct PreviousMachine {
    /// The paused machine that a restore has replaced.
    pub vm: Option<Arc<Vm>>,
    /// A spare that is not suitable for the next restore.
    pub spare: Option<EndingSpare>,
}

impl PreviousMachine {
    async fn end(self) -> Result<(), IsolationError> {
        let machine = match self.vm {
            Some(vm) => vm.destroy().await,
            None => Ok(()),
        };
        let spare = match self.spare {
            Some(spare) => Box::pin(spare.end()).await,
            None => Ok(()),
        };
        machine.and(spare)
    }
}

impl Spare {
    /// Begins to start a spare: waits [`START_DELAY`], destroys `previous`, and starts a Firecracker process. Restores the
    /// machine from `snapshot` if its disk is small enough.
    pub(super) fn begin(backend: FirecrackerBackend, size: Size, snapshot: &Arc<Snapshot>, previous: PreviousMachine) -> Self {
        let (start_now, mut is_started_now) = oneshot::channel();
        let preloaded = snapshot.can_preload().then(|| snapshot.clone());
        let snapshot = preloaded.clone();
        let started = tokio::spawn(async move {
            let asked = timeout(START_DELAY, &mut is_started_now).await;
            let ended = previous.end().await;
            if let Ok(Err(_)) = asked {
                return StartedSpare { vm: None, ended };
            }
            let vm = match snapshot {
                Some(snapshot) => load_paused(&backend, size, &snapshot).await,
                None => backend.empty(size).await,
            };
            // Without a spare, the restore starts its own Firecracker, and reports the error if that also fails.
            let vm = vm.or_debug("start spare Firecracker", size);
            StartedSpare { vm, ended }
        });
        Self { start_now, started, preloaded }
    }

    /// Returns whether a restore of `snapshot` can use this spare: the spare has loaded that snapshot, or no snapshot.
    pub(super) fn serves(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.preloaded.as_ref().is_none_or(|preloaded| Arc::ptr_eq(preloaded, snapshot))
    }

    /// Returns whether this spare need not be replaced for `snapshot`: it has loaded no snapshot, and a new spare would not load
    /// this one either.
    pub(super) fn suits(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.preloaded.is_none() && !snapshot.can_preload()
    }

    /// Returns the running machine of `snapshot`, which this spare must serve. Returns `None` if that fails; the caller can then
    /// try another Firecracker.
    pub(super) async fn load(self, snapshot: &Snapshot) -> Option<Vm> {
        // An error means that the delay has ended, and that the spare is starting or has started.
        self.start_now.send(()).or_unreceived("request to start a spare machine");
        let vm = self.started.await.ok()?.vm?;
        let goes_on = match self.preloaded {
            Some(_) => vm.pause(false).await,
            None => vm.load(snapshot.folder()).await,
        };
        if goes_on.is_ok() {
            return Some(vm);
        }
        // The Firecracker may have been killed in the meantime. If its files cannot be removed, the start of the next machine
        // removes them.
        vm.destroy().await.or_warn("destroy spare machine", "firecracker");
        None
    }

    /// Ends the spare, and waits until the spare and the machine and spare before it have ended.
    pub(super) async fn destroy(self) -> Result<(), IsolationError> {
        self.give_up().end().await
    }

    /// Ends the spare without waiting.
    pub(super) fn give_up(self) -> EndingSpare {
        drop(self.start_now);
        EndingSpare(self.started)
    }
}

/// Restores a machine from a snapshot and pauses it.
async fn load_paused(backend: &FirecrackerBackend, size: Size, snapshot: &Snapshot) -> Result<Vm, IsolationError> {
    let vm = backend.resume(snapshot.folder(), size).await?;
    match vm.pause(true).await {
        Ok(()) => Ok(vm),
        Err(error) => {
            // The error of `pause` is the cause to report, so a failure to destroy the machine is only logged.
            vm.destroy().await.or_warn("destroy spare machine", "firecracker");
            Err(error)
        }
    }
}
