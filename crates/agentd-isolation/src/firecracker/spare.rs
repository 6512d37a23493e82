//! A Firecracker that is started ahead, for the next restore: starting it, in its jailer, takes as long as all the rest of one. Its machine
//! has gone back ahead, too, to what a restore will most likely go back to, and waits, stopped.

use super::{FirecrackerBackend, size::Size, snapshot::Snapshot, vm::Vm};
use agentd_core::IsolationError;
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// How long it is not begun with: what was asked for before, and what comes right after a restore, goes first.
const REST: Duration = Duration::from_millis(300);

/// One that will be there, or is. Dropped, it ends.
pub(super) struct Spare {
    /// What says that it is wanted now; dropped, that it is not wanted any more.
    wanted: oneshot::Sender<()>,
    started: JoinHandle<Started>,
    /// What its machine goes back to ahead; `None` for one without a machine, which serves for all.
    ahead: Option<Arc<Snapshot>>,
}

struct Started {
    vm: Option<Vm>,
    /// How what was left before has ended.
    ended: Result<(), IsolationError>,
}

/// A spare that ends as soon as it can.
pub(super) struct Unwanted(JoinHandle<Started>);

impl Unwanted {
    /// Waits until nothing of it is left, nor of what was left before.
    async fn end(self) -> Result<(), IsolationError> {
        match self.0.await {
            Ok(Started { vm: Some(vm), ended }) => vm.destroy().await.and(ended),
            Ok(Started { vm: None, ended }) => ended,
            // There is no runtime any more.
            Err(_) => Ok(()),
        }
    }
}

/// What is to end before another one begins. Dropped, it ends, and nobody waits for that.
pub(super) struct Left {
    /// A machine that a restore has left, stopped.
    pub vm: Option<Arc<Vm>>,
    /// A spare that could not serve.
    pub spare: Option<Unwanted>,
}

impl Left {
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
    /// Has one started in a while, when nothing is `left` of what was before. A machine goes back ahead to a snapshot whose disk does not
    /// make that dear.
    pub(super) fn begin(backend: Arc<FirecrackerBackend>, size: Size, snapshot: &Arc<Snapshot>, left: Left) -> Self {
        let (wanted, mut is_wanted) = oneshot::channel();
        let ahead = snapshot.suits_ahead().then(|| snapshot.clone());
        let snapshot = ahead.clone();
        let started = tokio::spawn(async move {
            let asked = timeout(REST, &mut is_wanted).await;
            let ended = left.end().await;
            if let Ok(Err(_)) = asked {
                return Started { vm: None, ended };
            }
            // Where none can be started, the restore says why.
            let vm = match snapshot {
                Some(snapshot) => waiting(&backend, size, &snapshot).await.ok(),
                None => backend.empty(size).await.ok(),
            };
            Started { vm, ended }
        });
        Self { wanted, started, ahead }
    }

    /// Whether a restore of that snapshot may take it.
    pub(super) fn serves(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.ahead.as_ref().is_none_or(|ahead| Arc::ptr_eq(ahead, snapshot))
    }

    /// Whether it will do as well as one that is begun for that snapshot.
    pub(super) fn suits(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.ahead.is_none() && !snapshot.suits_ahead()
    }

    /// A machine that goes on in it from a snapshot that it serves; `None` where that is not possible, which may be possible in another one.
    pub(super) async fn load(self, snapshot: &Snapshot) -> Option<Vm> {
        // It is started already, then.
        self.wanted.send(()).ok();
        let vm = self.started.await.ok()?.vm?;
        let goes_on = match self.ahead {
            Some(_) => vm.pause(false).await,
            None => vm.load(snapshot.folder()).await,
        };
        if goes_on.is_ok() {
            return Some(vm);
        }
        // Somebody may have killed it meanwhile. What stays of it is removed when the next one is made.
        vm.destroy().await.ok();
        None
    }

    /// Ends it, and waits until nothing of it is left, nor of what was left before.
    pub(super) async fn destroy(self) -> Result<(), IsolationError> {
        self.give_up().end().await
    }

    /// Has it end; does not wait.
    pub(super) fn give_up(self) -> Unwanted {
        drop(self.wanted);
        Unwanted(self.started)
    }
}

/// A machine that has gone back to a snapshot, and is stopped.
async fn waiting(backend: &FirecrackerBackend, size: Size, snapshot: &Snapshot) -> Result<Vm, IsolationError> {
    let vm = backend.resume(snapshot.folder(), size).await?;
    match vm.pause(true).await {
        Ok(()) => Ok(vm),
        Err(error) => {
            // The first error is the one to tell.
            vm.destroy().await.ok();
            Err(error)
        }
    }
}
