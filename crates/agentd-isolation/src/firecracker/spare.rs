//! A Firecracker that is started ahead, for the next restore: starting it, in its jailer, takes as long as all the rest of one. It knows no
//! snapshot and no machine, and serves one sandbox only, once.

use super::{FirecrackerBackend, size::Size, vm::Vm};
use agentd_core::IsolationError;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// How long it is not begun with: what was asked for before, and what comes right after a restore, goes first.
const REST: Duration = Duration::from_millis(300);

/// One that will be there, or is. Dropped, it ends.
pub(super) struct Spare {
    /// What says that it is wanted now; dropped, that it is not wanted any more.
    wanted: oneshot::Sender<()>,
    started: JoinHandle<Option<Vm>>,
}

impl Spare {
    /// Has one started in a while.
    pub(super) fn begin(backend: Arc<FirecrackerBackend>, size: Size) -> Self {
        let (wanted, mut is_wanted) = oneshot::channel();
        let started = tokio::spawn(async move {
            if let Ok(Err(_)) = timeout(REST, &mut is_wanted).await {
                return None;
            }
            // Where none can be started, the restore says why.
            backend.empty(size).await.ok()
        });
        Self { wanted, started }
    }

    /// A machine that goes on in it from a snapshot; `None` where that is not possible, which may be possible in another one.
    pub(super) async fn load(self, snapshot: &Path) -> Option<Vm> {
        let vm = self.take().await?;
        if vm.load(snapshot).await.is_ok() {
            return Some(vm);
        }
        // Somebody may have killed it meanwhile. What stays of it is removed when the next one is made.
        vm.destroy().await.ok();
        None
    }

    async fn take(self) -> Option<Vm> {
        // It is started already, then.
        self.wanted.send(()).ok();
        self.started.await.ok().flatten()
    }

    /// Ends it, and waits until nothing of it is left.
    pub(super) async fn destroy(self) -> Result<(), IsolationError> {
        drop(self.wanted);
        match self.started.await {
            Ok(Some(vm)) => vm.destroy().await,
            // There was none, or there is no runtime any more.
            _ => Ok(()),
        }
    }
}
