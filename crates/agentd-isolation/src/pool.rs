//! A warm pool: sandboxes of one spec that are created in advance, so that a caller does not wait for creation.
//!
//! The invariant: **no sandbox is handed out twice**. A taken sandbox does not return to the pool; the caller destroys it. An
//! idle sandbox has run no command. `state` decides the next step as a pure function of its values, `refill` carries it out in
//! the background, and this file is the interface for callers and the owner.

mod refill;
mod state;

use crate::grants;
use agentd_core::{IsolationBackend, IsolationError, Sandbox, SandboxSpec, Writable};
use agentd_log::measure::CountedFact;
use state::PoolState;
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, RwLock, Semaphore},
    task::AbortHandle,
};

/// The size of a pool, and how fast it is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLimits {
    /// The number of idle sandboxes that are kept. Each consists of a waiting process, its namespaces and an empty tmpfs.
    pub idle: usize,
    /// The maximum number of sandboxes that are created concurrently, by callers and in the background together. If many callers
    /// arrive at once, they queue.
    pub create_permits: NonZeroUsize,
    /// The time that a full pool waits after a take before it refills. Creating a sandbox occupies both processors of a small
    /// machine, which the caller needs for the sandbox it has just taken. Once started, refilling continues until the pool is
    /// full.
    pub refill_delay: Duration,
    /// The age at which an idle sandbox is replaced; an older one is never handed out, because its view of the host is that of
    /// its creation. At least one second, so that the background task does more than replace sandboxes.
    pub max_age: Duration,
}

/// The minimum of [`PoolLimits::max_age`].
const MIN_MAX_AGE: Duration = Duration::from_secs(1);

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle: 2,
            create_permits: NonZeroUsize::MIN,
            refill_delay: Duration::from_millis(5),
            max_age: Duration::from_secs(60),
        }
    }
}

/// A pool of idle sandboxes of one spec on one backend, refilled in the background. A used sandbox is never handed out again.
///
/// # What an idle sandbox shows
///
/// An idle sandbox shows the host as of its creation, at most [`PoolLimits::max_age`] ago: the directories below `/`, the mounted
/// file systems, and the layers of an image. A directory that the host creates later is missing; one that the host mounts over
/// later still shows the old content.
///
/// The grants are pinned to the objects that their paths named when the pool was created. Once such an object is replaced, no
/// further sandbox can be created. The content of visible files is the host's current content, as in any running sandbox. Every
/// idle sandbox has the same grants: share a writable grant only among callers that may read each other's files.
///
/// # Shutdown
///
/// [`SandboxPool::drain`] destroys the idle sandboxes and waits for the result. Dropping the pool destroys them without waiting.
/// In both cases, taken sandboxes belong to their callers.
///
/// For a complete program, see `crates/agentd/examples/pool.rs`.
pub struct SandboxPool {
    shared: Arc<SharedPool>,
    refill: AbortHandle,
}

/// The state shared by callers and the background task.
struct SharedPool {
    backend: Arc<dyn IsolationBackend>,
    spec: SandboxSpec,
    state: Mutex<PoolState<Arc<dyn Sandbox>>>,
    /// One permit for each sandbox that may be under creation.
    create_permits: Semaphore,
    /// Read-locked by every task that holds a sandbox which is neither in the pool nor handed out yet; write-locked by `drain`.
    in_flight: RwLock<()>,
    /// Wakes the background task to look at the state again.
    work: Notify,
    /// Wakes the callers of [`SandboxPool::filled`] to look at the state again.
    changed: Notify,
}

impl SandboxPool {
    /// Creates a pool of sandboxes of `spec` on `backend`, which starts to fill immediately. The pool and its sandboxes are bound
    /// to the current tokio runtime. All sandboxes of the pool are granted the objects that the grant paths name now.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a `writable` other than memory, refused grants or limits, or a call outside a tokio
    /// runtime. Errors of the backend are returned by [`SandboxPool::filled`] and [`SandboxPool::take`].
    pub fn new(backend: Arc<dyn IsolationBackend>, mut spec: SandboxSpec, limits: PoolLimits) -> Result<Self, IsolationError> {
        let invalid = |what: &str, reason: &str| IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() };
        if spec.writable != Writable::Memory {
            let reason = "sandboxes of a pool keep their changes in memory — use Writable::Memory, or call create_sandbox()";
            return Err(invalid("storage of changes", reason));
        }
        if limits.max_age < MIN_MAX_AGE {
            return Err(invalid("max_age", "the maximum age of an idle sandbox is less than one second — set a longer one"));
        }
        grants::pin(&mut spec)?;
        let runtime = Handle::try_current()
            .map_err(|_| invalid("pool", "SandboxPool::new() was called outside of a tokio runtime — create the pool in one"))?;
        let create_permits = Semaphore::new(limits.create_permits.get().min(Semaphore::MAX_PERMITS));
        let shared = Arc::new(SharedPool {
            backend,
            spec,
            state: Mutex::new(PoolState::new(limits, Instant::now())),
            create_permits,
            in_flight: RwLock::new(()),
            work: Notify::new(),
            changed: Notify::new(),
        });
        let refill = runtime.spawn(refill::run(shared.clone())).abort_handle();
        Ok(Self { shared, refill })
    }

    /// Returns a sandbox that has run no command: a live idle sandbox if there is one. Otherwise creates a sandbox once
    /// [`PoolLimits::create_permits`] allows it. The caller destroys it.
    ///
    /// # Errors
    /// [`IsolationError::PoolDrained`], or the error of the backend if a sandbox had to be created. After such an error the pool
    /// stays usable: the next call tries again.
    pub async fn take(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let shared = &self.shared;
        let _busy = shared.in_flight.read().await;
        if let Some(idle) = shared.idle().await? {
            CountedFact::PoolTake { idle: true }.emit();
            return Ok(idle);
        }
        let _turn = shared.turn().await?;
        // The background task may have added a sandbox in the meantime.
        if let Some(idle) = shared.idle().await? {
            CountedFact::PoolTake { idle: true }.emit();
            return Ok(idle);
        }
        CountedFact::PoolTake { idle: false }.emit();
        let made = shared.backend.create_sandbox(shared.spec.clone()).await?;
        if shared.state().recover(Instant::now()) {
            shared.work.notify_one();
        }
        Ok(made)
    }

    /// Waits until the pool holds [`PoolLimits::idle`] idle sandboxes.
    ///
    /// # Errors
    /// [`IsolationError::PoolDrained`], or the error of the last attempt to fill the pool; each error is returned once. The
    /// background task retries with growing pauses, independently of callers.
    pub async fn filled(&self) -> Result<(), IsolationError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Enabled before the state is checked, so that no wake-up is lost between the check and the wait.
            changed.as_mut().enable();
            if self.shared.state().filled()? {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Stops refilling and destroys the idle sandboxes; returns when nothing is left of them. Waits for takes in progress, which
    /// may still receive the sandbox they are creating; later takes are refused. A second call is not an error.
    ///
    /// # Errors
    /// The first failure to destroy an idle sandbox. The remaining sandboxes are still destroyed.
    pub async fn drain(&self) -> Result<(), IsolationError> {
        self.shared.state().close();
        self.shared.work.notify_one();
        self.shared.changed.notify_waiters();
        let _all_done = self.shared.in_flight.write().await;
        let mut first = Ok(());
        loop {
            // The sandbox stays in the pool until it is destroyed, so that a cancelled drain can be repeated.
            let Some(idle) = self.shared.state().undestroyed().cloned() else { return first };
            let destroyed = idle.destroy().await;
            if let (Err(error), Err(_)) = (&destroyed, &first) {
                tracing::warn!(%error, "failed: destroy idle sandbox");
            }
            first = first.and(destroyed);
            self.shared.state().forget_undestroyed();
        }
    }
}

impl Drop for SandboxPool {
    fn drop(&mut self) {
        self.refill.abort();
        let left = self.shared.state().abandon();
        drop(left);
    }
}

impl SharedPool {
    fn state(&self) -> MutexGuard<'_, PoolState<Arc<dyn Sandbox>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a live idle sandbox, if there is one. Dead ones found on the way are left to the background task.
    async fn idle(&self) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        loop {
            let taken = self.state().take(Instant::now())?;
            // In either case the pool holds fewer sandboxes than its limit.
            self.work.notify_one();
            let Some(idle) = taken else { return Ok(None) };
            if idle.is_alive().await {
                return Ok(Some(idle));
            }
            self.state().discard(idle);
        }
    }

    /// Waits for a permit to create a sandbox.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, IsolationError> {
        // The semaphore is never closed.
        self.create_permits.acquire().await.map_err(|_| IsolationError::PoolDrained)
    }
}
